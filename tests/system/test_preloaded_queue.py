"""A queue program that is called in a fork of the session: it finds and does the same as if it were exec'd."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.consolescript import install_script
from tests.kit.mailhome import make_home
from tests.kit.server import Server, children, read_all
from tests.kit.support import script

WAYS = {"exec'd": ["--exec"], "called": ["--preload", "qmail-smtpd", "--preload", "obey", "--reuse", "1"]}
EXECUTE = """
import os, sys

def main():
    '''Execute the code between CODE and END in the message, and leave the value of `answer` in the home.'''
    text = b''
    while not text.endswith(b'\\nEND\\n'):
        text += os.read(0, 1)
    found = {}
    exec(text.partition(b'CODE\\n')[2].removesuffix(b'END\\n'), found)
    with open('answer', 'w') as file:
        file.write(found.get('answer', ''))
    while os.read(0, 65536) or os.read(1, 65536):
        pass
    return found.get('status')
"""
BEGIN = b"MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@example.com>\r\nDATA\r\n"


class Way:
    """A server whose queue program is `obey`, exec'd or called."""

    def __init__(self, home: Path, options: list[str]) -> None:
        make_home(home)
        program = install_script(home, "obey", EXECUTE)
        environ = {"QMAILHOME": str(home), "QMAILQUEUE": str(program), "PYTHONPATH": str(home)}
        environ |= {"SMTPD_LOG": "all", "LC_ALL": "C.UTF-8"}
        words = ["-v", "-HRl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
        self.home = home
        self.server = Server(words, environ=environ, preexec=lambda: os.umask(0o27))

    def send(self, code: str, body: bytes = b"") -> bytes:
        """Send a message that contains the code, in a session of its own. Return the reply to the message."""
        text = BEGIN + b"CODE\n" + code.encode() + b"\nEND\n" + body + b"."
        replies = self.server.ask(text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\nQUIT\r\n")
        return replies.split(b"\r\n")[-3]

    def answer(self, code: str, body: bytes = b"") -> str:
        """Return what the program has left in `answer`."""
        (self.home / "answer").unlink(missing_ok=True)
        assert self.send(code, body).startswith(b"250 ok "), self.server.log()
        return (self.home / "answer").read_text()


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    home = tmp_path_factory.mktemp("ways")
    found = {name: Way(home / name, options) for name, options in WAYS.items()}
    yield found
    for way in found.values():
        way.server.__exit__()


IMPORTS = """import gc, os, resource, signal, stat, sys
OPEN = [number for number in range(100) if os.path.exists(f'/proc/self/fd/{number}')]
streams = sys.stdin, sys.stdout, sys.stderr
"""
PROBES = {  # what -> an expression, which must have the same value both ways
    "argv": "[os.path.relpath(word) for word in sys.argv]",
    "environment": "sorted(pair for pair in os.environb.items() if b'PORT' not in pair[0] and b'/' not in pair[1])",
    "descriptors": "OPEN",
    "kinds": "[stat.filemode(os.fstat(number).st_mode)[0] for number in (0, 1, 2, 6)]",
    "directions": "[os.readv(1, [bytearray(0)]), os.write(6, b'')]",
    "inheritable": "[os.get_inheritable(number) for number in (0, 1, 2, 6)]",
    "blocking": "[os.get_blocking(number) for number in (0, 1, 2, 6)]",
    "umask": "os.umask(0)",
    "directory": "os.listdir('control')",
    "signals": "[getattr(signal.getsignal(n), '__name__', signal.getsignal(n)) for n in range(1, 32)]",
    "signals as the kernel sees them": "[(line[:6], int(line.split()[1], 16) & 0x7fffffff)"
    " for line in open('/proc/self/status') if line[:6] in ('SigCgt', 'SigBlk', 'SigIgn', 'SigPnd', 'ShdPnd')]",
    "encodings": "[(f.encoding, f.errors, f.newlines, f.mode, f.name) for f in streams]",
    "buffering": "[(f.line_buffering, f.write_through, f.isatty(), f.seekable()) for f in streams]",
    "input": "sys.stdin.buffer.read()",
    "envelope": "os.read(0, 1000) and os.read(1, 1000)",
    "limits": "[resource.getrlimit(number) for number in range(10)]",
    "timers": "(signal.getitimer(0), signal.alarm(0), sys.getrecursionlimit(), gc.isenabled())",
    "group": "os.getpgid(0) == os.getpgid(os.getppid()) and os.getsid(0) == os.getsid(os.getppid())",
}


@pytest.mark.parametrize("probe", PROBES)
def test_a_called_queue_program_finds_what_an_exec_ed_one_finds(ways: dict[str, Way], probe: str) -> None:
    code = f"{IMPORTS}answer = ascii({PROBES[probe]})"
    found = {name: way.answer(code, b"the rest\n") for name, way in ways.items()}
    assert found["called"] == found["exec'd"] != ""


def test_a_called_program_has_nothing_of_the_session_but_its_three_pipes_and_the_log(ways: dict[str, Way]) -> None:
    found = ways["called"].answer(
        f"{IMPORTS}answer = ascii([(n, stat.filemode(os.fstat(n).st_mode)[0]) for n in OPEN])"
    )
    assert found == "[(0, 'p'), (1, 'p'), (2, '-'), (6, 'p')]"


ENDS = {  # what the program does -> the reply
    "status = 0": b"250 ok ",
    "status = 31": b"554 mail server permanently rejected message (#5.3.0)",
    "status = 'some text'": b"451 qq temporary problem (#4.3.0)",
    "import os; os._exit(53)": b"451 qq write error or disk full (#4.3.0)",
    "import sys; sys.exit(81)": b"451 qq internal bug (#4.3.0)",
    "import os; os.write(6, b'Dno thanks'); status = 82": b"554 no thanks",
    "import os; os.kill(os.getpid(), 9)": b"451 qq crashed (#4.3.0)",
    "import os; os.kill(os.getpid(), 15)": b"451 qq crashed (#4.3.0)",
    "import os; os.execv('/bin/sh', ['sh', '-c', 'cat >/dev/null; exit 71'])": b"451 mail server temporarily rejected",
    "import os, sys; os.close(0); os.close(1); sys.exit(71)": b"451 mail server temporarily rejected",
}


@pytest.mark.parametrize("code", ENDS)
@pytest.mark.parametrize("name", WAYS)
def test_each_end_of_the_program_has_its_reply(ways: dict[str, Way], name: str, code: str) -> None:
    assert ways[name].send(code, b"x" * 70 + b"\n").startswith(ENDS[code])


RAISED = ["OSError(28, 'x')", "ChildProcessError(10, 'x')", "BlockingIOError(11, 'x')", "MemoryError()",
          "KeyboardInterrupt()", "ValueError('x')", "GeneratorExit()",
          "__import__('qmail_smtpd.net.wire').net.wire.Closed()",
          "__import__('qmail_smtpd.net.wire').net.wire.SessionTimedOut()",
          "__import__('qmail_smtpd.smtp.settings').smtp.settings.Unreadable(b'250 ok', b'x')"]  # fmt: skip


@pytest.mark.parametrize("error", RAISED)
def test_an_error_of_the_program_is_not_taken_for_one_of_its_session(ways: dict[str, Way], error: str) -> None:
    way = ways["called"]
    before = way.server.log()
    assert way.send(f"raise {error}") == b"451 qq temporary problem (#4.3.0)"
    log = way.server.wait_for_log(rb"^tcpserver: end ", before.count(b"tcpserver: end ") + 1)[len(before) :]
    assert len(re.findall(rb"(?m)^obey: fatal: ", log)) == 1
    assert log.count(b"event=end ") == 1


CANNOT_START = """
import os, sys
from qmail_smtpd.queue.client import QueueClient
from tcpserver import registry

def fail(path, argv, environ):
    raise OSError(12, 'no memory to start a program in')

registry.programs[registry.identity_of(os.stat(sys.argv[1]))] = fail
print(QueueClient(os.fsencode(sys.argv[1]), dict(os.environb)).close(b'Fa@b\\0\\0'))
"""


def test_a_fork_in_which_the_program_does_not_even_start_ends_there() -> None:
    command = [sys.executable, "-c", CANNOT_START, script("maildir-queue")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == b"b'451 unable to exec qq (#4.3.0)'\n"


def test_a_session_of_many_messages_reaps_each_program_and_keeps_no_descriptor(ways: dict[str, Way]) -> None:
    server = ways["called"].server
    seen = set()
    with server.connect() as client:
        for _ in range(5):
            client.sendall(BEGIN + b"CODE\r\nstatus = 0\r\nEND\r\n.\r\n")
            received = b""
            while b" qp " not in received or not received.endswith(b"\r\n"):
                received += client.recv(4096)
            (pid,) = children(server.pid)
            assert children(pid) == []
            seen.add(tuple(sorted(os.listdir(f"/proc/{pid}/fd"))))
    assert len(seen) == 1


def peak(pid: int) -> int:
    """The most memory that a process has had, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def test_a_large_message_takes_little_memory_of_the_session_and_of_a_called_maildir_queue(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    queue = script("maildir-queue")
    environ = {"QMAILHOME": str(home), "QMAILQUEUE": queue, "QUEUE_MAILDIR": str(home / "Maildir")}
    words = ["-HRl0", "--preload", "qmail-smtpd", "--preload", "maildir-queue", "127.0.0.1", "0", script("qmail-smtpd")]
    body = (b"x" * 98 + b"\r\n") * 10_000
    with Server(words, environ=environ) as server, server.connect() as client:
        client.sendall(BEGIN)
        for _ in range(25):
            client.sendall(body)
        (session,) = children(server.pid)
        assert children(session) == []
        assert os.readlink(f"/proc/{session}/exe") == os.path.realpath(sys.executable)
        size = peak(session)
        client.sendall(b".\r\nQUIT\r\n")
        assert b"250 ok " in read_all(client).split(b"354 ")[1]
    (message,) = (home / "Maildir/new").iterdir()
    assert message.stat().st_size > 25 * 99 * 10_000
    assert size < 27_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [70, 700_000], ids=["in memory", "in a file"])
def test_a_killed_session_stores_nothing(tmp_path: Path, size: int) -> None:
    home = make_home(tmp_path / "home")
    environ = {
        "QMAILHOME": str(home),
        "QMAILQUEUE": script("maildir-queue"),
        "QUEUE_MAILDIR": str(home / "Maildir"),
    }
    words = ["-HRl0", "--preload", "qmail-smtpd", "--preload", "maildir-queue", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ=environ) as server, server.connect() as client:
        client.sendall(BEGIN)
        while b"354" not in client.recv(4096):
            pass
        client.sendall((b"x" * 68 + b"\r\n") * (size // 70))
        (session,) = children(server.pid)
        os.kill(session, signal.SIGKILL)
        read_all(client)
    assert [path for path in (home / "Maildir").rglob("*") if path.is_file()] == []
