"""POP-before-SMTP: `python tests/bench/bench_relay.py [ROUNDS [BATCHES [ENTRIES [SECONDS]]]]`.

Logins and checks per second in one process, with 10, 1,000, 100,000 and 1,000,000 entries (at most ENTRIES), in both
kinds of store, but no more than 100,000 in vpopmail's list; medians of ROUNDS. What relay-check adds to bench_smtp's
session and to one that stores a message of 4 kB, all programs loaded, the servers in turns, BATCHES of them in each
round. Eight writers and an expiring process at full speed for SECONDS, and the entries that they lost.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_smtp import QUICK, SCRIPT, WHERE
from bench_store import MESSAGE
from figures import Row, arguments, show
from load import Server, settled, try_out, visit

from qmail_smtpd.relay.entry import Entry, compose
from qmail_smtpd.relay.openlist import RULE
from qmail_smtpd.relay.store import Store
from tests.kit.relayhome import Home
from tests.kit.relaystress import stress

PROGRAMS = Path(sys.executable).parent
SIZES = (10, 1000, 100_000, 1_000_000)
LONGEST_LIST = 100_000  # vpopmail's list is read from its beginning
CALLS = ("login again", "new address", "check, live", "check, none")
ALONE = "qmail-smtpd alone"
WINDOW = 2400
MIN_SECONDS = 0.3  # for which each figure is measured in each round
MIN_CALLS = 3
BATCH, AT_ONCE = 50, 20
CPU_AIM = "<= 1.05 x"  # what relay-check may add
RULES = '10.:allow,SCAN="1"\n:allow\n'


def address(number: int) -> bytes:
    return b"10.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)


def fill(home: Home, count: int) -> None:
    """Create this many live entries."""
    now = int(time.time())
    if b"RELAY_STORE" in home.environ:
        (home.store / "tcp.smtp").write_text(RULES)
        (home.store / "open-smtp").write_bytes(b"".join(RULE % (address(number), now) for number in range(count)))
        home.open(None).expire()
        return
    for number in range(count):
        entry = Entry(address(number), b"joe@example.com", b"pop3", now, now + WINDOW)
        (home.store / entry.address.decode()).write_bytes(compose(entry))


def rate(call: Callable[[int], object]) -> float:
    """Return the calls per second. Each call gets its own number."""
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < MIN_SECONDS or done < MIN_CALLS:
        call(done)
        done += 1
    return done / passed


def rates(store: Store, count: int) -> list[float]:
    """Measure repeated logins, logins from new addresses, checks with and without an entry."""
    known = [address(random.randrange(count)) for _ in range(1000)]
    return [
        rate(lambda number: store.allow(known[number % 1000], b"joe@example.com", b"pop3")),
        rate(lambda number: store.allow(b"172.16.%d.%d" % (number >> 8 & 255, number & 255), b"joe", b"pop3")),
        rate(lambda number: store.check(known[number % 1000])),
        rate(lambda number: store.check(b"192.0.2.7")),
    ]


def stores(rounds: int, most: int) -> list[Row]:
    found = []
    for kind in ("directory", "open-smtp"):
        for count in (size for size in SIZES if size <= (most if kind == "directory" else min(most, LONGEST_LIST))):
            with tempfile.TemporaryDirectory() as folder:
                home = Home(Path(folder) / "home", kind)
                fill(home, count)
                os.sync()  # otherwise the first login would wait for these writes
                measured = [rates(home.open(None), count) for _ in range(rounds)]
            for call, column in zip(CALLS, zip(*measured, strict=True), strict=True):
                found.append(Row(f"relay: {kind}, {count:,} entries, {call}", median(column), "/s"))
    return found


def servers(home: Path) -> dict[str, list[str]]:
    """Return tcpserver with qmail-smtpd alone, and after relay-check, for clients without and with an entry."""
    ours, smtpd, check = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd", "relay-check"))
    with_check = [ours, *QUICK, *WHERE, check, smtpd]
    return {
        ALONE: [ours, *QUICK, *WHERE, smtpd],
        "relay-check, no entry": ["/usr/bin/env", f"RELAY_DIR={home}/empty", *with_check],
        "relay-check, live entry": with_check,
    }


def in_turns(
    commands: dict[str, list[str]], script: list[bytes], batches: int, sessions: int = BATCH
) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of CPU and of time per session. All servers run at once, and are used in turns."""
    running = {name: Server(command) for name, command in commands.items()}
    for server in running.values():
        try_out(server.port, script)
        visit(server.port, sessions, AT_ONCE, script)
    before = {name: settled(server.pid) for name, server in running.items()}
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(batches):
        for name in random.sample(list(running), len(running)):
            times[name].append(visit(running[name].port, sessions, AT_ONCE, script))
    results = {}
    for name, server in running.items():
        cpu = (settled(server.pid) - before[name]) / batches / sessions * 1000
        results[name] = cpu, median(times[name]) / sessions * 1000
        server.stop()
    return results


def session(batches: int) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("control", "relay", "empty"):
            (home / name).mkdir()
        (home / "control/me").write_text("mx.example.com\n")
        (home / "control/rcpthosts").write_text("example.com\n")
        entry = Entry(b"127.0.0.1", b"joe@example.com", b"pop3", int(time.time()), int(time.time()) + 86400)
        (home / "relay/127.0.0.1").write_bytes(compose(entry))
        os.environ.update(QMAILHOME=folder, SMTPD_LOG="none", RELAY_DIR=f"{home}/relay", RELAY_PROXIES="::1")
        os.environ.update(QMAILQUEUE=str(PROGRAMS / "maildir-queue"), QUEUE_MAILDIR=f"{home}/Maildir")
        scripts = {
            "no message": (SCRIPT, batches),
            "one message stored": ([b"HELO client.example\r\n", *MESSAGE, b"QUIT\r\n"], max(batches // 3, 1)),
        }
        for title, (script, count) in scripts.items():
            results = in_turns(servers(home), script, count)
            cpu_alone, time_alone = results.pop(ALONE)
            for name, (cpu, milliseconds) in results.items():
                found += [
                    Row(f"relay: {title}, {name}, CPU", cpu, "ms", cpu_alone, ALONE, CPU_AIM),
                    Row(f"relay: {title}, {name}, time", milliseconds, "ms", time_alone, ALONE),
                ]
    return found


def run_stress(seconds: int) -> list[Row]:
    found = []
    for kind, vchkpw in (("directory", 0), ("open-smtp", 2)):
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder) / "home", kind)
            if vchkpw:
                (home.store / "tcp.smtp").write_text(RULES)
            outcome = stress(home, seconds, 8, vchkpw)
        title = f"relay: {kind}, 8 writers, {seconds} s"
        found += [
            Row(f"{title}, logins", outcome.logins / seconds, "/s"),
            Row(f"{title}, refused without the lock", outcome.refused, "logins"),
            Row(f"{title}, lost", len(outcome.lost), "entries", aim="<= 0 entries"),
        ]
    return found


def rows(rounds: int, batches: int, entries: int, seconds: int) -> list[Row]:
    return stores(rounds, entries) + session(rounds * batches) + run_stress(seconds)


def main() -> None:
    rounds, batches, entries, seconds = arguments(5, 20, SIZES[-1], 20)
    note = f"{rounds} rounds, {batches} batches of {BATCH} sessions each, {AT_ONCE} at once"
    show(rows(rounds, batches, entries, seconds), note)


if __name__ == "__main__":
    main()
