"""A log that nobody reads, as a full pipe on descriptor 2: every program loses lines, and none waits for ever."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.maildrop import AS_NON_ROOT, ENVIRON, Maildir
from tests.kit.mailhome import CONTROL, MESSAGE, make_home
from tests.kit.server import Server, compiled
from tests.kit.support import script

PATIENCE = 30  # seconds after which a program counts as hung
LINES = 20  # of the log of one session
STALL = 1.0  # seconds that a program waits for the reader, once


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The write end of a pipe that is full, and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


class Case(NamedTuple):
    """A run of a program that logs an error: its words, its input, its exit status, and the end of its output."""

    words: list[str]
    sent: bytes = b""
    exit: int = 111
    output: bytes = b""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A qmail home, the current directory of all programs."""
    home = make_home(tmp_path / "home", {**CONTROL, "relaydir": f"{tmp_path}/none\n", "databytes": "x\n"})
    Maildir(home / "Maildir")
    compiled(home / "r.cdb", ":allow\n")
    return home


REFUSED = b"MAIL FROM:<a@b.test>\r\n" + b"RCPT TO:<u@far.test>\r\n" * LINES + b"QUIT\r\n"
RULES = b"10.0:deny\n" * LINES
AS_ROOT = ["unshare", "--user", "--map-root-user"]
WRONG_PASSWORD = b"USER nobody\r\nPASS x\r\n"

CASES = {
    "qmail-smtpd": Case(["qmail-smtpd"], REFUSED, 0, b"221 mx.example.org\r\n"),
    "qmail-smtpd, no session": Case(
        ["env", "QMAILHOME=/none", "qmail-smtpd"], b"", 1, b"421 unable to read controls (#4.3.0)\r\n"
    ),
    "qmail-popup": Case(
        ["qmail-popup", "h", "/bin/sh", "-c", "exit 1"], WRONG_PASSWORD, 1, b"-ERR authorization failed\r\n"
    ),
    "qmail-popup, no TLS": Case([*AS_NON_ROOT, "env", "POP3S=1", "qmail-popup", "h", "a", "b"]),
    "qmail-pop3d": Case([*AS_ROOT, "qmail-pop3d", "Maildir"], b"", 1),
    "maildir-queue": Case(["sh", "-c", "maildir-queue <r.cdb 1<r.cdb"], b"", 55),
    "sendmail-queue": Case(["sh", "-c", "SENDMAIL= sendmail-queue <r.cdb 1<r.cdb"], b"", 55),
    "qmail-newmrh": Case(["qmail-newmrh"]),
    "qmail-newvrt": Case(["qmail-newvrt"]),
    "rcptcheck-maildir": Case(["rcptcheck-maildir"]),
    "rcptcheck-postfix": Case(["rcptcheck-postfix"]),
    "checkusers": Case(["sh", "-c", "printf 'u\\0p\\0' | checkusers true 3<&0"]),
    "checkdovecot": Case(["sh", "-c", "printf 'u\\0p\\0' | checkdovecot true 3<&0"]),
    "cmd5checkpw": Case(["sh", "-c", "printf 'u\\0p\\0' | POPPASSWD=none cmd5checkpw true 3<&0"]),
    "checkusers --list": Case(["checkusers", "--list"]),
    "relay-allow": Case(["relay-allow", "echo", "on"], b"", 0, b"on\n"),
    "relay-check": Case(["relay-check", "echo", "on"], b"", 0, b"on\n"),
    "clearopensmtp": Case(["clearopensmtp"]),
    "relay-list": Case(["relay-list"]),
    "tcprules": Case(["tcprules", "new.cdb", "new.tmp"], RULES, 0),
    "tcprules, an invalid line": Case(["tcprules", "new.cdb", "new.tmp"], RULES + b"x:y\n", 100),
    "tcprulescheck": Case(["tcprulescheck", "none.cdb"]),
    "relaytest": Case(["relaytest", "--pipe", "/none"]),
    "tcpserver": Case(["tcpserver"], b"", 100),
}


