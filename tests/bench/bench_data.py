"""DATA, 50 MB: `python tests/bench/bench_data.py [ROUNDS [MEGABYTES]]`. MB/s from the reply to DATA until 250.

Our qmail-smtpd, loaded (the default) and with --exec, in plaintext and under TLS, passes the message to
`cat > /dev/null`. For comparison smtpfront-echo (C, package mailfront), which discards it itself. One client on
loopback, the servers in turns, medians; also the peak memory of the session's process.
"""

import os
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import Row, arguments, installed, show
from load import Server, expect, tree
from tlsload import certify, unverified_context

PROGRAMS = Path(sys.executable).parent
THEIRS = "/usr/bin/tcpserver"
SMTPFRONT = "/usr/sbin/smtpfront-echo"
QUICK = ["-1", "-q", "-RHl0"]
WHERE = ["127.0.0.1", "0"]
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
MAY_RELAY = ["/usr/bin/env", "PLUGINS=accept", "RELAYCLIENT="]  # without it smtpfront-echo refuses the session at MAIL
ECHO = "smtpfront-echo"
RATE_AIMS = {"loaded": ">= 2.0 x"}
ANY_RATE_AIM, MEMORY_AIM = ">= 120 MB/s", "<= 20 MB"


def peak(server: Server) -> float:
    """Return the peak memory, in MB, of the server's largest child: the one that reads the message."""
    sizes = [0]
    for pid in tree(server.pid).keys() - {server.pid}:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        sizes += [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return max(sizes) / 1024


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


def rows(rounds: int, megabytes: int) -> list[Row]:
    text = b"Subject: large\r\n\r\n" + LINE * (megabytes * 1_000_000 // len(LINE)) + b".\r\n"
    echo = installed(ECHO, SMTPFRONT, "mailfront")
    if not os.path.exists(THEIRS):
        echo = echo._replace(missing=f"{THEIRS} is missing")
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
            "loaded": Server([ours, *QUICK, *WHERE, smtpd]),
            "--exec": Server([ours, *QUICK, "--exec", *WHERE, smtpd]),
            "loaded, TLS": Server([ours, *QUICK, *WHERE, smtpd], smtps),
            "--exec, TLS": Server([ours, *QUICK, "--exec", *WHERE, smtpd], smtps),
        }
        if not echo.missing:
            servers[ECHO] = Server([*MAY_RELAY, THEIRS, *QUICK, *WHERE, SMTPFRONT])
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                runs[name].append(send(server, text, unverified_context() if name.endswith("TLS") else None))
        for server in servers.values():
            server.stop()
    results = {name: (median(run[0] for run in runs[name]), max(run[1] for run in runs[name])) for name in runs}
    their_rate, _ = results.pop(ECHO, (None, None))
    found = []
    for name, (rate, size) in results.items():
        aim = RATE_AIMS.get(name, ANY_RATE_AIM)
        beside = (None, "-") if name.endswith("TLS") else (their_rate, str(echo))
        found.append(Row(f"data: {megabytes} MB, {name}", rate, "MB/s", *beside, aim))
        found.append(Row(f"data: {megabytes} MB, {name}, memory", size, "MB", aim=MEMORY_AIM))
    return found


def main() -> None:
    rounds, megabytes = arguments(5, 50)
    show(rows(rounds, megabytes), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
