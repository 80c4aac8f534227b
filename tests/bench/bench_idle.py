"""1,000 idle sessions at once: `python tests/bench/bench_idle.py [SESSIONS]`.

tcpserver -c SESSIONS with qmail-smtpd, preloaded and exec'd; each client has said EHLO and says no more. Prints the
memory of a session (PSS: pages that processes share are divided among them), and that one client more waits for its
220 until another leaves.
"""

import os
import resource
import select
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from load import Server

PROGRAMS = Path(sys.executable).parent
SPARE = 100  # descriptors of this process beside its clients'
PATIENCE = 60.0  # seconds for an answer of a busy machine
WAIT = 2.0  # seconds in which the client that is too many must not be answered
LAST_LINE = b"250 8BITMIME\r\n"


def pss(pid: int) -> int:
    """kB of memory that are a process's own, and its part of what it shares."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def answer(client: socket.socket, end: bytes) -> None:
    """Read until the answer is there."""
    said = b""
    while not said.endswith(end):
        part = client.recv(4096)
        assert part, f"the server has left, after {said!r}"
        said += part


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def idle(port: int, sessions: int) -> list[socket.socket]:
    """So many clients, each greeted."""
    clients = []
    for _ in range(sessions):
        client = connect(port)
        answer(client, b"ESMTP\r\n")
        client.sendall(b"EHLO client.example\r\n")
        answer(client, LAST_LINE)
        clients.append(client)
    return clients


def one_more(port: int, clients: list[socket.socket]) -> str:
    """The client that is one too many: silence, and its 220 once another has left."""
    late = connect(port)
    early = select.select([late], [], [], WAIT)[0]
    left = time.perf_counter()
    clients.pop().close()
    answer(late, b"ESMTP\r\n")
    waited = time.perf_counter() - left
    clients.append(late)
    return "served too early" if early else f"waits, served {waited * 1000:.0f} ms after another leaves"


def measure(argv: list[str], sessions: int) -> str:
    """One server, full."""
    server = Server(argv)
    started = time.perf_counter()
    clients = idle(server.port, sessions)
    seconds = time.perf_counter() - started
    found = children(server.process.pid)
    assert len(found) == sessions, f"{len(found)} sessions"
    sizes = [pss(pid) for pid in found]
    parent = pss(server.process.pid)
    more = one_more(server.port, clients)
    for client in clients:
        client.close()
    server.stop()
    return (
        f"{median(sizes):7.0f} kB a session ({min(sizes)} to {max(sizes)}), {sum(sizes) / 1024:6.0f} MB in all, parent"
        f" {parent} kB; {seconds:.1f} s to connect; client {sessions + 1}: {more}"
    )


def main() -> None:
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (sessions + SPARE, hard))
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, SMTPD_LOG="none")
        ours, smtpd = str(PROGRAMS / "tcpserver"), str(PROGRAMS / "qmail-smtpd")
        quick = ["-1", "-q", "-c", str(sessions), "-H", "-R", "-l", "0"]
        where = ["127.0.0.1", "0", smtpd]
        print(f"{sessions} idle sessions at once, PSS: median (least to most)")
        print("preloaded ", measure([ours, *quick, "--preload", "qmail-smtpd", *where], sessions))
        print("exec'd    ", measure([ours, *quick, *where], sessions))


if __name__ == "__main__":
    main()