def run(case: Case, home: Path, log: int, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program with this log. Fails if it hangs."""
    path = f"{Path(script('tcpserver')).parent}:/usr/bin:/bin"
    return subprocess.run(
        case.words,
        input=case.sent,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=home,
        env={"PATH": path, "QMAILHOME": str(home), "TCPREMOTEIP": "192.0.2.1", **environ},
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("name", CASES)
def test_a_program_goes_on_when_its_log_is_full(name: str, home: Path, full_pipe: int) -> None:
    case = CASES[name]
    start = time.monotonic()
    done = run(case, home, full_pipe)
    assert time.monotonic() - start > STALL  # it had something to log
    assert done.returncode == case.exit
    assert done.stdout.endswith(case.output)


# A bug, and a program that cannot be loaded: sitecustomize.py breaks it.
BROKEN = {
    "a bug": ("import os; os.fstat = None", "qmail-smtpd", 1),
    "a bug in a checker": ("import os; os.open = None", "checkusers", 111),
    "a bug in relaytest": ("import fnmatch; fnmatch.fnmatchcase = None", "relaytest", 111),
    "a missing module": ("import sys; sys.modules['qmail_smtpd.setup'] = None", "qmail-smtpd", 111),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bug_is_no_reason_to_hang(name: str, home: Path, full_pipe: int) -> None:
    code, program, status = BROKEN[name]
    (home / "sitecustomize.py").write_text(code)
    words = {
        "checkusers": CASES["checkusers"].words,
        "relaytest": ["relaytest", "127.0.0.1:1", "--only", "null/plain"],
    }
    start = time.monotonic()
    case = Case(words.get(program, [program]))
    assert run(case, home, full_pipe, PYTHONPATH=str(home)).returncode == status
    assert time.monotonic() - start > STALL
    done = subprocess.run(
        case.words,
        input=b"",
        capture_output=True,
        cwd=home,
        env={
            "PATH": f"{Path(script('tcpserver')).parent}:/usr/bin:/bin",
            "QMAILHOME": str(home),
            "PYTHONPATH": str(home),
        },
    )
    assert done.returncode == status
    assert (b"Traceback" in done.stderr) == ("bug" in name)


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"], []], ids=["exec'd", "called", "reused"])
def test_a_server_goes_on_serving_when_its_log_is_full(home: Path, full_pipe: int, options: list[str]) -> None:
    (home / "bin/qmail-queue").unlink()
    (home / "bin/qmail-queue").symlink_to(script("maildir-queue"))  # it logs an error: no $QUEUE_MAILDIR
    words = ["-v", "-c", "2", "-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}, stderr=full_pipe) as server:
        for _ in range(3):
            replies = server.ask(MESSAGE.encode() + b"RCPT TO:<u@far.test>\r\nQUIT\r\n")
            assert replies.endswith(
                b"354 go ahead\r\n451 qq unable to read configuration (#4.3.0)\r\n503 MAIL first (#5.5.1)\r\n"
                b"221 mx.example.org\r\n"
            )


@pytest.mark.parametrize("options", [["--exec"], []], ids=["exec'd", "loaded"])
def test_a_pop3_server_goes_on_serving_when_its_log_is_full(home: Path, full_pipe: int, options: list[str]) -> None:
    chain = [script("qmail-popup"), "h", "/bin/sh", "-c", "exit 1"]
    environ = ENVIRON | {"PATH": f"{Path(script('tcpserver')).parent}:/usr/bin:/bin", "QMAILHOME": str(home)}
    words = ["-v", "-c", "2", "-RHl0", *options, "127.0.0.1", "0", *chain]
    with Server(words, environ=environ, cwd=home, stderr=full_pipe) as server:
        for _ in range(3):
            assert server.ask(WRONG_PASSWORD).endswith(b"+OK \r\n-ERR authorization failed\r\n")
