"""A dozen clients send mail, while sessions and queue programs are killed at random.

    .venv/bin/python tests/fuzz/chaos_queue.py [SECONDS]        (default 20), maildir-queue preloaded, then exec'd

Every message for which the client got 250 must be in the Maildir, complete and once. Any other message there must be
complete and there once, too. At the end no process may be left. Exits 1 otherwise.
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

MODES = {"preloaded": ["--preload", "qmail-smtpd", "--preload", "maildir-queue"], "exec'd": ["--exec"]}
CLIENTS = 12
SIZES = (10, 4_000, 300_000)  # bytes of a message: the last is spooled
PAUSE = 0.03  # seconds between two kills at most
ENVELOPE = [b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@example.com>\r\n", b"RCPT TO:<d@example.com>\r\n", b"DATA\r\n"]
HEADER = b"Return-Path: <a@b.test>\nDelivered-To: c@example.com\nDelivered-To: d@example.com\n"


class Chaos:
    """The messages that were sent so far, and those that got 250."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server, self.end = server, time.monotonic() + seconds
        self.sent: dict[bytes, bytes] = {}  # the first line of a message -> the message
        self.accepted: list[bytes] = []
        self.kills = 0

    def is_running(self) -> bool:
        return time.monotonic() < self.end

    def send(self, number: int) -> None:
        """Run one client, which sends one session after another."""
        count = 0
        while self.is_running():
            try:
                with self.server.connect() as client, client.makefile("rb") as replies:
                    replies.readline()
                    for _ in range(random.choice((1, 3))):
                        count += 1
                        self.send_message(client, replies, b"%d-%d" % (number, count))
            except OSError:
                continue

    def send_message(self, client: socket.socket, replies: "socket.SocketIO", first: bytes) -> None:
        """Send one message. Raise OSError if a reply is missing."""
        lines = [first] + [b"x" * 79] * (random.choice(SIZES) // 80)
        self.sent[first] = b"\n".join(lines) + b"\n"
        for words in [*ENVELOPE, b"\r\n".join(lines) + b"\r\n.\r\n"]:
            client.sendall(words)
            reply = replies.readline()
            if not reply:
                raise ConnectionError
        if reply.startswith(b"250 "):
            self.accepted.append(first)

    def kill(self) -> None:
        """Kill random processes below the server."""
        while self.is_running():
            time.sleep(random.random() * PAUSE)
            try:
                sessions = children(self.server.pid)
                targets = sessions + [pid for session in sessions for pid in children(session)]
                if targets:
                    os.kill(random.choice(targets), random.choice((signal.SIGKILL, signal.SIGTERM)))
                    self.kills += 1
            except OSError:
                continue

    def run(self) -> None:
        threads = [threading.Thread(target=self.send, args=(number,)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self.kill))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def faults(self, maildir: Path) -> list[str]:
        """Return descriptions of lost, duplicate and incomplete messages."""
        stored: Counter[bytes] = Counter()
        faults = []
        for path in maildir.glob("new/*"):
            head, _, rest = path.read_bytes().partition(b"Received: ")
            message = rest.split(b"\n", 2)[-1]
            first = message.split(b"\n", 1)[0]
            stored[first] += 1
            if head != HEADER or message != self.sent.get(first):
                faults.append(f"{path} is incomplete")
        faults += [f"{first!r} is stored {count} times" for first, count in stored.items() if count > 1]
        faults += [f"{first!r} was accepted and is lost" for first in self.accepted if first not in stored]
        counts = f"{len(self.sent)} sent, {len(self.accepted)} accepted, {stored.total()} stored, {self.kills} kills"
        print(counts, end=", ")
        return faults


def run_server(options: list[str], home: Path, seconds: float) -> list[str]:
    make_home(home)
    environ = {"QMAILHOME": str(home), "QMAILQUEUE": script("maildir-queue"), "QUEUE_MAILDIR": str(home / "Maildir")}
    words = ["-q", "-c100", "-HRl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ=environ) as server:
        chaos = Chaos(server, seconds)
        chaos.run()
        if server.process.poll() is not None:
            return ["the server has ended, although it was never killed"]
        until(lambda: not children(server.pid), lambda: "processes are left")
        return chaos.faults(home / "Maildir")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20
    failed = False
    for mode, options in MODES.items():
        with TemporaryDirectory() as folder:
            print(f"{mode}: ", end="", flush=True)
            faults = run_server(options, Path(folder) / "home", seconds)
            print("; ".join(faults) or "nothing lost")
            failed = failed or bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
