"""Mail under fire: a dozen clients send, while sessions and queue programs are killed at random.

    .venv/bin/python tests/fuzz/chaos_queue.py [SECONDS]        (20 if not said), maildir-queue preloaded, then exec'd

Every message for which the client got 250 must lie in the Maildir, whole and once; what else lies there must be whole
and once, too; and in the end no process may be left. Exits 1 when it is not so.
"""

import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.kit.mailhome import make_home
from tests.kit.server import Server, children, until
from tests.kit.support import script

WAYS = {"preloaded": ["--preload", "qmail-smtpd", "--preload", "maildir-queue"], "exec'd": []}
CLIENTS = 12
SIZES = (10, 4_000, 300_000)  # bytes of a message: the last is spooled
PAUSE = 0.03  # seconds between two kills, at the most
ENVELOPE = [b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@example.com>\r\n", b"RCPT TO:<d@example.com>\r\n", b"DATA\r\n"]
HEADER = b"Return-Path: <a@b.test>\nDelivered-To: c@example.com\nDelivered-To: d@example.com\n"


class Battle:
    """What has been sent so far, and what has been answered with 250."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server, self.end = server, time.monotonic() + seconds
        self.sent: dict[bytes, bytes] = {}  # the first line of a message -> the message
        self.taken: list[bytes] = []
        self.kills = 0

    def going(self) -> bool:
        return time.monotonic() < self.end

    def send(self, number: int) -> None:
        """One client, that sends and sends."""
        count = 0
        while self.going():
            try:
                with self.server.connect() as client, client.makefile("rb") as answers:
                    answers.readline()
                    for _ in range(random.choice((1, 3))):
                        count += 1
                        self.send_message(client, answers, b"%d-%d" % (number, count))
            except OSError:
                continue

    def send_message(self, client: socket.socket, answers: "socket.SocketIO", first: bytes) -> None:
        """One message. An answer that does not come is an OSError."""
        lines = [first] + [b"x" * 79] * (random.choice(SIZES) // 80)
        self.sent[first] = b"\n".join(lines) + b"\n"
        for words in [*ENVELOPE, b"\r\n".join(lines) + b"\r\n.\r\n"]:
            client.sendall(words)
            answer = answers.readline()
            if not answer:
                raise ConnectionError
        if answer.startswith(b"250 "):
            self.taken.append(first)

    def kill(self) -> None:
        """Kill whoever is there below the server."""
        while self.going():
            time.sleep(random.random() * PAUSE)
            try:
                sessions = children(self.server.pid)
                targets = sessions + [pid for session in sessions for pid in children(session)]
                if targets:
                    os.kill(random.choice(targets), random.choice((signal.SIGKILL, signal.SIGTERM)))
                    self.kills += 1
            except OSError:
                continue

    def fight(self) -> None:
        soldiers = [threading.Thread(target=self.send, args=(number,)) for number in range(CLIENTS)]
        soldiers.append(threading.Thread(target=self.kill))
        for soldier in soldiers:
            soldier.start()
        for soldier in soldiers:
            soldier.join()

    def faults(self, maildir: Path) -> list[str]:
        """What is not as it must be."""
        stored: Counter[bytes] = Counter()
        found = []
        for path in maildir.glob("new/*"):
            head, _, rest = path.read_bytes().partition(b"Received: ")
            message = rest.split(b"\n", 2)[-1]
            first = message.split(b"\n", 1)[0]
            stored[first] += 1
            if head != HEADER or message != self.sent.get(first):
                found.append(f"{path} is not whole")
        found += [f"{first!r} lies there {count} times" for first, count in stored.items() if count > 1]
        found += [f"{first!r} was taken and is lost" for first in self.taken if first not in stored]
        print(f"{len(self.sent)} sent, {len(self.taken)} taken, {stored.total()} stored, {self.kills} kills", end=", ")
        return found


def run(options: list[str], home: Path, seconds: float) -> list[str]:
    make_home(home)
    environ = {"QMAILHOME": str(home), "QMAILQUEUE": script("maildir-queue"), "QUEUE_MAILDIR": str(home / "Maildir")}
    words = ["-q", "-c100", "-HRl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ=environ) as server:
        battle = Battle(server, seconds)
        battle.fight()
        if server.process.poll() is not None:
            return ["the server has ended, at whom nobody aimed"]
        until(lambda: not children(server.pid), lambda: "processes are left")
        return battle.faults(home / "Maildir")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20
    failed = False
    for way, options in WAYS.items():
        with TemporaryDirectory() as folder:
            print(f"{way}: ", end="", flush=True)
            faults = run(options, Path(folder) / "home", seconds)
            print("; ".join(faults) or "nothing lost")
            failed = failed or bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
