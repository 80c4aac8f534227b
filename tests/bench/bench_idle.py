"""1,000 idle sessions at once: `python tests/bench/bench_idle.py [SESSIONS]`.

tcpserver -c SESSIONS with qmail-smtpd, preloaded and exec'd; each client has sent EHLO and stays silent. Prints the
memory of a session (PSS: shared pages are divided among their processes), and whether one more client waits for its 220
until another one disconnects.
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
SPARE = 100  # descriptors of this process besides its clients'
PATIENCE = 60.0  # seconds for a reply on a busy machine
WAIT = 2.0  # seconds in which the surplus client must get no reply
LAST_LINE = b"250 8BITMIME\r\n"


def pss(pid: int) -> int:
    """Return the kB of a process's own memory and its share of shared memory."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_reply(client: socket.socket, end: bytes) -> None:
    """Read until the reply is complete."""
    reply = b""
    while not reply.endswith(end):
        part = client.recv(4096)
        assert part, f"the server has closed the connection after {reply!r}"
        reply += part


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def idle(port: int, sessions: int) -> list[socket.socket]:
    """Connect this many clients, and wait for the reply to each EHLO."""
    clients = []
    for _ in range(sessions):
        client = connect(port)
        read_reply(client, b"ESMTP\r\n")
        client.sendall(b"EHLO client.example\r\n")
        read_reply(client, LAST_LINE)
        clients.append(client)
    return clients


def one_more(port: int, clients: list[socket.socket]) -> str:
    """Connect one more client than allowed. Report whether it waits until another one disconnects."""
    late = connect(port)
    early = select.select([late], [], [], WAIT)[0]
    left = time.perf_counter()
    clients.pop().close()
    read_reply(late, b"ESMTP\r\n")
    waited = time.perf_counter() - left
    clients.append(late)
    return "served too early" if early else f"waits, served {waited * 1000:.0f} ms after another disconnects"


def measure(argv: list[str], sessions: int) -> str:
    """Fill one server with sessions, and return its figures as text."""
    server = Server(argv)
    started = time.perf_counter()
    clients = idle(server.port, sessions)
    seconds = time.perf_counter() - started
    pids = children(server.process.pid)
    assert len(pids) == sessions, f"{len(pids)} sessions"
    sizes = [pss(pid) for pid in pids]
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
