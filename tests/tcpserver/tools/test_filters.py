"""addcr, delcr and argv0 as programs: streams, errors, signals, and the same as the C originals."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit.pairs import PATH, both, run
from tests.kit.server import PATIENCE
from tests.kit.support import script

TEXTS = [b"", b"a", b"a\n", b"a\r\n", b"a\r\r\n\n", b"a\r", b"\r", b"\n", b"\0\xff\n" * 100_000 + b"x\r"]


@pytest.mark.peer
@pytest.mark.parametrize("name", ["addcr", "delcr"])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:10]))
def test_the_filters_write_what_the_originals_write(name: str, text: bytes) -> None:
    ours, original = both(name, ["ignored"], text)
    assert ours == original
    assert ours.exit == 0


@pytest.mark.parametrize(("name", "expected"), [("addcr", b"a\r\n"), ("delcr", b"a\n")])
def test_each_piece_is_written_before_the_next_is_read(name: str, expected: bytes) -> None:
    with subprocess.Popen([script(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"a\n")
        assert process.stdout.read(100) == expected
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("name", ["addcr", "delcr"])
def test_a_filter_without_a_reader_dies_by_sigpipe(name: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([script(name)], input=b"a\n", stdout=write_end, stderr=subprocess.PIPE, timeout=PATIENCE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("name", ["addcr", "delcr"])
def test_errors_of_read_and_write_give_111_without_a_message(name: str, tmp_path: Path) -> None:
    command = [script(name)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, input=b"a\n", stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (111, b"")
    with open("/proc/self/mem", "rb") as unreadable:
        done = subprocess.run(command, stdin=unreadable, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (111, b"", b"")


def test_argv0_names_a_program_otherwise() -> None:
    done = run(script("argv0"), ["sh", "zero", "-c", 'echo "$0 $1"', "name", "\udcff"])
    assert done == (b"name \xff\n", b"", 0)
    assert run(script("argv0"), ["cat", "-zero", "/proc/self/cmdline"]).stdout == b"-zero\0/proc/self/cmdline\0"


def test_argv0_runs_no_program_of_another_name() -> None:
    done = run(script("argv0"), ["no/such", "sh", "-c", "echo wrong"])
    assert done == (b"", b"argv0: fatal: unable to run no/such: file does not exist\n", 111)


@pytest.mark.peer
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sh"],
        ["sh", "zero", "-c", "echo $0; exit 7"],
        ["/bin/sh", "-sh", "-c", "tr '\\0' '|' </proc/self/cmdline"],
        ["/", "x"],
        ["/etc/passwd", "x"],
        ["nonexistent", "x"],
    ],
)
def test_argv0_does_what_the_original_does(words: list[str]) -> None:
    ours, original = both("argv0", words)
    assert ours == original


CHAINED = {  # a program of ours that runs another, and the words before that
    "recordio": [],
    "fixcrio": [],
    "rblsmtpd": [],
    "argv0": ["env"],
}


@pytest.mark.peer
@pytest.mark.parametrize("name", CHAINED)
@pytest.mark.parametrize("locale", [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "POSIX"}, {"LC_CTYPE": "C.UTF-8"}], ids=str)
def test_a_program_gets_the_locale_that_was_given(name: str, locale: dict[str, str]) -> None:
    """In the C locale the interpreter sets LC_CTYPE in its own environment (PEP 538)."""
    given = {"FIRST": "1", **locale, "LAST": "2", "RBLSMTPD": "", "TCPREMOTEIP": "192.0.2.1"}
    ours, original = both(name, ["env", *CHAINED[name]], environ=given)
    assert ours.stdout == original.stdout
    assert (b"LC_CTYPE" in ours.stdout) == bool(locale)


@pytest.mark.peer
@pytest.mark.parametrize("path", [PATH, "", "/nonexistent:/bin"])
@pytest.mark.parametrize("name", ["fixcrio", "rblsmtpd", "argv0"])
def test_a_program_without_a_name_gives_the_error_of_the_original(name: str, path: str) -> None:
    given = {"PATH": path, "RBLSMTPD": "", "TCPREMOTEIP": "192.0.2.1"}
    ours, original = both(name, ["", *CHAINED[name]], environ=given)
    assert ours == original
    assert ours.exit == 111
