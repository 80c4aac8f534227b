"""POP-before-SMTP: `python tests/bench/bench_relay.py [stores | session [BATCHES] | stress [SECONDS]]`, or all three.

stores: logins and checks per second in one process, with 10, 1,000 and 100,000 entries, in both kinds of store.
session: what a preloaded relay-check adds to bench_smtp's session and to one that stores a message of 4 kB, the servers
in turns, batch by batch. stress: eight writers and an expiring process at full speed for SECONDS (60), and the entries
that they lost.
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
from load import Server, settle, visit

from qmail_smtpd.relay.entry import Entry, compose
from qmail_smtpd.relay.openlist import RULE
from qmail_smtpd.relay.store import Store
from tests.kit.relayhome import Home
from tests.kit.relaystress import stress

PROGRAMS = Path(sys.executable).parent
SIZES = (10, 1000, 100_000)
WINDOW = 2400
MIN_SECONDS = 1.0  # for which each figure is measured
MIN_CALLS = 3
BATCHES, BATCH, AT_ONCE = 100, 50, 20
MAX_ADDED = 5  # percent of a session's CPU
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


def figures(store: Store, count: int) -> list[float]:
    """Measure repeated logins, logins from new addresses, checks with and without an entry."""
    known = [address(random.randrange(count)) for _ in range(1000)]
    return [
        rate(lambda number: store.allow(known[number % 1000], b"joe@example.com", b"pop3")),
        rate(lambda number: store.allow(b"172.16.%d.%d" % (number >> 8 & 255, number & 255), b"joe", b"pop3")),
        rate(lambda number: store.check(known[number % 1000])),
        rate(lambda number: store.check(b"192.0.2.7")),
    ]


def stores() -> None:
    print(
        f"calls a second, {'entries':>14}{'login again':>14}{'new address':>14}{'check, live':>14}{'check, none':>14}"
    )
    for kind in ("directory", "open-smtp"):
        for count in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                home = Home(Path(folder) / "home", kind)
                fill(home, count)
                os.sync()  # otherwise the first login would wait for these writes
                rates = figures(home.open(None), count)
            print(f"{kind:16}{count:>14}" + "".join(f"{figure:>14,.0f}" for figure in rates), flush=True)


def servers(home: Path) -> dict[str, list[str]]:
    """Return tcpserver with qmail-smtpd alone, and after relay-check, for clients without and with an entry."""
    ours, smtpd, check = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd", "relay-check"))
    loaded = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
    both = [*loaded, "--preload", "relay-check"]
    return {
        "qmail-smtpd alone": [ours, *QUICK, *loaded, *WHERE, smtpd],
        "relay-check, no entry": [
            *("/usr/bin/env", f"RELAY_DIR={home}/empty"),
            *(ours, *QUICK, *both, *WHERE, check, smtpd),
        ],
        "relay-check, live entry": [ours, *QUICK, *both, *WHERE, check, smtpd],
    }


def in_turns(commands: dict[str, list[str]], script: list[bytes], batches: int) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of CPU and of time per session. All servers run at once, and are used in turns."""
    running = {name: Server(command) for name, command in commands.items()}
    for server in running.values():
        visit(server.port, BATCH, AT_ONCE, script)
        settle(server)
    before = {name: server.cpu() for name, server in running.items()}
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(batches):
        for name in random.sample(list(running), len(running)):
            times[name].append(visit(running[name].port, BATCH, AT_ONCE, script))
    results = {}
    for name, server in running.items():
        settle(server)
        cpu = (server.cpu() - before[name]) / batches / BATCH * 1000
        results[name] = cpu, median(times[name]) / BATCH * 1000
        server.stop()
    return results


def session(batches: int = BATCHES) -> None:
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
            "bench_smtp's session": (SCRIPT, batches),
            "one message stored": ([b"HELO client.example\r\n", *MESSAGE, b"QUIT\r\n"], max(batches // 3, 1)),
        }
        for title, (script, count) in scripts.items():
            results = in_turns(servers(home), script, count)
            alone, _ = results["qmail-smtpd alone"]
            print(f"{title}, {count * BATCH} sessions each, {AT_ONCE} at once; bound for the addition: {MAX_ADDED} %")
            for name, (cpu, seconds) in results.items():
                added = (cpu / alone - 1) * 100
                print(f"    {name:26}{cpu:8.3f} ms CPU{seconds:8.3f} ms a session   added {added:5.1f} %", flush=True)


def run_stress(seconds: float = 60) -> None:
    for kind, vchkpw in (("directory", 0), ("open-smtp", 2)):
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder) / "home", kind)
            if vchkpw:
                (home.store / "tcp.smtp").write_text(RULES)
            outcome = stress(home, seconds, 8, vchkpw)
        text = f"{outcome.logins} logins, {outcome.refused} refused without the lock, {outcome.clears} clearings"
        print(
            f"{kind:12} {seconds:.0f} s, 8 writers ({vchkpw} as vchkpw), 1 expiring: {text}, {len(outcome.lost)} lost"
        )


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] == "stores":
        stores()
    if not words or words[0] == "session":
        session(*(int(word) for word in words[1:]))
    if not words or words[0] == "stress":
        run_stress(*(float(word) for word in words[1:]))


if __name__ == "__main__":
    main()
