"""The cost of tcprules compared with Debian's: `python tests/bench/bench_tcprules.py [ROUNDS [RULES]]`.

Seconds, CPU, memory and microseconds per rule, for 1,000 to 1,000,000 rules (at most RULES). Medians of the rounds, all
in one run. It checks that both write the same bytes. The CPU time per rule is without the start-up (an empty rules
file). Further figures: tcprulescheck --replay for 10,000 log lines, and cdblib's writer alone for RULES records.
"""

import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cdblib
from figures import Row, arguments, installed, show

PROGRAMS = Path(sys.executable).parent
ORIGINAL = "/usr/bin/tcprules"
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


def compare(directory: Path, rounds: int, most: int) -> list[Row]:
    peer = installed("C tcprules", ORIGINAL, "ucspi-tcp")
    program = str(PROGRAMS / "tcprules")
    source = directory / "rules"
    found = []
    start = 0.0
    for count in (0, *(size for size in SIZES if size <= most)):
        write_rules(source, count)
        theirs = None
        if not peer.missing:
            theirs = median(lambda: run([ORIGINAL, "0.88.cdb", "0.88.tmp"], source, directory), rounds)
        ours = median(lambda: run([program, "ours.cdb", "ours.tmp"], source, directory), rounds)
        assert not theirs or (directory / "0.88.cdb").read_bytes() == (directory / "ours.cdb").read_bytes()
        start = start or ours.cpu
        title = f"tcprules: {count:,} rules"
        found += [
            Row(title, ours.seconds, "s", theirs.seconds if theirs else None, str(peer)),
            Row(f"{title}, CPU", ours.cpu, "s", theirs.cpu if theirs else None, str(peer)),
            Row(f"{title}, memory", ours.memory, "MB"),
        ]
        if count:
            found.append(Row(f"{title}, CPU of a rule", (ours.cpu - start) / count * 1e6, "us"))
    return found


def replay(directory: Path, rounds: int) -> list[Row]:
    log = directory / "log"
    line = b"tcpserver: ok %d 0:192.0.2.9:25 host%d.example.com:%b:joe:40000\n"
    log.write_bytes(b"".join(line % (n, n, address(n * 997 % 1_500_000)) for n in range(LOG_LINES)))
    found = []
    for options in (["--replay"], ["--replay", "--against", "old.cdb"]):
        command = [str(PROGRAMS / "tcprulescheck"), *options, "ours.cdb"]
        cost = median(lambda command=command: run(command, log, directory), rounds)
        found.append(Row(f"tcprules: tcprulescheck {' '.join(options)}, {LOG_LINES:,} log lines", cost.seconds, "s"))
    return found


def rows(rounds: int, most: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found = compare(directory, rounds, most)
        shutil.copy(directory / "ours.cdb", directory / "old.cdb")
        found += replay(directory, rounds)
    return [*found, Row(f"tcprules: cdblib's writer alone, {most:,} records, CPU", cdblib_alone(most), "s")]


def main() -> None:
    rounds, most = arguments(3, SIZES[-1])
    show(rows(rounds, most), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
