"""Run a server on a socket as its descriptors 0 and 1, with a client's UCSPI environment. One process at a time.

Its log goes to an unnamed file, whose last line can be shown.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from qmail_smtpd.probe.transport import Descriptor

GRACE = 1.0  # seconds from QUIT to SIGTERM, and from there to SIGKILL
LOG_TAIL = 4096  # bytes

# Variables of another client that this process may have inherited.
OF_CLIENT = (
    "PROTO",
    "REMOTE_HOST",
    "RELAYCLIENT",
    "NORELAY",
    "RBLSMTPD",
    "DATABYTES",
    "SMTPAUTHUSER",
    "AUTHENTICATED",
    "PROXYREMOTEIP",
    "PROXYREMOTEPORT",
)
SERVER_IP = "127.0.0.1"


def without_client(environ: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the environment without the variables that describe a client."""
    kept = {name: value for name, value in environ.items() if name not in OF_CLIENT and not name.startswith("TCP")}
    return {os.fsencode(name): os.fsencode(value) for name, value in kept.items()}


def client_variables(ip: bytes, host: bytes | None = None, info: bytes | None = None) -> dict[bytes, bytes]:
    """Return the variables that tcpserver sets for a client (as tcpserver.environ, which cannot be imported here)."""
    variables = {
        b"PROTO": b"TCP6" if b":" in ip else b"TCP",
        b"TCPLOCALIP": b"::1" if b":" in ip else SERVER_IP.encode(),
        b"TCPLOCALPORT": b"25",
        b"TCPREMOTEIP": ip,
        b"TCPREMOTEPORT": b"40000",
        b"TCPREMOTEHOST": host,
        b"TCPREMOTEINFO": info,
    }
    return {name: value for name, value in variables.items() if value is not None}


class ProgramRunner:
    """Starts the program for each conversation. Raises OSError if it cannot be run."""

    def __init__(self, argv: Sequence[str], environ: dict[bytes, bytes]) -> None:
        self.argv = list(argv)
        self.environ = environ
        self.log: IO[bytes] | None = None

    def __call__(self) -> "ProgramConnection":
        self.log = self.log or tempfile.TemporaryFile()
        client_end, server_end = socket.socketpair()
        try:
            end = server_end.fileno()
            process = subprocess.Popen(
                self.argv, stdin=end, stdout=end, stderr=self.log.fileno(), env=self.environ, process_group=0
            )
        except ValueError as error:  # an invalid environment
            client_end.close()
            raise OSError(str(error)) from error
        except OSError:
            client_end.close()
            raise
        finally:
            server_end.close()
        return ProgramConnection(client_end.detach(), process)

    def last_log_line(self) -> bytes:
        """Return the last line of the program's log."""
        if self.log is None:
            return b""
        size = os.fstat(self.log.fileno()).st_size
        tail = os.pread(self.log.fileno(), LOG_TAIL, max(0, size - LOG_TAIL))
        return tail.rstrip(b"\n").rpartition(b"\n")[2]


class ProgramConnection(Descriptor):
    """The connection to a program. Closing it ends the program."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(descriptor)
        self.process = process

    def close(self) -> None:
        """Close the connection, and make sure that the program and its children end."""
        super().close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                self.process.wait(GRACE)
                return
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, number)
        self.process.wait()
