"""recordio and fixcrio: what they copy and log, the program's pid and status, and that no speed or stall stops them."""

import os
import re
import subprocess
import sys
import threading

import pytest

from tcpserver.tools import recordio
from tests.kit.pairs import PATH, both, run
from tests.kit.server import PATIENCE
from tests.kit.support import script

BIG = 4_000_000  # bytes: more than all pipes on the way hold
ECHO_LATE = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data)"
ECHO_BOTH = "import os\nwhile data := os.read(0, 65536): os.write(1, data + data)"


def lines_of(log: bytes) -> set[bytes]:
    """The lines of a log without pids; in a set, as two directions have no order."""
    return set(re.sub(rb"(?m)^\d+ ", b"", log).splitlines())


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (b"a\n", [b"1 < a \n"]),
        (b"a\nb\n", [b"1 < a \n", b"1 < b \n"]),
        (b"a", [b"1 < a+\n"]),
        (b"\n\n\xff\0\r", [b"1 <  \n", b"1 <  \n", b"1 < \xff\0\r+\n"]),
    ],
)
def test_a_line_of_the_log_shows_whether_it_is_complete(piece: bytes, expected: list[bytes]) -> None:
    assert recordio.log_lines(b"1 < ", piece) == expected


def test_lines_are_written_in_batches_that_a_pipe_takes_whole() -> None:
    lines = [b"%d\n" % number for number in range(5000)]
    found = recordio.batches(lines)
    assert b"".join(found) == b"".join(lines)
    assert all(len(batch) <= 4096 and batch.endswith(b"\n") for batch in found)


def test_the_program_keeps_the_pid_and_its_status_is_the_exit_status() -> None:
    process = subprocess.Popen(
        [script("recordio"), "sh", "-c", "echo $$; read line; echo $line; cat; exit 7"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH},
    )
    out, log = process.communicate(b"hello\n", PATIENCE)
    pid = b"%d" % process.pid
    assert out == pid + b"\nhello\n"
    assert process.returncode == 7
    assert {pid + b" < hello ", pid + b" < [EOF]", pid + b" > hello ", pid + b" > [EOF]"} <= set(log.splitlines())


def test_long_packets_are_logged_in_pieces_of_256_bytes() -> None:
    done = run(script("recordio"), ["sh", "-c", "cat >/dev/null"], b"x" * 600)
    pieces = re.findall(rb"(?m)^\d+ < (.*)$", done.stderr)
    assert pieces == [b"x" * 256 + b"+", b"x" * 256 + b"+", b"x" * 88 + b"+", b"[EOF]"]


@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
@pytest.mark.parametrize("program", [ECHO_LATE, ECHO_BOTH], ids=["answers at the end", "answers twice as much"])
def test_neither_direction_waits_for_the_other(name: str, program: str) -> None:
    text = b"0123456789abcdef" * (BIG // 16)
    done = run(script(name), [sys.executable, "-c", program], text)
    assert len(done.stdout) == len(text) * (2 if program == ECHO_BOTH else 1)
    assert done.stdout.startswith(text[:1000])
    assert done.exit == 0


def test_a_stalled_reader_of_the_log_holds_nothing_up() -> None:
    read_end, write_end = os.pipe()  # nobody reads
    command = [script("recordio"), "cat"]
    done = subprocess.run(command, input=b"x\n" * 200_000, stdout=subprocess.PIPE, stderr=write_end, timeout=PATIENCE)
    os.close(write_end)
    os.close(read_end)
    assert done.stdout == b"x\n" * 200_000


def test_fixcrio_ends_with_the_programs_output_while_the_client_sends_nothing() -> None:
    with subprocess.Popen(
        [script("fixcrio"), "sh", "-c", "echo hi; exit 3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.read() == b"hi\r\n"  # to the end, although its input is still open
        assert process.wait(PATIENCE) == 3


def test_a_client_that_stops_reading_ends_the_program() -> None:
    read_end, write_end = os.pipe()
    process = subprocess.Popen([script("fixcrio"), "yes"], stdin=subprocess.DEVNULL, stdout=write_end)
    os.close(write_end)
    os.read(read_end, 10)
    os.close(read_end)
    assert process.wait(PATIENCE) == -13  # SIGPIPE ends `yes`: what Python ignores, the program does not


def test_a_program_reads_while_its_slow_client_reads_nothing() -> None:
    """The program's output fills all buffers, and its input comes through all the same."""
    process = subprocess.Popen(
        [script("fixcrio"), sys.executable, "-c", SPEAKS_THEN_LISTENS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    sender = threading.Thread(target=process.stdin.write, args=(b"y" * BIG,))
    sender.start()
    assert process.stderr.readline() == b"read all\n"  # before we have read anything
    sender.join()
    process.stdout.close()
    process.stdin.close()
    process.stderr.close()
    process.wait(PATIENCE)


SPEAKS_THEN_LISTENS = f"""
import os, sys, threading
threading.Thread(target=lambda: os.write(1, b"x" * {BIG}), daemon=True).start()
got = 0
while got < {BIG}:
    got += len(os.read(0, 65536))
print("read all", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
def test_messages_of_use_and_failure(name: str) -> None:
    assert run(script(name)) == (b"", f"{name}: usage: {name} program [ arg ... ]\n".encode(), 100)
    done = run(script(name), ["no/such"])
    assert f"{name}: fatal: unable to run no/such: file does not exist\n".encode() in done.stderr
    assert done.exit == 111


@pytest.mark.peer
@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], b""),
        (["cat"], b"test\ntest2\n"),
        (["cat"], b"no end"),
        (["cat"], b"\n\r\n\r\r\n\0\xff\x1b"),
        (["sh", "-c", "cat; echo bye; exit 9"], b"\nhi\nthere\r\n"),
        (["sh", "-c", "cat >/dev/null; kill -9 $$"], b"x" * 1000 + b"\n" + b"y" * 700),
        (["sh", "-c", "cat >/dev/null; head -c 1000 /dev/zero | tr '\\0' z"], b""),
        (["no/such"], b""),
    ],
)
def test_recordio_and_fixcrio_do_what_the_originals_do(name: str, words: list[str], text: bytes) -> None:
    ours, original = both(name, words, text)
    assert ours.stdout == original.stdout
    assert ours.exit == original.exit
    # A program that cannot be run may end before or after its input, which is empty.
    unordered = {b"< [EOF]", b"> [EOF]"} if words == ["no/such"] else set()
    assert lines_of(ours.stderr) - unordered == lines_of(original.stderr) - unordered
