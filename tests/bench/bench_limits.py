"""What counting a relayed recipient costs: `python tests/bench/bench_limits.py [ROUNDS [BATCHES [ENTRIES]]]`.

CPU and time that control/relaylimits adds to a session with one relayed recipient, with a directory store and with a
Redis on this host, each with 10 counters and with ENTRIES; the servers in turns. The CPU is that of tcpserver and its
workers; what the Redis server needs has a row of its own. Needs redis-server.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_relay import PROGRAMS, in_turns
from bench_smtp import QUICK, WHERE
from figures import Row, arguments, show

from qmail_smtpd.relay.redisscripts import COUNT_PREFIX
from tests.kit.peers.redisserver import PROGRAM, RedisServer

ALONE = "without limits"
SCRIPT = [b"HELO client.example\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@away.test>\r\n", b"RSET\r\n", b"QUIT\r\n"]
AIM = "<= 0.25 ms"
BATCH = 500  # a host that relays is busy: in short batches each server begins with cold caches
PIPELINE = 10_000
FEW = 10


def fill(server: RedisServer, count: int) -> None:
    """Create this many counters of other addresses."""
    client = server.client()
    for start in range(0, count, PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + PIPELINE, count)):
                pipeline.hset((COUNT_PREFIX + b"address:{n%d}:3600" % number).decode(), "29000000", "1")
            pipeline.execute()


def fill_directory(path: Path, count: int) -> None:
    """Create this many counters of other addresses: empty ones, because only their number matters to a look-up."""
    for number in range(count):
        os.close(os.open(path / f"address=n{number}", os.O_CREAT | os.O_WRONLY))


def busy(server: RedisServer) -> float:
    """Return the seconds of CPU that the server has used."""
    used = server.client().info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


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
        for name in ("small/counts", "full/counts"):
            (folder / name).mkdir(parents=True)
        fill_directory(folder / "small/counts", FEW)
        fill_directory(folder / "full/counts", entries)
        with RedisServer(folder / "small") as small, RedisServer(folder / "full") as full:
            fill(small, FEW)
            fill(full, entries)
            homes = {ALONE: home(folder, "alone")}
            for size, server in (("small", small), ("full", full)):
                held = f"{FEW if server is small else entries:,} entries"
                directory, url = f"{folder}/{size}\n", f"{server.url}\n"
                homes[f"directory, {held}"] = home(folder, f"d-{size}", relaylimits=limits, relaydir=directory)
                homes[f"Redis, {held}"] = home(folder, f"r-{size}", relaylimits=limits, relaystore=url)
            os.environ.update(SMTPD_LOG="none", RELAYCLIENT="")
            words = [str(PROGRAMS / "tcpserver"), *QUICK, *WHERE, str(PROGRAMS / "qmail-smtpd")]
            commands = {store: ["/usr/bin/env", f"QMAILHOME={path}", *words] for store, path in homes.items()}
            before = busy(full)
            results = in_turns(commands, SCRIPT, rounds * batches, BATCH)
            of_redis = (busy(full) - before) / (rounds * batches + 1) / BATCH * 1000  # one batch is not measured
    cpu_alone, time_alone = results.pop(ALONE)
    for store, (cpu, milliseconds) in results.items():
        found += [
            Row(f"limits: {store}, CPU that a relayed recipient adds", cpu - cpu_alone, "ms", aim=AIM),
            Row(f"limits: {store}, time of a session", milliseconds, "ms", time_alone, ALONE),
        ]
    return [*found, Row(f"limits: Redis, {entries:,} entries, CPU of the Redis server", of_redis, "ms")]


def main() -> None:
    rounds, batches, entries = arguments(3, 5, 1_000_000)
    show(rows(rounds, batches, entries), f"{rounds} rounds, {batches} batches of {BATCH} sessions each")


if __name__ == "__main__":
    main()
