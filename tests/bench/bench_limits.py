"""What counting a relayed recipient costs: `python tests/bench/bench_limits.py [ROUNDS [BATCHES [ENTRIES]]]`.

CPU and time that control/relaylimits adds to a session with one relayed recipient, with the directory store and with a
Redis on this host that holds 10 counters and ENTRIES; the servers in turns. Needs redis-server.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_relay import BATCH, PROGRAMS, in_turns
from bench_smtp import QUICK, WHERE
from figures import Row, arguments, show

from qmail_smtpd.relay.redisscripts import COUNT_PREFIX
from tests.kit.peers.redisserver import PROGRAM, RedisServer

ALONE = "without limits"
SCRIPT = [b"HELO client.example\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@away.test>\r\n", b"RSET\r\n", b"QUIT\r\n"]
AIM = "<= 0.25 ms"
PIPELINE = 10_000


def fill(server: RedisServer, count: int) -> None:
    """Create this many counters of other addresses."""
    client = server.client()
    for start in range(0, count, PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + PIPELINE, count)):
                pipeline.hset((COUNT_PREFIX + b"address:{n%d}:3600" % number).decode(), "29000000", "1")
            pipeline.execute()


def home(folder: Path, name: str, **control: str) -> str:
    """Create a qmail home. Return its path."""
    path = folder / name
    (path / "control").mkdir(parents=True)
    for file, text in {"me": "mx.example.com\n", "rcpthosts": "example.com\n", **control}.items():
        (path / "control" / file).write_text(text)
    return str(path)


def rows(rounds: int, batches: int, entries: int) -> list[Row]:
    if not os.path.exists(PROGRAM):
        return [Row(f"limits: {PROGRAM} is missing", None, "")]
    found = []
    limits = ".: 100000000/3600 200000000/86400\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "relay/counts").mkdir(parents=True)
        (folder / "full").mkdir()
        with RedisServer(folder) as small, RedisServer(folder / "full") as full:
            fill(small, 10)
            fill(full, entries)
            homes = {
                ALONE: home(folder, "alone"),
                "directory": home(folder, "directory", relaylimits=limits, relaydir=f"{folder}/relay\n"),
                "Redis, 10 entries": home(folder, "redis", relaylimits=limits, relaystore=f"{small.url}\n"),
                f"Redis, {entries:,} entries": home(folder, "many", relaylimits=limits, relaystore=f"{full.url}\n"),
            }
            os.environ.update(SMTPD_LOG="none", RELAYCLIENT="")
            server = [str(PROGRAMS / "tcpserver"), *QUICK, *WHERE, str(PROGRAMS / "qmail-smtpd")]
            commands = {store: ["/usr/bin/env", f"QMAILHOME={path}", *server] for store, path in homes.items()}
            results = in_turns(commands, SCRIPT, rounds * batches)
    cpu_alone, time_alone = results.pop(ALONE)
    for store, (cpu, milliseconds) in results.items():
        found += [
            Row(f"limits: {store}, CPU that a relayed recipient adds", cpu - cpu_alone, "ms", aim=AIM),
            Row(f"limits: {store}, time of a session", milliseconds, "ms", time_alone, ALONE),
        ]
    return found


def main() -> None:
    rounds, batches, entries = arguments(5, 20, 1_000_000)
    show(rows(rounds, batches, entries), f"{rounds} rounds, {batches} batches of {BATCH} sessions each")


if __name__ == "__main__":
    main()
