"""The cost of relayreport: `python tests/bench/bench_report.py [ROUNDS [MEGABYTES]]`.

Time, CPU time and memory for logs of 1, 10 and 100 MB (at most MEGABYTES): simulated days of 10,000 sessions
(tests/kit/logs/traffic.py), one after the other, with the stamps of multilog. The same as JSON at 10 MB, and a log with
a new address and a new name in each line, which fills all tables. Medians of the rounds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from figures import Row, arguments, show

PROGRAM = str(Path(sys.executable).parent / "relayreport")
SIZES = (1, 10, 100)  # megabytes
MEGABYTE = 1_000_000
RSS = 1024  # in the units of ru_maxrss
AIM_SECONDS, AIM_MEMORY = "<= 20 s", "<= 200 MB"
FLOOD = (
    b"@%016x00000000 qmail-smtpd: event=login pid=%d ip=%d.%d.%d.%d tls=TLSv1.3 helo=h%d.example"
    b" result=%b reason=password mechanism=PLAIN user=user%d@example.org\n"
    b"@%016x00000000 qmail-smtpd: event=queued pid=%d ip=%d.%d.%d.%d tls=TLSv1.3 helo=h%d.example"
    b" sender=s@d%d.example recipients=1 bytes=4096 qp=1 relay=login user=user%d@example.org\n"
)
TAI = 2**62 + 10 + 1795478400


class Cost(NamedTuple):
    seconds: float
    cpu: float
    memory: float


def write(kind: str, path: str, megabytes: int) -> None:
    """Write a log. In a process of its own, because a child's peak of memory is never below its parent's."""
    with open(path, "wb") as file:
        if kind == "flood":
            write_flood(file, megabytes * MEGABYTE)
        else:
            write_days(file, megabytes * MEGABYTE, kind == "json")


def write_days(file, size: int, as_json: bool) -> None:  # type: ignore[no-untyped-def]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
    from tests.kit.logs import traffic

    clients = traffic.day(min(10_000, max(500, size // 800)))
    lines = (traffic.objects if as_json else traffic.text)(clients).splitlines(True)
    day = 0
    while True:
        for line in lines:
            if as_json:
                text = b'{"time": %d%b' % (int(line[9:19]) + day * 86400, line[19:])
            else:
                text = b"@%016x%b" % (int(line[1:17], 16) + day * 86400, line[17:])
            size -= file.write(text)
            if size <= 0:
                return
        day += 1


def write_flood(file, size: int) -> None:  # type: ignore[no-untyped-def]
    number = 0
    while size > 0:
        number += 1
        address = 1 + (number >> 24), number >> 16 & 255, number >> 8 & 255, number & 255
        result = b"yes" if number % 2 else b"no"
        first = (TAI + number, number, *address, number, result, number)
        size -= file.write(FLOOD % (*first, TAI + number, number, *address, number, number, number))


def measure(log: str) -> Cost:
    """Run relayreport once."""
    with open(os.devnull, "wb") as null:
        start = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, null.fileno(), 1)]
        child = os.posix_spawn(PROGRAM, [PROGRAM, "--json", log], os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - start
    assert status == 0, log
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / RSS)


def median(log: str, rounds: int) -> Cost:
    results = [measure(log) for _ in range(rounds)]
    return Cost(*map(statistics.median, zip(*results, strict=True)))


def case(directory: str, kind: str, megabytes: int, rounds: int) -> Cost:
    log = f"{directory}/{kind}-{megabytes}"
    subprocess.run([sys.executable, __file__, "write", kind, log, str(megabytes)], check=True)
    cost = median(log, rounds)
    os.unlink(log)
    return cost


def rows(rounds: int, most: int) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as directory:
        costs = {size: case(directory, "text", size, rounds) for size in SIZES if size <= most}
        for size, cost in costs.items():
            aims = (AIM_SECONDS, AIM_MEMORY) if size == SIZES[-1] else ("-", "-")
            title = f"report: {size} MB of log"
            found += [
                Row(title, cost.seconds, "s", aim=aims[0]),
                Row(f"{title}, CPU", cost.cpu, "s"),
                Row(f"{title}, memory", cost.memory, "MB", aim=aims[1]),
            ]
        if len(costs) > 1:
            (before, first), (size, last) = list(costs.items())[-2:]
            found.append(
                Row(
                    f"report: CPU of a megabyte, {size} MB beside {before} MB", last.cpu / size, "s", first.cpu / before
                )
            )
        for kind, megabytes in (("json", SIZES[1]), ("flood", SIZES[-1])):
            if megabytes <= most:
                cost = case(directory, kind, megabytes, rounds)
                name = {"json": "as JSON", "flood": "of names that are all new"}[kind]
                found += [
                    Row(f"report: {megabytes} MB {name}", cost.seconds, "s", aim=AIM_SECONDS),
                    Row(f"report: {megabytes} MB {name}, memory", cost.memory, "MB", aim=AIM_MEMORY),
                ]
    return found


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        write(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    rounds, most = arguments(3, SIZES[-1])
    show(rows(rounds, most), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
