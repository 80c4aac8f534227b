"""POP3 compared with Dovecot, in one run, as root: `python tests/bench/bench_pop3.py [ROUNDS [LOGINS [MESSAGES]]]`.

Logins: USER, PASS, QUIT in a mailbox with one message, each sent after the reply to the one before, 20 clients at once.
Messages: a single client requests all messages of 4 kB in one write, and reads them. Ours is `qmail-popup HOST
checkusers qmail-pop3d Maildir` under our tcpserver, loaded (the default) and with --exec. Dovecot is Debian's, with its
default configuration and with login processes that serve more than one client. Passwords are stored as PLAIN
everywhere. Medians of the rounds, the servers in turns, CPU of the whole process tree.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from figures import Figure, Peer, Row, arguments, installed, pair, show
from load import Server, settled, visit

from tests.kit.maildrop import AS_NON_ROOT
from tests.kit.peers.dovecotserver import DOVECOT, Dovecot

PROGRAMS = Path(sys.executable).parent
LOGIN = [b"USER joe\r\n", b"PASS secret\r\n", b"QUIT\r\n"]
MESSAGE = b"Subject: t\nFrom: a@example.com\n\n" + b"The quick brown fox jumps over the lazy dog.\n" * 90
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-RHl0"]
MANY = "mail_max_userip_connections = 1000\n"
REUSED = "service pop3-login {\n  service_count = 0\n}\nservice pop3 {\n  service_count = 1000\n}\n"
DOVECOTS = {"": "", ", login processes reused": REUSED}  # what their names end with -> configuration


class OurServer:
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
        self.port, self.pid = self.server.port, self.server.pid

    def own(self) -> None:
        """Do nothing: the mail belongs to root, and so does the server."""

    def stop(self) -> None:
        self.server.stop()
        self.folder.cleanup()


class DovecotServer:
    """Dovecot, with these additional lines of configuration."""

    def __init__(self, more: str) -> None:
        self.server = Dovecot(MANY + more).__enter__()
        self.maildir = self.server.maildir
        self.port, self.pid = self.server.pop3, self.server.process.pid
        self.own = self.server.own

    def stop(self) -> None:
        self.server.__exit__()


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


def fill(server: OurServer | DovecotServer, messages: int) -> None:
    """Create this many messages, none of them from the current second."""
    for number in range(messages):
        path = server.maildir / f"cur/{number:06}.host:2,S"
        path.write_bytes(MESSAGE)
        os.utime(path, (1_700_000_000, 1_700_000_000 + number))
    server.own()


class Speed(NamedTuple):
    """What one round measures: logins with their CPU, messages with theirs in microseconds."""

    logins: float
    login_cost: float
    messages: float
    message_cost: float


def measure(server: OurServer | DovecotServer, logins: int, messages: int) -> Speed:
    """Run one round with a server, and stop it."""
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
    return Speed(rate, cost, speed, price)


def rows(rounds: int, logins: int, messages: int) -> list[Row]:
    subprocess.run([*AS_NON_ROOT, "true"], check=True)
    peer = installed("Dovecot", DOVECOT, "dovecot-core")
    if not peer.missing and os.geteuid():
        peer = peer._replace(missing="only root can start it")
    ways: dict[str, Callable[[], OurServer | DovecotServer]] = {
        "loaded": lambda: OurServer([]),
        "--exec": lambda: OurServer(["--exec"]),
    }
    if not peer.missing:
        ways |= {name: lambda more=more: DovecotServer(more) for name, more in DOVECOTS.items()}
    runs: dict[str, list[Speed]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, start in ways.items():
            runs[name].append(measure(start(), logins, messages))
    results = {name: Speed(*map(median, zip(*of_way, strict=True))) for name, of_way in runs.items()}
    found = []
    for name in ("loaded", "--exec"):
        ours = results[name]
        for dovecot in DOVECOTS:
            theirs, named = results.get(dovecot), Peer(f"{peer.name}{dovecot}", peer.missing)
            figure = Figure(theirs.logins, theirs.login_cost) if theirs else None
            found += pair(f"pop3: login, {name}", Figure(ours.logins, ours.login_cost), figure, named)
            for kind, unit, index in (("rate", "/s", 2), ("CPU", "us", 3)):
                number = theirs[index] if theirs else None
                found.append(Row(f"pop3: message, {name}, {kind}", ours[index], unit, number, str(named)))
    return found


def main() -> None:
    rounds, logins, messages = arguments(5, 300, 2000)
    note = f"medians of {rounds} rounds, {logins} logins, 20 at once; {messages} messages of {len(MESSAGE)} bytes"
    show(rows(rounds, logins, messages), note)


if __name__ == "__main__":
    main()
