"""Many connections of all kinds to one tcpserver: its memory and its descriptors must not grow.

    .venv/bin/python tests/fuzz/soak_tcpserver.py [CONNECTIONS [WAY]]        (default 100,000: some minutes)

The ways to run a program share the connections, or one WAY has them all: spawn, fork, call (a process for each client),
default (programs are loaded and reused). After the first tenth the server is in its steady state; after each further
tenth a line reports memory and descriptors. Exits 1 if either has grown, or if the log has a traceback.
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
GROWTH = 512  # kB for the allocator's arenas; a leak at each of 100,000 connections would be larger
CLIENT_PROCESSES = 4  # processes that connect
SMTPD = str(Path(sys.executable).parent / "qmail-smtpd")
IDLE = {"default": 50}  # idle workers, each of which holds a descriptor of the server


def read_to_end(client: socket.socket) -> None:
    client.sendall(b"x" * random.randrange(100))
    client.shutdown(socket.SHUT_WR)
    while client.recv(4096):
        pass


def disconnect(client: socket.socket) -> None:
    """Close the connection at once."""


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def send_only(client: socket.socket) -> None:
    client.sendall(b"x" * 5000)


KINDS = [read_to_end, read_to_end, read_to_end, disconnect, reset, send_only]


def connect_many(server: Server, connections: int, idle: int) -> None:
    """Connect this many times, from several processes at once, in all ways and from all addresses."""
    pids = []
    for _ in range(CLIENT_PROCESSES):
        pid = os.fork()
        if not pid:
            for _ in range(connections // CLIENT_PROCESSES):
                try:
                    with server.connect(source=f"127.0.0.{random.randrange(1, 9)}") as client:
                        random.choice(KINDS)(client)
                except OSError:
                    continue  # refusals and resets are expected
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    until(lambda: len(children(server.pid)) <= idle)


def resident(pid: int) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def soak(name: str, words: list[str], connections: int, environ: dict[str, str]) -> bool:
    """Whether memory and descriptors of the server that these words start do not grow."""
    idle = IDLE.get(name, 0)
    with Server(words, environ=environ) as server:
        connect_many(server, connections // 10, idle)
        memory, opened = resident(server.pid), descriptors(server.pid)
        grown, more = 0, 0
        for tenth in range(2, 11):
            connect_many(server, connections // 10, idle)
            grown, more = resident(server.pid) - memory, descriptors(server.pid) - opened
            state = f"{memory} kB {grown:+}, {opened} descriptors {more:+}"
            print(f"{name}: {connections * tenth // 10:>7} connections, {state}", flush=True)
        messages = {re.sub(rb"\d+", b"N", line) for line in server.log().splitlines()}
        print(f"{name}: log: {messages or 'empty'}")
        return grown <= GROWTH and more <= 1 + idle and not any(b"Traceback" in line for line in messages)


def main() -> None:
    connections = int(sys.argv[1]) if sys.argv[1:] else 100_000
    with TemporaryDirectory() as directory:
        environ = {"QMAILHOME": str(make_home(Path(directory) / "home", CONTROL)), "SMTPD_LOG": "none"}
        cdb = str(compiled(Path(directory) / "cdb", RULES))
        settings = {
            "spawn": [*OPTIONS, "-x", cdb, "127.0.0.1", "0", "true"],
            "fork": [*OPTIONS, "-B.", "-x", cdb, "127.0.0.1", "0", "true"],
            "call": [*OPTIONS, "-x", cdb, "--reuse", "1", "127.0.0.1", "0", SMTPD],
            "default": [*OPTIONS, "-x", cdb, "127.0.0.1", "0", SMTPD],
        }
        settings = {name: settings[name] for name in sys.argv[2:] or settings}
        flat = [soak(name, words, connections // len(settings), environ) for name, words in settings.items()]
    sys.exit(0 if all(flat) else 1)


if __name__ == "__main__":
    main()
