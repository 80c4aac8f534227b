"""DATA, 50 MB: `python tests/bench/bench_data.py [ROUNDS]`. MB/s from the reply to DATA until the message is accepted.

Our qmail-smtpd, preloaded and exec'd, in plaintext and under TLS, passes the message to `cat > /dev/null`. For
comparison smtpfront-echo (C, package mailfront), which discards it itself. One client on loopback, the servers in
turns, medians; also the peak memory of the session.
"""

import os
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from load import Server
from tlsload import certify, unverified_context

PROGRAMS = Path(sys.executable).parent
QUICK = ["-1", "-q", "-H", "-R", "-l", "0"]
WHERE = ["127.0.0.1", "0"]
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
MAY_RELAY = ["/usr/bin/env", "PLUGINS=accept", "RELAYCLIENT="]  # without it smtpfront-echo refuses the session at MAIL
MEGABYTES = 50
MIN_RATE, MAX_RSS = 120, 20


def expect(client: socket.socket, code: bytes) -> None:
    """Read one reply."""
    reply = b""
    while not reply.endswith(b"\n"):
        reply += client.recv(4096)
    assert reply.startswith(code), reply


def peak(server: Server) -> float:
    """Return the peak memory, in MB, of the server's only child."""
    with open(f"/proc/{server.process.pid}/task/{server.process.pid}/children") as children:
        pid = children.read().split()[0]
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def send(server: Server, text: bytes, context: ssl.SSLContext | None) -> tuple[float, float]:
    """Send one message. Return MB/s and the session's peak memory in MB."""
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        client = context.wrap_socket(plain) if context else plain
        expect(client, b"220")
        for command in (b"MAIL FROM:<a@example.com>\r\n", b"RCPT TO:<b@example.com>\r\n"):
            client.sendall(command)
            expect(client, b"250")
        client.sendall(b"DATA\r\n")
        expect(client, b"354")
        started = time.perf_counter()
        client.sendall(text)
        expect(client, b"250")
        seconds, memory = time.perf_counter() - started, peak(server)
        client.close()
        return len(text) / seconds / 1e6, memory


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    text = b"Subject: large\r\n\r\n" + LINE * (MEGABYTES * 1_000_000 // len(LINE)) + b".\r\n"
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        drain = Path(f"{home}/drain")
        drain.write_text("#!/bin/sh\ncat >/dev/null\nexec cat <&1 >/dev/null\n")
        drain.chmod(0o755)
        certify(Path(home))
        os.environ.update(QMAILHOME=home, QMAILQUEUE=str(drain))
        smtps = os.environ | {"SMTPS": "1"}
        ours, smtpd = str(PROGRAMS / "tcpserver"), str(PROGRAMS / "qmail-smtpd")
        servers = {
            "smtpfront-echo": Server([*MAY_RELAY, "/usr/bin/tcpserver", *QUICK, *WHERE, "/usr/sbin/smtpfront-echo"]),
            "preloaded": Server([ours, *QUICK, "--preload", "qmail-smtpd", *WHERE, smtpd]),
            "exec'd": Server([ours, *QUICK, *WHERE, smtpd]),
            "preloaded, TLS": Server([ours, *QUICK, "--preload", "qmail-smtpd", *WHERE, smtpd], smtps),
            "exec'd, TLS": Server([ours, *QUICK, *WHERE, smtpd], smtps),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                results[name].append(send(server, text, unverified_context() if name.endswith("TLS") else None))
        for server in servers.values():
            server.stop()
    print(f"{MEGABYTES} MB, medians of {rounds} rounds; bounds for ours: >= {MIN_RATE} MB/s, < {MAX_RSS} MB")
    for name, runs in results.items():
        print(f"{name:16}{median(run[0] for run in runs):8.0f} MB/s{max(run[1] for run in runs):8.1f} MB of memory")


if __name__ == "__main__":
    main()
