"""Messages of 4 kB stored durably per second: `python tests/bench/bench_store.py [ROUNDS [MESSAGES]]`.

tcpserver, qmail-smtpd and maildir-queue, preloaded and exec'd. aiosmtpd with a handler that does the same fsyncs
(aiosmtpd_store.py; $AIOSMTPD is a Python that has it, by default this one). Postfix's smtpd, as root (postfix.py). 20
clients at once on loopback, with one message and with 20 per session, in turns, medians. The stored messages are
counted after each run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from load import Server, visit
from postfix import Postfix

PROGRAMS = Path(sys.executable).parent
HERE = Path(__file__).parent
AIOSMTPD = os.environ.get("AIOSMTPD", sys.executable)
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-H", "-R", "-l", "0"]
PRELOAD = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
WHERE = ["127.0.0.1", "0", str(PROGRAMS / "qmail-smtpd")]
AT_ONCE = 20
SESSIONS = (1, 20)  # messages in one session
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
TEXT = b"Subject: small\r\n\r\n" + LINE * (4096 // len(LINE)) + b".\r\n"
MESSAGE = [b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.com>\r\n", b"DATA\r\n", TEXT]
HELO, QUIT = b"HELO client.example\r\n", b"QUIT\r\n"  # not EHLO, whose reply may arrive in two parts


class Maildir:
    """The store of one server, which counting empties."""

    def __init__(self, path: str) -> None:
        self.path = path
        for part in ("", "/tmp", "/new", "/cur"):
            os.makedirs(path + part)

    def take(self) -> int:
        """Return the number of messages, and remove them."""
        names = os.listdir(f"{self.path}/new")
        for name in names:
            os.unlink(f"{self.path}/new/{name}")
        return len(names)


class Candidate:
    """A way to store mail: how it is started, and how its messages are counted."""

    def __init__(self, start: Callable[[], Server | Postfix], take: Callable[[], int]) -> None:
        self.start, self.take = start, take
        self.rates: dict[int, list[float]] = {count: [] for count in SESSIONS}


def candidates(folder: str) -> dict[str, Candidate]:
    """Return everything that can be run here. The rest is named on stderr."""
    os.makedirs(f"{folder}/control")
    Path(f"{folder}/control/me").write_text("mx.example.com\n")
    Path(f"{folder}/control/rcpthosts").write_text("example.com\n")
    os.environ.update(QMAILHOME=folder, QMAILQUEUE=str(PROGRAMS / "maildir-queue"), SMTPD_LOG="none")
    maildir = Maildir(f"{folder}/Maildir")
    os.environ["QUEUE_MAILDIR"] = maildir.path
    ours = str(PROGRAMS / "tcpserver")
    available = {
        "preloaded": Candidate(lambda: Server([ours, *QUICK, *PRELOAD, *WHERE]), maildir.take),
        "exec'd": Candidate(lambda: Server([ours, *QUICK, *WHERE]), maildir.take),
    }
    if subprocess.run([AIOSMTPD, "-c", "import aiosmtpd"], capture_output=True, check=False).returncode:
        print("left out: aiosmtpd (pip install aiosmtpd, or AIOSMTPD=a Python that has it)", file=sys.stderr)
    else:
        command = [AIOSMTPD, str(HERE / "aiosmtpd_store.py"), maildir.path]
        available["aiosmtpd"] = Candidate(lambda: Server(command), maildir.take)
    if os.geteuid() or not shutil.which("postfix"):
        print("left out: Postfix (only root can start it)", file=sys.stderr)
    else:
        available["Postfix"] = Candidate(Postfix, Postfix.take)
    return available


def run(candidate: Candidate, messages: int) -> None:
    """Run one round with both kinds of session."""
    server = candidate.start()
    for count in SESSIONS:
        sessions = messages // count
        script = [HELO, *MESSAGE * count, QUIT]
        seconds = visit(server.port, sessions, AT_ONCE, script)
        stored = candidate.take()
        assert stored == sessions * count, f"{stored} of {sessions * count} messages are stored"
        candidate.rates[count].append(stored / seconds)
    server.stop()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    messages = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as folder:
        available = candidates(folder)
        for _ in range(rounds):
            for candidate in available.values():
                run(candidate, messages)
    print(f"medians of {rounds} rounds, {messages} messages of {len(TEXT)} bytes, {AT_ONCE} clients at once")
    for name, candidate in available.items():
        figures = [f"{median(rates):8.0f}/s {count} a session" for count, rates in candidate.rates.items()]
        print(f"{name:16}{''.join(figures)}")


if __name__ == "__main__":
    main()
