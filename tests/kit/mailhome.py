"""Run qmail-smtpd in its own qmail home, with a queue program that records its input."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit.support import script

CLIENT = {"TCPREMOTEIP": "192.0.2.1", "TCPREMOTEHOST": "client.example.net", "TCPLOCALHOST": "mx.example.org"}
CONTROL: dict[str, object] = {"me": "mx.example.org\n", "rcpthosts": "example.com\n.wild.example\n"}
MESSAGE = "MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@example.com>\r\nDATA\r\nSubject: t\r\n\r\nhello\r\n.\r\n"

# The queue program. With QQMODE=noread it reads nothing, and ends once the envelope or much of a message has been
# written: if it ended at once, the machine's load would decide whether a write fails. Otherwise it stores message and
# envelope, writes QQERR to descriptor 6, and ends by the signal QQSIGNAL, with QQEXIT, or with qmail-queue's code for
# the envelope.
QUEUE = """#!{python} -IS
import os
def drain(descriptor):
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)
ask = os.environ.get
if ask("QQMODE") == "noread":
    import fcntl, select, struct, termios
    def unread(descriptor):
        return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    while not select.select([1], [], [], 0.01)[0] and unread(0) < 16384:
        pass
    os._exit(int(ask("QQEXIT", "0")))
message, envelope = drain(0), drain(1)
number = len(os.listdir("dump")) // 2
while True:
    try:
        file = open(f"dump/{{number:04d}}.m", "xb")
        break
    except FileExistsError:  # of another one that ends at the same time
        number += 1
with file:
    file.write(message)
with open(f"dump/{{number:04d}}.e", "wb") as file:
    file.write(envelope)
if ask("QQERR"):
    os.write(6, os.environb[b"QQERR"])
if ask("QQSIGNAL"):
    os.kill(os.getpid(), int(ask("QQSIGNAL")))
complete = envelope.startswith(b"F") and envelope.endswith(b"\\0\\0")
os._exit(int(ask("QQEXIT", "0" if complete else "54")))
"""


class Result:
    """The results of a session. `queue` has (message, envelope) pairs in the order of the queue programs' ends."""

    def __init__(self, stdout: bytes, stderr: bytes, status: int, home: Path) -> None:
        self.stdout = re.sub(rb"250 ok \d+ qp \d+\r\n", b"250 ok {TIME} qp {PID}\r\n", stdout)
        self.stderr = stderr
        self.status = status
        self.queue = [(f.read_bytes(), f.with_suffix(".e").read_bytes()) for f in sorted((home / "dump").glob("*.m"))]

    @property
    def codes(self) -> list[str]:
        """The code of each line of the replies, with its dash if the reply continues."""
        return [line[:4].decode("latin-1").rstrip() for line in self.stdout.split(b"\r\n") if line]


def make_home(home: Path, control: dict[str, object] | None = None) -> Path:
    """Create a qmail home: control files from text, {"b64": ...} or {"dir": True}, and bin/qmail-queue."""
    for name in ("control", "bin", "dump"):
        (home / name).mkdir(parents=True)
    for name, content in (CONTROL if control is None else control).items():
        path = home / "control" / name
        if isinstance(content, dict):
            path.mkdir() if content.get("dir") else path.write_bytes(base64.b64decode(content["b64"]))
        else:
            path.write_bytes(str(content).encode("latin-1"))
    program = home / "bin" / "qmail-queue"
    program.write_text(QUEUE.format(python=sys.executable))
    program.chmod(0o755)
    return home


def start(
    home: Path, env: dict[str, str] | None = None, words: Sequence[str] = (), **options: object
) -> "subprocess.Popen[bytes]":
    """Start qmail-smtpd with these arguments, pipes for descriptors 0 to 2, and only this environment."""
    whole = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), **(CLIENT if env is None else env)}
    encoded = {key.encode("latin-1"): value.encode("latin-1") for key, value in whole.items()}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
    return subprocess.Popen([script("qmail-smtpd"), *words], env=encoded, **pipes)  # type: ignore[call-overload, no-any-return]


def talk(
    home: Path, text: str | bytes, env: dict[str, str] | None = None, hold: float = 0, words: Sequence[str] = ()
) -> Result:
    """Run one session that sends `text` at once and closes after `hold` seconds at most. Wait for all its processes."""
    alive, leak = os.pipe()  # every process of the session holds this open
    process = start(home, env, words, pass_fds=(leak,))
    os.close(leak)
    data = text.encode("latin-1") if isinstance(text, str) else text
    if hold:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.flush()
        try:
            process.wait(hold)
        except subprocess.TimeoutExpired:
            pass
        data = b""
    stdout, stderr = process.communicate(data)
    os.read(alive, 1)
    os.close(alive)
    return Result(stdout, stderr, process.returncode, home)
