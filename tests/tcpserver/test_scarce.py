"""A run script's limits on memory, stack, processes and descriptors never switch a rule off."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.server import Server, compiled, needs_root, open_to_all
from tests.kit.support import own_uid, script

NAMES = "=localhost:deny\n:allow\n"
ENOUGH = 24_000_000 if sys.version_info < (3, 13) else 30_000_000  # bytes for a server that asks for names
MEMORY = [ENOUGH, 300_000_000, 3_000_000_000]
NOT_ASKED = b"tcpserver: warning: dropping connection, unable to ask for the client's name: temporary failure\n"
TOO_FEW = b"tcpserver: fatal: unable to open /dev/null: process cannot open more files\n"
NOT_STARTED = re.compile(rb"Fatal Python error|error while loading shared libraries")  # the interpreter itself
DESCRIPTORS = [pytest.param(n, marks=[] if n in (5, 7, 12, 13) else pytest.mark.slow) for n in range(3, 31)]


def softlimit(size: int) -> list[str]:
    """Words before a program that set what `softlimit -m` and `chpst -m` set, except locked memory."""
    return ["prlimit", *(f"--{limit}={size}:{size}" for limit in ("data", "stack", "as"))]


@pytest.mark.parametrize("size", MEMORY)
@pytest.mark.parametrize("option", ["-h", "-p"])
def test_a_rule_for_a_name_holds_under_a_limit_of_memory(size: int, option: str, tmp_path: Path) -> None:
    words = ["-v", "-R", option, "-l0", "-x", str(compiled(tmp_path / "cdb", NAMES)), "127.0.0.1", "0", "echo", "hello"]
    with Server(words, before=softlimit(size)) as server:
        assert server.ask() == b""
        assert b" :127.0.0.1:" not in server.wait_for_log(rb"^tcpserver: deny \d+ 0:127.0.0.1:\d+ localhost:127.0.0.1:")


@pytest.mark.parametrize("size", range(18_000_000, 23_000_000, 1_000_000))
def test_too_little_memory_for_the_start_is_one_line(size: int) -> None:
    words = [*softlimit(size), script("tcpserver"), "-RHl0", "127.0.0.1", "no-such-port", "true"]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert done.returncode == 111
    assert re.fullmatch(rb"tcpserver: fatal: [^\n]+\n", done.stderr)


@pytest.mark.parametrize("more", range(0, 14_000_000, 2_000_000))
def test_a_limit_that_is_enough_for_qmail_smtpd_is_enough_behind_rblsmtpd(more: int, tmp_path: Path) -> None:
    """dnspython takes 13 MB. Where they are not left it is not loaded before the first client."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.example\n")
    rules = compiled(tmp_path / "cdb", '127.0.0.2:allow,RBLSMTPD="-no"\n127.0.0.3:deny\n:allow\n')
    words = ["-RHl0", "-x", str(rules), "127.0.0.1", "0", script("rblsmtpd"), script("qmail-smtpd")]
    with Server(words, before=softlimit(ENOUGH + more), environ={"QMAILHOME": str(tmp_path)}) as server:
        for _ in range(2):
            assert server.ask(b"QUIT\r\n").startswith(b"220 mx.example ")
            assert server.ask(b"QUIT\r\n", source="127.0.0.2").startswith(b"220 rblsmtpd.local\r\n")
            assert server.ask(b"QUIT\r\n", source="127.0.0.3") == b""
        assert b"tcpserver: " not in server.log()


@pytest.mark.parametrize("limit", DESCRIPTORS)
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ("", 8),
        ("--exec -x cdb", 8),
        ("--preload qmail-smtpd", 13),
        ("--preload qmail-smtpd -x cdb", 13),
        ("-v --proxy-from 127.0.0.1 -x cdb --log-format json", 13),
    ],
)
def test_too_few_descriptors_for_the_start_are_one_line(limit: int, options: str, least: int, tmp_path: Path) -> None:
    compiled(tmp_path / "cdb", ":allow\n")
    words = ["-RHl0", *options.split(), "127.0.0.1", "0", "echo", "hello"]
    server = Server(words, cwd=tmp_path, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    try:
        assert bool(server.port) == (limit >= least)
        if server.port:
            assert server.ask() == (b"" if "--proxy-from" in options else b"hello\n")
        elif not NOT_STARTED.search(server.log()):
            assert (server.process.wait(), server.log()) == (111, TOO_FEW)
    finally:
        server.__exit__()


def test_too_few_descriptors_are_not_reported_with_q() -> None:
    limit = ["prlimit", "--nofile=7:7"]
    done = subprocess.run([*limit, script("tcpserver"), "-qRHl0", "127.0.0.1", "0", "true"], capture_output=True)
    assert (done.returncode, done.stderr) == (111, b"")


@needs_root
@pytest.mark.parametrize(
    ("rules", "line", "status"),
    [
        (NAMES, NOT_ASKED, 111),
        ("=:allow\n:deny\n", NOT_ASKED, 111),
        ("joe@=localhost:deny\n:allow\n", NOT_ASKED, 111),
        ("127.0.0.1:allow\n:deny\n", b"tcpserver: ok ", 0),
        ("127.0.0.1:deny\n:allow\n", b"tcpserver: deny ", 100),
    ],
)
def test_a_client_whose_name_cannot_be_asked_is_not_one_without_a_name(
    rules: str, line: bytes, status: int, tmp_path: Path
) -> None:
    """The account is at its process limit: the child exists, but it cannot start a thread."""
    open_to_all(tmp_path)
    account = ["-u", own_uid(), "-g", own_uid()]
    words = ["-v", "-R", "-h", "-l0", *account, "-x", str(compiled(tmp_path / "cdb", rules)), "127.0.0.1", "0", "true"]
    limit = ["prlimit", "--nproc=2:2"]
    with Server(words, before=limit) as server:
        server.ask()
        assert line in server.wait_for_log(rb"^" + line.rstrip(b"\n"))
        server.wait_for_log(rb"^tcpserver: end \d+ status %d$" % (status * 256))


def test_no_socket_for_a_question_is_no_answer() -> None:
    """In a process of its own that has no descriptor left: neither the name nor the user counts as unknown."""
    code = (
        "import resource, time; from tcpserver.child import ident, names; from tcpserver.environ import Facts\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "facts = Facts(b'127.0.0.1', 25, b'127.0.0.1', 4)\n"
        "for ask in (lambda: names.ask(None, b'127.0.3.3', False, time.monotonic() + 20),\n"
        "            lambda: ident.ask(facts, 5, time.monotonic() + 20)):\n"
        "    try:\n"
        "        print(ask())\n"
        "    except names.Unasked:\n"
        "        print('unasked')\n"
    )
    done = subprocess.run(
        [str(Path(script("tcpserver")).parent / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["unasked", "unasked"]
