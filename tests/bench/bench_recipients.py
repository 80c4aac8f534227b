"""Which recipients exist, looked up in a million: `python tests/bench/bench_recipients.py [ROUNDS [RECIPIENTS]]`.

validrcptto.cdb of qmail-newvrt with 10, 1,000, 100,000 and 1,000,000 recipients (at most RECIPIENTS): microseconds for
one that exists, for one that does not, for one with two extensions, and for one at a domain that is not named, in one
process; medians of ROUNDS. The same cdb without the records that only qmail-newvrt writes, as of the patch's program.
bench_smtp's session, with neither list nor program, with a list, and with the cdb, all loaded: CPU of the server.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_smtp import QUICK, SCRIPT, WHERE
from figures import Row, arguments, show
from load import measure

from qmail_smtpd.recipients.listed import Listed, Lists
from tcprules.compile import write_cdb

PROGRAMS = Path(sys.executable).parent
SIZES = (10, 1000, 100_000, 1_000_000)
CALLS = 20_000  # look-ups of each kind in a round
AIM = "<= 20.0 us"
SESSIONS = 400


def recipient(number: int) -> bytes:
    return b"user%d@d%d.example" % (number, number % 100)


def questions(count: int) -> dict[str, list[bytes]]:
    """Return recipients of each kind."""
    step = max(1, count // CALLS)
    numbers = [number * step % count for number in range(CALLS)]
    return {
        "exists": [recipient(number) for number in numbers],
        "unknown": [b"nobody%d@d%d.example" % (number, number % 10) for number in numbers],
        "unknown, two dashes": [b"no-body-%d@d%d.example" % (number, number % 10) for number in numbers],
        "domain not named": [b"u%d@elsewhere.example" % number for number in numbers],
    }


def microseconds(listed: Listed, recipients: list[bytes]) -> float:
    """Return the time of one look-up."""
    verdict = listed.verdict
    started = time.perf_counter()
    for address in recipients:
        verdict(address)
    return (time.perf_counter() - started) / len(recipients) * 1e6


def look_ups(name: str, count: int, rounds: int, aim: str) -> list[Row]:
    """Measure the cdb in the current directory."""
    listed = Listed(Lists(lambda name, text: None))
    found = []
    for kind, recipients in questions(count).items():
        microseconds(listed, recipients)  # the file is in memory from here on
        value = median(microseconds(listed, recipients) for _ in range(rounds))
        found.append(Row(f"recipients: {name}, {count:,}, {kind}", value, "us", aim=aim))
    listed.close()
    return found


def cdbs(rounds: int, most: int) -> list[Row]:
    found = []
    for count in (size for size in SIZES if size <= most):
        with tempfile.TemporaryDirectory() as home:
            os.mkdir(f"{home}/control")
            os.chdir(home)
            text = b"".join(recipient(number) + b"\n" for number in range(count))
            Path("control/validrcptto").write_bytes(text)
            subprocess.run([PROGRAMS / "qmail-newvrt"], env={"QMAILHOME": home}, check=True)
            found += look_ups("cdb", count, rounds, AIM)
            Path("control/validrcptto").unlink()
            path = b"control/validrcptto.cdb"
            write_cdb(path, path + b".tmp", ((recipient(number), b"") for number in range(count)))
            found += look_ups("cdb of the patch", count, rounds, "-")
            os.chdir("/")
    return found


def sessions(rounds: int) -> list[Row]:
    """Measure the CPU of whole sessions."""
    with tempfile.TemporaryDirectory() as top:
        lines = {}
        for name in ("no list", "list", "cdb"):
            home = Path(top) / name.replace(" ", "-")
            (home / "control").mkdir(parents=True)
            (home / "control/me").write_text("mx.example.com\n")
            (home / "control/rcpthosts").write_text("example.com\n")
            if name != "no list":
                text = "one@example.com\ntwo@example.com\n" + "".join(f"u{n}@example.com\n" for n in range(1000))
                (home / "control/validrcptto").write_text(text)
            if name == "cdb":
                subprocess.run([PROGRAMS / "qmail-newvrt"], env={"QMAILHOME": str(home)}, check=True)
            server = [str(PROGRAMS / "tcpserver"), *QUICK, *WHERE, str(PROGRAMS / "qmail-smtpd")]
            lines[name] = ["/usr/bin/env", f"QMAILHOME={home}", "SMTPD_LOG=none", *server]
        time.sleep(2)  # files that have just been written are not cached (control.py, SETTLED)
        figures = measure(lines, rounds, SESSIONS, script=SCRIPT)
    alone = figures["no list"].cost
    return [
        Row(f"recipients: session, {name}, CPU", figure.cost, "ms", alone, "no list")
        for name, figure in figures.items()
        if name != "no list"
    ]


def main() -> None:
    rounds, most = arguments(5, SIZES[-1])
    show(rows(rounds, most), f"medians of {rounds} rounds")


def rows(rounds: int, most: int) -> list[Row]:
    return cdbs(rounds, most) + sessions(rounds)


if __name__ == "__main__":
    main()
