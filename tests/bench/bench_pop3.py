"""POP3 compared with Dovecot, in one run, as root: `python tests/bench/bench_pop3.py [ROUNDS [LOGINS [MESSAGES]]]`.

Logins: USER, PASS, QUIT in a mailbox with one message, each sent after the reply to the one before, 20 clients at once.
Messages: a single client requests all messages of 4 kB in one write, and reads them. Ours is `qmail-popup HOST
checkusers qmail-pop3d Maildir` under our tcpserver. Dovecot is Debian's, with its default configuration and with login
processes that serve more than one client. Passwords are stored as PLAIN everywhere. Medians of the rounds, the servers
in turns, CPU of the whole process tree.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from load import TICK, Server, visit

from tests.kit.dovecotserver import Dovecot
from tests.kit.maildrop import AS_NON_ROOT

PROGRAMS = Path(sys.executable).parent
LOGIN = [b"USER joe\r\n", b"PASS secret\r\n", b"QUIT\r\n"]
MESSAGE = b"Subject: t\nFrom: a@example.com\n\n" + b"The quick brown fox jumps over the lazy dog.\n" * 90
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-H", "-R", "-l", "0"]
PRELOAD = [word for name in ("qmail-popup", "checkusers", "qmail-pop3d") for word in ("--preload", name)]
MANY = "mail_max_userip_connections = 1000\n"
REUSED = "service pop3-login {\n  service_count = 0\n}\nservice pop3 {\n  service_count = 1000\n}\n"


class Ours:
    """Our chain, with these options of tcpserver."""

    def __init__(self, options: list[str]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bench-pop3-")
        top = Path(self.folder.name)
        self.maildir = top / "Maildir"
        for part in ("new", "cur", "tmp"):
            (self.maildir / part).mkdir(parents=True)
        (top / "users").write_text(f"joe:{{PLAIN}}secret::::{top}\n")
        (top / "users").chmod(0o600)
        environ = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "CHECKUSERS_FILE": str(top / "users")}
        chain = ["qmail-popup", "mx", "checkusers", "qmail-pop3d", "Maildir"]
        words = [str(PROGRAMS / "tcpserver"), *QUICK, *options, "127.0.0.1", "0", *chain]
        self.server = Server([*AS_NON_ROOT, *words], environ)
        self.port, self.pid = self.server.port, self.server.process.pid

    def own(self) -> None:
        """Do nothing: the mail belongs to root, and so does the server."""

    def stop(self) -> None:
        self.server.stop()
        self.folder.cleanup()


class Theirs:
    """Dovecot, with these additional lines of configuration."""

    def __init__(self, more: str) -> None:
        self.server = Dovecot(MANY + more).__enter__()
        self.maildir = self.server.maildir
        self.port, self.pid = self.server.pop3, self.server.process.pid
        self.own = self.server.own

    def stop(self) -> None:
        self.server.__exit__()


def process_tree(pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            pids += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except OSError:
            continue
    return pids


def cpu(pid: int) -> float:
    """Return the CPU seconds so far of a process, its descendants, and the children that they have waited for."""
    total = 0
    for member in process_tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / TICK


def settled(pid: int) -> float:
    """Return the CPU seconds once they no longer change."""
    before = -1.0
    while before != (now := cpu(pid)):
        before = now
        time.sleep(0.2)
    return now


def fetch(port: int, messages: int) -> float:
    """Request all messages at once, and read them. Return the seconds from the request to the last byte."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        file = client.makefile("rb")
        file.readline()
        for line in LOGIN[:2]:
            client.sendall(line)
            assert file.readline().startswith(b"+OK"), line
        begun = time.perf_counter()
        client.sendall(b"".join(b"RETR %d\r\n" % number for number in range(1, messages + 1)) + b"QUIT\r\n")
        size = 0
        while part := client.recv(1 << 18):
            size += len(part)
        seconds = time.perf_counter() - begun
        assert size > messages * len(MESSAGE), size
        return seconds


def fill(server: Ours | Theirs, messages: int) -> None:
    """Create this many messages, none of them from the current second."""
    for number in range(messages):
        path = server.maildir / f"cur/{number:06}.host:2,S"
        path.write_bytes(MESSAGE)
        os.utime(path, (1_700_000_000, 1_700_000_000 + number))
    server.own()


def main() -> None:
    rounds, logins, messages = (int(word) for word in (*sys.argv[1:4], *("5", "300", "2000")[len(sys.argv) - 1 :]))
    kinds = {
        "Dovecot": lambda: Theirs(""),
        "Dovecot, reused": lambda: Theirs(REUSED),
        "exec'd": lambda: Ours([]),
        "preloaded": lambda: Ours(PRELOAD),
    }
    figures: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, start in kinds.items():
            server = start()
            fill(server, 1)
            visit(server.port, 20, 5, LOGIN)  # warm-up
            before = settled(server.pid)
            rate = logins / visit(server.port, logins, 20, LOGIN)
            cost = (settled(server.pid) - before) / logins * 1000
            fill(server, messages)
            fetch(server.port, messages)
            before = settled(server.pid)
            speed = messages / fetch(server.port, messages)
            price = (settled(server.pid) - before) / messages * 1e6
            server.stop()
            figures[name].append((cost, rate, price, speed))
    print(f"medians of {rounds} rounds, {logins} logins, 20 at once; {messages} messages of {len(MESSAGE)} bytes")
    for name, rows in figures.items():
        cost, rate, price, speed = (median(column) for column in zip(*rows, strict=True))
        print(f"{name:18}{cost:8.2f} ms CPU{rate:7.0f} logins/s{price:8.0f} us CPU{speed:8.0f} messages/s")


if __name__ == "__main__":
    subprocess.run([*AS_NON_ROOT, "true"], check=True)
    main()
