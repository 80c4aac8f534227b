"""What tcprules costs beside Debian's: seconds, memory and microseconds per rule, from 1,000 to 1,000,000 rules.

    .venv/bin/python tests/bench/bench_tcprules.py [ROUNDS]

Medians of ROUNDS (3) rounds, all in one run; both write the same bytes, which is checked. Start-up (an empty rules
file) is taken off before the cost per rule is told. Below: what tcprulescheck --replay needs for 10,000 log lines, and
what cdblib's writer alone needs for a million records.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cdblib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support import peer, script

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LOG_LINES = 10_000
MEGABYTE = 1024  # of ru_maxrss


def address(number: int) -> bytes:
    return b"10.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)


def write_rules(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for number in range(count - 1):
            file.write(b'%b:allow,RELAYCLIENT=""\n' % address(number))
        file.write(b":allow\n" if count else b"")


def run(command: list[str], stdin: Path, cwd: Path) -> tuple[float, float]:
    """Seconds, and megabytes at the peak (not below what this program itself has: the kernel counts from the fork)."""
    with stdin.open("rb") as given, open(os.devnull, "wb") as null:
        start = time.perf_counter()
        actions = [
            (os.POSIX_SPAWN_DUP2, given.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, null.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, null.fileno(), 2),
        ]
        child = os.posix_spawn("/usr/bin/env", ["env", f"--chdir={cwd}", *command], os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - start
    assert status == 0, command
    return seconds, usage.ru_maxrss / MEGABYTE


def median(once: Callable[[], tuple[float, float]], rounds: int) -> tuple[float, float]:
    results = [once() for _ in range(rounds)]
    return statistics.median(seconds for seconds, _ in results), max(memory for _, memory in results)


def cdblib_alone(count: int) -> float:
    records = [(address(number), b"+RELAYCLIENT=\0") for number in range(count)]
    start = time.perf_counter()
    with cdblib.Writer(io.BytesIO()) as writer:
        for key, data in records:
            writer.put(key, data)
    return time.perf_counter() - start


def compare(directory: Path, rounds: int) -> None:
    original, ours = peer("/usr/bin/tcprules"), script("tcprules")
    source = directory / "rules"
    idle = 0.0
    print(f"{'rules':>9} {'0.88 s':>8} {'ours s':>8} {'ratio':>7} {'us/rule':>8} {'ours MB':>8}")
    for count in (0, *SIZES):
        write_rules(source, count)
        theirs, _ = median(lambda: run([original, "0.88.cdb", "0.88.tmp"], source, directory), rounds)
        seconds, memory = median(lambda: run([ours, "ours.cdb", "ours.tmp"], source, directory), rounds)
        assert (directory / "0.88.cdb").read_bytes() == (directory / "ours.cdb").read_bytes()
        idle = idle or seconds
        each = f"{(seconds - idle) / count * 1e6:8.2f}" if count else " " * 8
        print(f"{count:9,} {theirs:8.3f} {seconds:8.3f} {seconds / theirs:6.1f}x {each} {memory:8.0f}", flush=True)


def replay(directory: Path, rounds: int) -> None:
    log = directory / "log"
    line = b"tcpserver: ok %d 0:192.0.2.9:25 host%d.example.com:%b:joe:40000\n"
    log.write_bytes(b"".join(line % (n, n, address(n * 997 % 1_500_000)) for n in range(LOG_LINES)))
    for options in (["--replay"], ["--replay", "--against", "0.88.cdb"]):
        command = [script("tcprulescheck"), *options, "ours.cdb"]
        seconds, memory = median(lambda command=command: run(command, log, directory), rounds)
        print(f"tcprulescheck {' '.join(options)}, {LOG_LINES:,} log lines: {seconds:.2f} s, {memory:.0f} MB")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), rounds)
        replay(Path(name), rounds)
    print(f"cdblib's writer alone, {SIZES[-1]:,} records: {cdblib_alone(SIZES[-1]):.2f} s")


if __name__ == "__main__":
    main()
