"""1,000 idle sessions at once: `python tests/bench/bench_idle.py [ROUNDS [SESSIONS]]`.

tcpserver -c SESSIONS with qmail-smtpd, loaded (the default), with --reuse 1 and with --exec; each client has sent EHLO
and stays silent. The memory of a session is the PSS of all processes below the server (PSS: shared pages are divided
among their processes), divided by the sessions. One more client than -c allows must wait for its 220 until another one
disconnects; the time from then on is measured. Medians of the rounds.
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
from typing import NamedTuple

from figures import Row, arguments, show
from load import PATIENCE, Server, expect, tree

PROGRAMS = Path(sys.executable).parent
# Descriptors besides the clients': of this process, and of the server, which keeps 256 free of those for its workers.
SPARE = 600
OURS: dict[str, list[str]] = {"loaded": [], "--reuse 1": ["--reuse", "1"], "--exec": ["--exec"]}  # and their options
MEMORY_AIMS = {"loaded": "<= 0.6 MB"}
WAIT_AIM = "<= 100 ms"  # "at once" for a person who watches
WAIT = 2.0  # seconds in which the surplus client must get no reply


def pss(pid: int) -> int:
    """Return the kB of a process's own memory and its share of shared memory."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def idle(port: int, sessions: int) -> list[socket.socket]:
    """Connect this many clients, and wait for the reply to each EHLO."""
    clients = []
    for _ in range(sessions):
        client = connect(port)
        expect(client, b"220")
        client.sendall(b"EHLO client.example\r\n")
        expect(client, b"250")
        clients.append(client)
    return clients


def one_more(port: int, clients: list[socket.socket]) -> float:
    """Connect one more client than allowed. Return the milliseconds that it waits after another one disconnects."""
    late = connect(port)
    assert not select.select([late], [], [], WAIT)[0], "a client over the limit is served"
    left = time.perf_counter()
    clients.pop().close()
    expect(late, b"220")
    waited = time.perf_counter() - left
    clients.append(late)
    return waited * 1000


class Idle(NamedTuple):
    """MB of a session, MB of the server itself, seconds to connect all clients, milliseconds for one more."""

    session: float
    server: float
    connecting: float
    one_more: float


def measure(argv: list[str], sessions: int) -> Idle:
    """Fill one server with sessions, and measure it."""
    server = Server(argv)
    started = time.perf_counter()
    clients = idle(server.port, sessions)
    seconds = time.perf_counter() - started
    below = sum(pss(pid) for pid in tree(server.pid) if pid != server.pid)
    itself = pss(server.pid)
    late = one_more(server.port, clients)
    for client in clients:
        client.close()
    server.stop()
    return Idle(below / sessions / 1024, itself / 1024, seconds, late)


def rows(rounds: int, sessions: int) -> list[Row]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = sessions + SPARE
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, SMTPD_LOG="none")
        ours, smtpd = str(PROGRAMS / "tcpserver"), str(PROGRAMS / "qmail-smtpd")
        quick = ["-1", "-q", "-c", str(sessions), "-RHl0"]
        where = ["127.0.0.1", "0", smtpd]
        runs: dict[str, list[Idle]] = {name: [] for name in OURS}
        for _ in range(rounds):
            for name, options in OURS.items():
                runs[name].append(measure([ours, *quick, *options, *where], sessions))
    found = []
    for name, of_way in runs.items():
        result = Idle(*map(median, zip(*of_way, strict=True)))
        title = f"idle: {sessions:,} sessions, {name}"
        found += [
            Row(f"{title}, PSS of one", result.session, "MB", aim=MEMORY_AIMS.get(name, "-")),
            Row(f"{title}, PSS of the server", result.server, "MB"),
            Row(f"{title}, connected within", result.connecting, "s"),
            Row(f"{title}, one more after another leaves", result.one_more, "ms", aim=WAIT_AIM),
        ]
    return found


def main() -> None:
    rounds, sessions = arguments(3, 1000)
    show(rows(rounds, sessions), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
