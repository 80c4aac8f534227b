"""The cost of tcprules compared with Debian's: seconds, CPU, memory and microseconds per rule, for 1,000 to 1,000,000
rules.

    .venv/bin/python tests/bench/bench_tcprules.py [ROUNDS]

Medians of ROUNDS (3) rounds, all in one run. It checks that both write the same bytes. The CPU time per rule is without
the start-up (an empty rules file). Further figures: tcprulescheck --replay for 10,000 log lines, and cdblib's writer
alone for a million records.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cdblib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.kit.support import peer, script

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LOG_LINES = 10_000
MEGABYTE = 1024  # in the units of ru_maxrss


def address(number: int) -> bytes:
    return b"10.%d.%d.%d" % (number >> 16, number >> 8 & 255, number & 255)


def write_rules(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for number in range(count - 1):
            file.write(b'%b:allow,RELAYCLIENT=""\n' % address(number))
        file.write(b":allow\n" if count else b"")


class Cost(NamedTuple):
    """The cost of one process: wall-clock seconds, CPU seconds, peak memory in megabytes.

    The peak is never below this program's own memory, because the kernel counts from the fork.
    """

    seconds: float
    cpu: float
    memory: float


def run(command: list[str], stdin: Path, cwd: Path) -> Cost:
    with stdin.open("rb") as source, open(os.devnull, "wb") as null:
        start = time.perf_counter()
        actions = [
            (os.POSIX_SPAWN_DUP2, source.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, null.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, null.fileno(), 2),
        ]
        child = os.posix_spawn("/usr/bin/env", ["env", f"--chdir={cwd}", *command], os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - start
    assert status == 0, command
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEGABYTE)


def median(measure: Callable[[], Cost], rounds: int) -> Cost:
    results = [measure() for _ in range(rounds)]
    return Cost(*map(statistics.median, zip(*results, strict=True)))


def cdblib_alone(count: int) -> float:
    records = [(address(number), b"+RELAYCLIENT=\0") for number in range(count)]
    start = time.process_time()
    with cdblib.Writer(io.BytesIO()) as writer:
        for key, data in records:
            writer.put(key, data)
    return time.process_time() - start


def compare(directory: Path, rounds: int) -> None:
    original, program = peer("/usr/bin/tcprules"), script("tcprules")
    source = directory / "rules"
    start = 0.0
    print("               seconds                    CPU seconds              ours:")
    columns = ("0.88", "ours", "ratio", "0.88", "ours", "ratio", "us/rule")
    print(f"{'rules':>9} {' '.join(f'{name:>8}' for name in columns)} {'MB':>5}")
    for count in (0, *SIZES):
        write_rules(source, count)
        theirs = median(lambda: run([original, "0.88.cdb", "0.88.tmp"], source, directory), rounds)
        ours = median(lambda: run([program, "ours.cdb", "ours.tmp"], source, directory), rounds)
        assert (directory / "0.88.cdb").read_bytes() == (directory / "ours.cdb").read_bytes()
        start = start or ours.cpu
        each = f"{(ours.cpu - start) / count * 1e6:.2f}" if count else ""
        print(
            f"{count:9,} {theirs.seconds:8.3f} {ours.seconds:8.3f} {ours.seconds / theirs.seconds:7.1f}x"
            f" {theirs.cpu:8.3f} {ours.cpu:8.3f} {ours.cpu / theirs.cpu:7.1f}x {each:>8} {ours.memory:5.0f}",
            flush=True,
        )


def replay(directory: Path, rounds: int) -> None:
    log = directory / "log"
    line = b"tcpserver: ok %d 0:192.0.2.9:25 host%d.example.com:%b:joe:40000\n"
    log.write_bytes(b"".join(line % (n, n, address(n * 997 % 1_500_000)) for n in range(LOG_LINES)))
    for options in (["--replay"], ["--replay", "--against", "0.88.cdb"]):
        command = [script("tcprulescheck"), *options, "ours.cdb"]
        cost = median(lambda command=command: run(command, log, directory), rounds)
        print(
            f"tcprulescheck {' '.join(options)}, {LOG_LINES:,} log lines: {cost.seconds:.2f} s, {cost.cpu:.2f} s of CPU"
        )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), rounds)
        replay(Path(name), rounds)
    print(f"cdblib's writer alone, {SIZES[-1]:,} records: {cdblib_alone(SIZES[-1]):.2f} s of CPU")


if __name__ == "__main__":
    main()
