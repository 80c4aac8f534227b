"""DATA, 50 MB: `python tests/bench/bench_data.py [ROUNDS [MEGABYTES]]`. MB/s from the reply to DATA until 250, and the
same by BDAT, in chunks of a megabyte.

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
BDAT = ", BDAT"
CHUNK = 1_000_000  # bytes
BDAT_AIM = ">= 1.0 x"
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


def in_chunks(text: bytes) -> bytes:
    """Return the message with the commands that send it in chunks."""
    parts = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    return b"".join(b"BDAT %d\r\n%b" % (len(part), part) for part in parts) + b"BDAT 0 LAST\r\n"


def expect_last(client: socket.socket) -> None:
    """Read the replies to all chunks up to that to the message, which has the queue program's pid."""
    replies = b""
    while b" qp " not in replies:
        part = client.recv(65536)
        if not part or not part.startswith(b"2"):
            raise RuntimeError(f"unexpected reply: {part!r}")
        replies += part


def send(server: Server, text: bytes, context: ssl.SSLContext | None, chunked: bool) -> tuple[float, float]:
    """Send one message. Return MB/s and the session's peak memory in MB."""
    data = in_chunks(text) if chunked else text + b".\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        client = context.wrap_socket(plain) if context else plain
        expect(client, b"220")
        for command in (b"MAIL FROM:<a@example.com>\r\n", b"RCPT TO:<b@example.com>\r\n"):
            client.sendall(command)
            expect(client, b"250")
        if not chunked:
            client.sendall(b"DATA\r\n")
            expect(client, b"354")
        started = time.perf_counter()
        client.sendall(data)
        if chunked:
            expect_last(client)
        else:
            expect(client, b"250")
        seconds, memory = time.perf_counter() - started, peak(server)
        client.close()
        return len(text) / seconds / 1e6, memory


def rows(rounds: int, megabytes: int) -> list[Row]:
    text = b"Subject: large\r\n\r\n" + LINE * (megabytes * 1_000_000 // len(LINE))
    echo = installed(ECHO, SMTPFRONT, "mailfront")
    if not os.path.exists(THEIRS):
        echo = echo._replace(missing=f"{THEIRS} is missing")
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        Path(f"{home}/control/chunking").touch()
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
        servers |= {name + BDAT: servers[name] for name in ("loaded", "loaded, TLS")}
        if not echo.missing:
            servers[ECHO] = Server([*MAY_RELAY, THEIRS, *QUICK, *WHERE, SMTPFRONT])
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                runs[name].append(send(server, text, unverified_context() if "TLS" in name else None, BDAT in name))
        for server in set(servers.values()):
            server.stop()
    results = {name: (median(run[0] for run in runs[name]), max(run[1] for run in runs[name])) for name in runs}
    their_rate, _ = results.pop(ECHO, (None, None))
    found = []
    for name, (rate, size) in results.items():
        aim = BDAT_AIM if BDAT in name else RATE_AIMS.get(name, ANY_RATE_AIM)
        beside = (None, "-") if name.endswith("TLS") else (their_rate, str(echo))
        if BDAT in name:
            beside = results[name.removesuffix(BDAT)][0], "DATA"
        found.append(Row(f"data: {megabytes} MB, {name}", rate, "MB/s", *beside, aim))
        found.append(Row(f"data: {megabytes} MB, {name}, memory", size, "MB", aim=MEMORY_AIM))
    return found


def main() -> None:
    rounds, megabytes = arguments(5, 50)
    show(rows(rounds, megabytes), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
