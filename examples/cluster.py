"""Run POP3 on one host and SMTP on three, with one Redis server for their logins and limits, all on 127.0.0.1.

With --check, test a login, the limit over all hosts, and what happens without Redis, and exit.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the servers and all sessions.
"""

import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from processes import SIGNALS, Processes, stop_group, unblock_signals

PROGRAMS = Path(sys.executable).parent
ADDRESS, CLIENT = "127.0.0.1", "127.0.0.5"
USER, PASSWORD = "joe@example.com", "tanstaaf"  # only this host can reach the servers
INSIDE, OUTSIDE = "someone@example.com", "someone@elsewhere.example"
LIMIT = 5  # recipients in an hour
HOSTS = ("one", "two", "three")
PATIENCE = 20.0  # seconds


class Cluster:
    """The servers. All of them end with `stop`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: Processes = []

    def start(self) -> None:
        """Start all servers."""
        directory = self.directory
        self.redis = self.start_redis(directory / "redis.sock")
        (directory / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        (directory / "users").chmod(0o600)
        checker = [str(PROGRAMS / name) for name in ("checkusers", "relay-allow")]
        smtp = [str(PROGRAMS / name) for name in ("relay-check", "qmail-smtpd")]
        self.smtp = [self.start_server(name, smtp) for name in HOSTS]
        self.pop3 = self.start_server("one", [str(PROGRAMS / "qmail-popup"), "mail.example.com", *checker, "true"])

    def start_redis(self, path: Path) -> "subprocess.Popen[bytes]":
        """Start a Redis that only this user can reach, and wait for its socket."""
        options = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600", "--save", "", "--dir", "/"]
        if shutil.which("redis-server") is None:
            fail("redis-server is not installed")
        process = self.start_process(["redis-server", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                fail("redis-server does not start")
            time.sleep(0.02)
        return process

    def start_server(self, name: str, program: list[str]) -> int:
        """Start a server of a host. Return its port."""
        home = self.directory / name
        if not home.exists():
            (home / "control").mkdir(parents=True)
            for folder in ("new", "cur", "tmp"):
                (home / "Maildir" / folder).mkdir(parents=True)
            controls = {
                "me": f"{name}.example.com",
                "rcpthosts": "example.com",
                "relaystore": f"unix://{self.directory}/redis.sock",
                "relayproxies": "::1",  # all clients of this example are on loopback
                "relaylimits": f".: {LIMIT}/3600",
            }
            for file, text in controls.items():
                (home / "control" / file).write_text(text + "\n")
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "QMAILHOME": str(home),
            "QMAILQUEUE": str(PROGRAMS / "maildir-queue"),
            "QUEUE_MAILDIR": str(home / "Maildir"),
            "CHECKUSERS_FILE": str(self.directory / "users"),
        }
        words = [str(PROGRAMS / "tcpserver"), "-1", "-RHl0", ADDRESS, "0", *program]
        process = self.start_process(words, stdout=subprocess.PIPE, env=environ)
        assert process.stdout
        line = process.stdout.readline()
        return int(line) if line else fail("a server does not start: see its message above")

    def start_process(self, words: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a process in the group of the first one. A stop signal waits until the new process is recorded."""
        group = self.processes[0].pid if self.processes else 0
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process = subprocess.Popen(words, process_group=group, preexec_fn=unblock_signals, **options)
            self.processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return process

    def stop(self) -> None:
        """Stop all servers and their sessions. A further signal does not interrupt this."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if self.processes:
            stop_group(self.processes)


def fail(text: str) -> NoReturn:
    """Print why nothing runs, and exit."""
    print(f"cluster: {text}", file=sys.stderr)
    sys.exit(111)


def log_in(port: int) -> bool:
    """Whether a POP3 login from CLIENT succeeds."""
    with socket.create_connection((ADDRESS, port), PATIENCE, (CLIENT, 0)) as client:
        client.sendall(f"USER {USER}\r\nPASS {PASSWORD}\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(4096):
            answer += part
    return b"-ERR" not in answer


def send(port: int, recipient: str) -> int:
    """Send a message from CLIENT. Return the code of the reply to the recipient."""
    with smtplib.SMTP(ADDRESS, port, "client.example", PATIENCE, (CLIENT, 0)) as smtp:
        smtp.helo()
        smtp.mail("joe@example.com")
        code, _ = smtp.rcpt(recipient)
        if code == 250:
            smtp.data("Subject: cluster\r\n\r\nhello\r\n")
        return code


def check(cluster: Cluster) -> int:
    """Run all steps and print each result. Return the exit code."""
    status = 0

    def step(what: str, found: object, expected: object) -> None:
        nonlocal status
        status |= found != expected
        print(f"cluster: {'ok' if found == expected else 'NOT OK'}: {what}: {found}", flush=True)

    step("before a login no host relays", [send(port, OUTSIDE) for port in cluster.smtp], [553] * 3)
    step("a POP3 login on host one", log_in(cluster.pop3), True)
    ports = (cluster.smtp * LIMIT)[:LIMIT]
    step(f"{LIMIT} recipients over the three hosts", [send(port, OUTSIDE) for port in ports], [250] * LIMIT)
    step("then the limit holds on each host", [send(port, OUTSIDE) for port in cluster.smtp], [452] * 3)
    cluster.redis.kill()
    cluster.redis.wait()
    step("without the Redis no host relays", [send(port, OUTSIDE) for port in cluster.smtp], [553] * 3)
    step("and each takes mail for example.com", [send(port, INSIDE) for port in cluster.smtp], [250] * 3)
    return status


def end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """Return the exit code of --check. A signal ends this process with 128 + its number."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # SIGHUP under nohup
            signal.signal(number, end)
    with tempfile.TemporaryDirectory(prefix="cluster.") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.start()
            if "--check" in sys.argv[1:]:
                return check(cluster)
            ports = " ".join(map(str, cluster.smtp))
            print(f"cluster: SMTP on {ADDRESS} ports {ports}, POP3 on port {cluster.pop3}", flush=True)
            print(f"cluster: user {USER}, password {PASSWORD}; homes are in {name}; Ctrl-C stops all", flush=True)
            while True:
                signal.pause()
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
