"""Messages of 4 kB stored durably per second: `python tests/bench/bench_store.py [ROUNDS [MESSAGES]]`.

tcpserver, qmail-smtpd and maildir-queue, loaded (the default), loaded with --reuse 1, and with --exec. aiosmtpd with a
handler that does the same fsyncs (aiosmtpd_store.py; $AIOSMTPD is a Python that has it, by default this one). Postfix's
smtpd, as root (postfix.py). 20 clients at once on loopback, with one message and with 20 per session, in turns,
medians. The stored messages are counted after each run.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from figures import Peer, Row, arguments, show
from load import Server, visit
from postfix import Postfix, postfix_peer

PROGRAMS = Path(sys.executable).parent
HERE = Path(__file__).parent
AIOSMTPD = os.environ.get("AIOSMTPD", sys.executable)
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-RHl0"]
WHERE = ["127.0.0.1", "0", str(PROGRAMS / "qmail-smtpd")]
AT_ONCE = 20
SESSIONS = (1, 20)  # messages in one session
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
TEXT = b"Subject: small\r\n\r\n" + LINE * (4096 // len(LINE)) + b".\r\n"
MESSAGE = [b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.com>\r\n", b"DATA\r\n", TEXT]
OURS: dict[str, list[str]] = {"loaded": [], "--reuse 1": ["--reuse", "1"], "--exec": ["--exec"]}  # and their options
POSTFIX, AIOSMTPD_NAME = "Postfix", "aiosmtpd"
BESIDE = [("loaded", POSTFIX, ">= 1.0 x"), ("loaded", AIOSMTPD_NAME, "-")]
BESIDE += [(name, POSTFIX, "-") for name in ("--reuse 1", "--exec")]
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


def aiosmtpd_peer() -> Peer:
    """Return aiosmtpd as a peer, with its version, or with the reason why it cannot be run here."""
    code = "import aiosmtpd; print(aiosmtpd.__version__)"
    try:
        done = subprocess.run([AIOSMTPD, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return Peer(AIOSMTPD_NAME, "$AIOSMTPD cannot be run")
    if done.returncode:
        return Peer(AIOSMTPD_NAME, "pip install aiosmtpd, or $AIOSMTPD: a Python that has it")
    return Peer(f"{AIOSMTPD_NAME} {done.stdout.strip()}")


def candidates(folder: str, peers: dict[str, Peer]) -> dict[str, Candidate]:
    """Return everything that can be run here."""
    os.makedirs(f"{folder}/control")
    Path(f"{folder}/control/me").write_text("mx.example.com\n")
    Path(f"{folder}/control/rcpthosts").write_text("example.com\n")
    os.environ.update(QMAILHOME=folder, QMAILQUEUE=str(PROGRAMS / "maildir-queue"), SMTPD_LOG="none")
    maildir = Maildir(f"{folder}/Maildir")
    os.environ["QUEUE_MAILDIR"] = maildir.path
    ours = str(PROGRAMS / "tcpserver")
    available = {
        name: Candidate(lambda options=options: Server([ours, *QUICK, *options, *WHERE]), maildir.take)
        for name, options in OURS.items()
    }
    command = [AIOSMTPD, str(HERE / "aiosmtpd_store.py"), maildir.path]
    available[AIOSMTPD_NAME] = Candidate(lambda: Server(command), maildir.take)
    available[POSTFIX] = Candidate(Postfix, Postfix.take)
    return {name: way for name, way in available.items() if name not in peers or not peers[name].missing}


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


def rows(rounds: int, messages: int) -> list[Row]:
    peers = {POSTFIX: postfix_peer(), AIOSMTPD_NAME: aiosmtpd_peer()}
    with tempfile.TemporaryDirectory() as folder:
        available = candidates(folder, peers)
        for _ in range(rounds):
            for candidate in available.values():
                run(candidate, messages)
    rates = {(name, count): median(available[name].rates[count]) for name in available for count in SESSIONS}
    return [
        Row(
            *(f"store: {name}, {count} a session", rates[name, count], "/s"),
            *(rates.get((peer, count)), str(peers[peer]), aim),
        )
        for name, peer, aim in BESIDE
        for count in SESSIONS
    ]


def main() -> None:
    rounds, messages = arguments(5, 1000)
    note = f"medians of {rounds} rounds, {messages} messages of {len(TEXT)} bytes, {AT_ONCE} clients at once"
    show(rows(rounds, messages), note)


if __name__ == "__main__":
    main()
