"""The tools of ucspi-tcp: `python tests/bench/bench_tools.py [ROUNDS [BATCHES [MEGABYTES]]]`.

The throughput of addcr, delcr and fixcrio on so many megabytes of mail in a file, beside the C programs', in turns.
What rblsmtpd with one list adds to bench_smtp's session, for clients that are not listed, all programs loaded, BATCHES
of them in each round; the C rblsmtpd in the same chain beside it. The name server is one of the tests' (needs root for
its port), and its CPU is not counted.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_relay import in_turns
from bench_smtp import QUICK, SCRIPT, WHERE
from figures import Peer, Row, arguments, show

from tests.kit.peers.listserver import ListServer

PROGRAMS = Path(sys.executable).parent
C = Path("/usr/bin")
LINE = b"Received: from mx.example.com (192.0.2.1) by mail.example.org; a line of a message, as mail has them\r\n"
FILTERS = {"addcr": [], "delcr": [], "fixcrio": ["cat"]}
NAME_SERVER = "127.66.53.1"
LISTS = ["-r", "list.example"]
ALONE, OURS, THEIRS = "qmail-smtpd alone", "rblsmtpd", "C rblsmtpd"


def seconds(run: Callable[[], object]) -> float:
    """Return the time of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def filters(rounds: int, megabytes: int) -> list[Row]:
    """Return the megabytes per second of the filters, from a file to /dev/null."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/mail"
        with open(path, "wb") as mail:
            for _ in range(megabytes):
                mail.write(LINE * (1_000_000 // len(LINE)))

        def once(program: str, words: list[str]) -> None:
            with open(path, "rb") as mail:
                subprocess.run([program, *words], stdin=mail, stdout=subprocess.DEVNULL, check=True)

        for name, words in FILTERS.items():
            there = (C / name).exists()
            times: dict[str, list[float]] = {"ours": [], "theirs": []}
            for _ in range(rounds):
                times["ours"].append(seconds(lambda: once(str(PROGRAMS / name), words)))  # noqa: B023
                if there:
                    times["theirs"].append(seconds(lambda: once(str(C / name), words)))  # noqa: B023
            theirs = megabytes / median(times["theirs"]) if there else None
            peer = Peer(f"C {name}", "" if there else "not installed")
            ours = megabytes / median(times["ours"])
            found.append(Row(f"tools: {name}, {megabytes:,} MB", ours, "MB/s", theirs, str(peer), ">= 0.5 x"))
    return found


def sessions(batches: int) -> list[Row]:
    """Return what a session costs behind rblsmtpd, ours and C's."""
    tcpserver, smtpd = str(PROGRAMS / "tcpserver"), str(PROGRAMS / "qmail-smtpd")
    commands = {
        ALONE: [tcpserver, *QUICK, *WHERE, smtpd],
        OURS: [tcpserver, *QUICK, *WHERE, str(PROGRAMS / "rblsmtpd"), *LISTS, smtpd],
    }
    if (C / "rblsmtpd").exists():
        commands[THEIRS] = [tcpserver, *QUICK, *WHERE, str(C / "rblsmtpd"), *LISTS, smtpd]
    with tempfile.TemporaryDirectory() as home, ListServer(NAME_SERVER, {}) as names:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, SMTPD_LOG="none", DNSCACHEIP=NAME_SERVER)
        results = in_turns(commands, SCRIPT, batches)
        assert names.asked
    cpu, milliseconds = results[OURS]
    alone = results[ALONE]
    c_cpu, c_milliseconds = results.get(THEIRS, (None, None))
    return [
        Row("tools: session behind rblsmtpd, not listed, CPU", cpu, "ms", alone[0], ALONE, "<= 1.5 x"),
        Row("tools: session behind rblsmtpd, not listed, time", milliseconds, "ms", alone[1], ALONE),
        Row("tools: session behind rblsmtpd, not listed, CPU", cpu, "ms", c_cpu, THEIRS),
        Row("tools: session behind rblsmtpd, not listed, time", milliseconds, "ms", c_milliseconds, THEIRS),
    ]


def rows(rounds: int, batches: int, megabytes: int) -> list[Row]:
    return filters(rounds, megabytes) + (sessions(rounds * batches) if os.geteuid() == 0 else [])


def main() -> None:
    rounds, batches, megabytes = arguments(5, 10, 1000)
    show(rows(rounds, batches, megabytes), f"{rounds} rounds, {batches} batches of 50 sessions each, 20 at once")


if __name__ == "__main__":
    main()
