"""What the examples share: ports, the environment of a server, and `Servers`, which runs several run scripts."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, NoReturn

from processes import Processes, block_signals, start_beside, stop_group, unblock_signals, wait_for_any

EXAMPLES = Path(__file__).resolve().parent
PROGRAMS = EXAMPLES.parent / ".venv" / "bin"
ADDRESS = "127.0.0.1"
START_TIMEOUT = 20  # seconds until all servers must listen

# Removed from the environment: these variables would change which clients may relay, or how the server starts.
NOT_INHERITED = (
    "RELAYCLIENT",
    "RCPTCHECK",
    "DATABYTES",
    "SMTPAUTH",
    "SMTPAUTHFILE",
    "SMTPAUTHSOCKET",
    "SMTPS",
    "SPPCONFFILE",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "RELAY_STORE",
    "RELAY_DIR",
    "RELAY_SECONDS",
    "RELAY_PROXIES",
    "CHECKUSERS_FILE",
    "POP3S",
    "USER",
)


def name() -> str:
    """Return the name of the example that runs."""
    return Path(sys.argv[0]).stem


def fatal(status: int, text: object) -> NoReturn:
    """Print why nothing runs, and exit."""
    print(f"{name()}: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def require_free_port(port: str, advice: str) -> None:
    """End with 111 if the port is not available."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, int(port)))
        except OSError as error:
            fatal(111, f"unable to use port {port} of {ADDRESS}: {error.strerror}. {advice}")


def run(command: list[str | Path], text: str = "", variables: dict[str, str] | None = None) -> None:
    """Run a program with PATH and these variables. If it fails, print its error output and end with 111."""
    environ = {"PATH": os.environ.get("PATH", os.defpath)} | (variables or {})
    result = subprocess.run(command, input=text, env=environ, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.stderr.write(result.stderr)
        fatal(111, f"{command[0]} failed: see its message above")


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a server whose qmail home is `home`, and whose mail goes to its Maildir."""
    environ = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    return environ | {
        "PATH": f"{PROGRAMS}:{environ.get('PATH', os.defpath)}",
        "QMAILHOME": str(home),
        "QMAILQUEUE": str(PROGRAMS / "maildir-queue"),
        "QUEUE_MAILDIR": str(home / "Maildir"),
    }


def print_log(log: IO[bytes]) -> None:
    log.seek(0)
    sys.stderr.write(log.read().decode("ascii", "replace"))


class Servers(ABC):
    """Servers with run scripts, all in one process group. Its leader is the first one."""

    services: tuple[str, ...]  # lists of ports have this order
    ports: str  # the default of $PORTS
    other_ports: str  # an example of others
    count: str  # how many they are, as a word

    @abstractmethod
    def prepare(self, home: Path, for_check: bool) -> None:
        """Create the files of the servers, unless they exist."""

    @abstractmethod
    def command(self, service: str) -> list[str | Path]:
        """Return the command of a service."""

    @abstractmethod
    def variables(self, service: str, for_check: bool) -> dict[str, str]:
        """Return what a service gets beside environment()."""

    @abstractmethod
    def banner(self, home: Path, ports: list[int]) -> str:
        """Return where the files are and which commands to try."""

    @abstractmethod
    def check_command(self, home: Path, ports: list[int]) -> list[str | Path]:
        """Return the command that tests the servers."""

    def main(self, home: Path) -> int:
        """Return the exit code: 0 or 1 for --check, a server's if one exits by itself, else 128 + the signal number."""
        stop_signals = block_signals()
        try:
            if sys.argv[1:] != ["--check"]:
                return self.serve(home, self.requested_ports(), stop_signals)
            with tempfile.TemporaryDirectory(prefix=f"{name()}-") as temporary:
                return self.check(Path(temporary), stop_signals)
        except OSError as error:
            fatal(111, error)

    def requested_ports(self) -> list[int]:
        """Return $PORTS. End with 100 if they are not as many port numbers, with 111 if one is not available."""
        words = (os.environ.get("PORTS") or self.ports).split()
        if len(words) != len(self.services) or not all(map(is_port, words)):
            fatal(100, f"PORTS are not {self.count} numbers from 1 to 65535: {' '.join(words)}")
        for word in words:
            require_free_port(word, f'Choose others: PORTS="{self.other_ports}"')
        return [int(word) for word in words]

    def reserve_ports(self) -> list[socket.socket]:
        """Return a socket for each service, bound to a free port: only our servers may then listen there."""
        reserved = [socket.socket() for _ in self.services]
        for port in reserved:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind((ADDRESS, 0))
        return reserved

    def serve(self, home: Path, ports: list[int], stop_signals: set[signal.Signals]) -> int:
        """Serve until a stop signal arrives or a server exits by itself. Return the exit code."""
        home.mkdir(exist_ok=True)
        self.prepare(home, for_check=False)
        servers = self.start(home, ports, None)
        try:
            if self.wait_until_listening(servers, ports):
                sys.stdout.write(self.banner(home, ports))  # one write: no log line of the servers comes between
                sys.stdout.flush()
            return wait_for_any(servers, stop_signals)
        finally:
            stop_group(servers)

    def check(self, home: Path, stop_signals: set[signal.Signals]) -> int:
        """Test temporary servers. Return the exit code; if not 0, print their log."""
        self.prepare(home, for_check=True)
        reserved = self.reserve_ports()
        ports: list[int] = [port.getsockname()[1] for port in reserved]
        with tempfile.TemporaryFile() as log:
            processes = self.start(home, ports, log)
            status = 1
            try:
                if self.wait_until_listening(processes, ports):
                    start_beside(processes, self.check_command(home, ports))
                    status = wait_for_any(processes[-1:], stop_signals)
            finally:
                stop_group(processes)
                for port in reserved:
                    port.close()
            if status:
                print_log(log)
            return status

    def start(self, home: Path, ports: list[int], log: IO[bytes] | None) -> Processes:
        """Start the run script of each service. With `log`, for the check, their log goes there."""
        common = {"RULES": str(home / "tcp.smtp.cdb"), "ADDRESS": ADDRESS, "ACCOUNT": pwd.getpwuid(os.getuid()).pw_name}
        servers: Processes = []
        commands = [self.command(service) for service in self.services]  # first, because this may be fatal
        for service, command, port in zip(self.services, commands, ports, strict=True):
            variables = common | {"PORT": str(port)} | self.variables(service, for_check=log is not None)
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(home) | variables,
                process_group=servers[0].pid if servers else 0,
                preexec_fn=unblock_signals,
            )
            servers.append(server)
        return servers

    def wait_until_listening(self, servers: Processes, ports: list[int]) -> bool:
        """Wait until all servers listen. Return False if one exits (its own message has the reason) or time is over."""
        deadline = time.monotonic() + START_TIMEOUT
        for server, port in zip(servers, ports, strict=True):
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    socket.create_connection((ADDRESS, port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            else:
                return False
        return True
