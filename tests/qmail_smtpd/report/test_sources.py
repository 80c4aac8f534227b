"""Where a log is read from, and from which time on: files, gzip, a directory of multilog, standard input."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.logs import traffic
from tests.kit.support import peer, script

ENVIRON = {"PATH": os.environ["PATH"], "TZ": "UTC"}


def relayreport(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [script("relayreport"), *map(str, words)]
    return subprocess.run(command, input=stdin, env=ENVIRON, capture_output=True)


def totals(*words: object, stdin: bytes = b"") -> dict[str, int]:
    done = relayreport("--json", *words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return dict(json.loads(done.stdout)["totals"])


@pytest.fixture(scope="module")
def log() -> bytes:
    return traffic.text(traffic.day(60, incident=False))


@pytest.fixture(scope="module")
def expected(log: bytes) -> dict[str, int]:
    found = totals(stdin=log)
    assert found["connections"] == 60
    return found


def halves(log: bytes) -> tuple[bytes, bytes]:
    lines = log.splitlines(True)
    return b"".join(lines[: len(lines) // 2]), b"".join(lines[len(lines) // 2 :])


def test_standard_input_and_a_dash(log: bytes, expected: dict[str, int]) -> None:
    assert totals("-", stdin=log) == expected


def test_a_directory_of_multilog_in_its_order(log: bytes, expected: dict[str, int], tmp_path: Path) -> None:
    first, second = halves(log)
    first, third = halves(first)
    (tmp_path / "@400000006b0546a100000000.s").write_bytes(first)
    (tmp_path / "@400000006b0546a200000000.u").write_bytes(third)
    (tmp_path / "current").write_bytes(second)
    (tmp_path / "state").write_bytes(log)
    assert totals(tmp_path) == expected


def test_copies_without_their_times_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    begin, end = b"1795507863 tcpserver: pid 7 from 192.0.2.1\n", b"1795507963 tcpserver: end 7 status 0\n"
    for age, (name, data) in enumerate((("@400000006b0546a100000000.s", begin), ("@400000006b0546a200000000.s", end))):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    sections = json.loads(relayreport("--json", tmp_path).stdout)["sections"]
    assert sections["durations"]["rows"] == [{"time": "up to 300 s", "connections": 1}]


def test_rotated_files_are_read_from_the_oldest_on(log: bytes, expected: dict[str, int], tmp_path: Path) -> None:
    for age, (name, data) in enumerate(zip(("log", "log.1"), reversed(halves(log)), strict=True)):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    (tmp_path / "log.1.gz").write_bytes(gzip.compress((tmp_path / "log.1").read_bytes()))
    os.utime(tmp_path / "log.1.gz", (10**9 - 1, 10**9 - 1))
    assert totals(tmp_path / "log", tmp_path / "log.1") == expected
    assert totals(tmp_path / "log", tmp_path / "log.1.gz") == expected


def test_broken_gzip_is_read_as_far_as_it_goes(log: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(log)[:-2000])
    done = relayreport("--json", tmp_path / "log.gz")
    assert done.returncode == 0
    assert b"log.gz is broken gzip, and is read up to there: " in done.stderr


def test_from_a_time_on(log: bytes, tmp_path: Path) -> None:
    noon = traffic.MIDNIGHT + 12 * 3600
    clients = traffic.day(60, incident=False)
    found = totals("--since", "2026-11-24T12:00", stdin=log)
    assert found["connections"] == sum(client.when >= noon for client in clients)
    assert totals("--since", "2026-11-24T12:00+00:00", stdin=log) == found
    assert totals("--since", "2026-11-25", stdin=log)["connections"] == 0


def test_what_cannot_be_read_is_a_clear_line(tmp_path: Path) -> None:
    done = relayreport("--json", tmp_path / "none")
    assert done.returncode == 111
    assert done.stderr == f"relayreport: fatal: unable to read {tmp_path}/none: file does not exist\n".encode()
    done = relayreport("--json", tmp_path)
    assert done.returncode == 111
    assert done.stderr == f"relayreport: fatal: {tmp_path} has no log: neither current nor @*.s\n".encode()


@pytest.mark.parametrize("since", ["", "7", "7x", "yesterday", "2026-99-01", "\u0667d", "\x1b[2J"])
def test_a_time_that_is_none_is_a_clear_line(since: str) -> None:
    done = relayreport("--since", since)
    assert done.returncode == 100
    assert done.stderr.endswith(b"neither like 24h or 7d nor like 2026-11-24T08:00 (relayreport --help)\n")
    assert b"\x1b" not in done.stderr


@pytest.mark.peer
def test_what_multilog_writes_and_rotates(log: bytes, expected: dict[str, int], tmp_path: Path) -> None:
    plain = b"".join(line[26:] for line in log.splitlines(True))
    peer("/usr/bin/multilog")
    subprocess.run(["multilog", "t", "s4096", "n100", str(tmp_path / "log")], input=plain, check=True)
    assert len(list((tmp_path / "log").glob("@*.s"))) > 2
    assert totals(tmp_path / "log") == expected
