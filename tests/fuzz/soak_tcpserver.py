"""Many connections of every kind to one tcpserver: its memory and its descriptors must stay flat.

    .venv/bin/python tests/fuzz/soak_tcpserver.py [CONNECTIONS]        (100,000 if not said: some minutes)

A tenth of them settles the server; after each further tenth a line tells its memory and descriptors. Exits 1 when
either has grown, or when the server has said anything that it should not.
"""

import os
import random
import re
import socket
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, children, compiled, descriptors, until

RULES = '127.0.0.1:allow,A="b"\n127.0.0.2:deny\n127.0.0.3:allow,MAXCONIP="1"\n:allow\n'
OPTIONS = ["-QRHl0", "-c60", "-b200", "-C20:421 too many", "--rate", "100000/1"]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
GROWTH = 512  # kB: the allocator's arenas, not a leak, which 100,000 times anything would be
CROWD = 4  # processes that connect
SMTPD = str(Path(sys.executable).parent / "qmail-smtpd")
IDLE = {"call again": 50}  # processes that may wait for a client, each with a descriptor of the server's


def polite(client: socket.socket) -> None:
    client.sendall(b"x" * random.randrange(100))
    client.shutdown(socket.SHUT_WR)
    while client.recv(4096):
        pass


def vanishing(client: socket.socket) -> None:
    """Leaves at once."""


def resetting(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def deaf(client: socket.socket) -> None:
    client.sendall(b"x" * 5000)


KINDS = [polite, polite, polite, vanishing, resetting, deaf]


def crowd(server: Server, connections: int, idle: int) -> None:
    """Connect that many times, from several processes at once, in every manner and from every address."""
    pids = []
    for _ in range(CROWD):
        pid = os.fork()
        if not pid:
            for _ in range(connections // CROWD):
                try:
                    with server.connect(source=f"127.0.0.{random.randrange(1, 9)}") as client:
                        random.choice(KINDS)(client)
                except OSError:
                    continue  # refused, or reset: as it may be
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    until(lambda: len(children(server.pid)) <= idle)


def resident(pid: int) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def soak(name: str, words: list[str], connections: int, environ: dict[str, str]) -> bool:
    """Does the server that these words start stay as it is?"""
    idle = IDLE.get(name, 0)
    with Server(words, environ=environ) as server:
        crowd(server, connections // 10, idle)
        memory, opened = resident(server.pid), descriptors(server.pid)
        grown, more = 0, 0
        for tenth in range(2, 11):
            crowd(server, connections // 10, idle)
            grown, more = resident(server.pid) - memory, descriptors(server.pid) - opened
            state = f"{memory} kB {grown:+}, {opened} descriptors {more:+}"
            print(f"{name}: {connections * tenth // 10:>7} connections, {state}", flush=True)
        said = {re.sub(rb"\d+", b"N", line) for line in server.log().splitlines()}
        print(f"{name}: said {said or 'nothing'}")
        return grown <= GROWTH and more <= 1 + idle and not any(b"Traceback" in line for line in said)


def main() -> None:
    connections = int(sys.argv[1]) if sys.argv[1:] else 100_000
    with TemporaryDirectory() as directory:
        environ = {"QMAILHOME": str(make_home(Path(directory) / "home", CONTROL)), "SMTPD_LOG": "none"}
        cdb = str(compiled(Path(directory) / "cdb", RULES))
        settings = {
            "spawn": [*OPTIONS, "-x", cdb, "127.0.0.1", "0", "true"],
            "fork": [*OPTIONS, "-B.", "-x", cdb, "127.0.0.1", "0", "true"],
            "call": [*OPTIONS, "-x", cdb, "--preload", "qmail-smtpd", "127.0.0.1", "0", SMTPD],
            "call again": [*OPTIONS, "-x", cdb, "--preload", "qmail-smtpd", "--reuse", "100", "127.0.0.1", "0", SMTPD],
        }
        flat = [soak(name, words, connections // len(settings), environ) for name, words in settings.items()]
    sys.exit(0 if all(flat) else 1)


if __name__ == "__main__":
    main()
