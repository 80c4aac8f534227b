"""The cost of an exec'd qmail-smtpd before its first byte: `python tests/bench/bench_start.py [ROUNDS]`.

The console script until the first byte of 220, compared with the same interpreter with `-c pass`, in turns, medians.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

MAX_MS = 6.0  # the bound on the difference


def until_first_byte(argv: list[str]) -> float:
    """Return the milliseconds from the start of a program to its first byte, or to its end if it prints nothing."""
    started = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        os.read(process.stdout.fileno(), 1)
        passed = time.perf_counter() - started
    return passed * 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 101
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, TCPREMOTEIP="192.0.2.1")
        script = str(Path(sys.executable).parent / "qmail-smtpd")
        pairs = [(until_first_byte([sys.executable, "-c", "pass"]), until_first_byte([script])) for _ in range(rounds)]
    bare, smtpd = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    print(f"medians of {rounds}: bare interpreter {bare:.1f} ms, first byte of 220 {smtpd:.1f} ms,", end=" ")
    print(f"difference {smtpd - bare:.1f} ms (<= {MAX_MS})")


if __name__ == "__main__":
    main()
