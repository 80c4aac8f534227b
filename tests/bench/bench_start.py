"""The cost of an exec'd qmail-smtpd before its first byte: `python tests/bench/bench_start.py [ROUNDS [STARTS]]`.

The console script until the first byte of 220, compared with the same interpreter with `-c pass`, in turns, medians of
all starts.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import Row, arguments, show


def until_first_byte(argv: list[str]) -> float:
    """Return the milliseconds from the start of a program to its first byte, or to its end if it prints nothing."""
    started = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        os.read(process.stdout.fileno(), 1)
        passed = time.perf_counter() - started
    return passed * 1000


def rows(rounds: int, starts: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, TCPREMOTEIP="192.0.2.1")
        script = str(Path(sys.executable).parent / "qmail-smtpd")
        bare, smtpd = [], []
        for _ in range(rounds * starts):
            bare.append(until_first_byte([sys.executable, "-c", "pass"]))
            smtpd.append(until_first_byte([script]))
    return [
        Row("start: exec'd qmail-smtpd, first byte", median(smtpd), "ms", median(bare), "python -c pass"),
        Row("start: the difference", median(smtpd) - median(bare), "ms", aim="<= 6.0 ms"),
    ]


def main() -> None:
    rounds, starts = arguments(5, 20)
    show(rows(rounds, starts), f"medians of {rounds * starts} starts")


if __name__ == "__main__":
    main()
