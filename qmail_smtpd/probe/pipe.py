"""Run a server on a socket as its descriptors 0 and 1, with the UCSPI environment of a client. One process at a time.

What it logs goes to a file without a name, of which the end can be shown.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from qmail_smtpd.probe.transport import Descriptor

GRACE = 1.0  # seconds from QUIT to SIGTERM, and from there to SIGKILL
LOG_TAIL = 4096  # bytes

# In our own environment they would tell the program of another client than the one that is asked about.
OF_A_CLIENT = ("PROTO", "REMOTE_HOST", "RELAYCLIENT", "RBLSMTPD", "DATABYTES", "SMTPAUTHUSER", "AUTHENTICATED")
SERVER_IP = "127.0.0.1"


def base(environ: Mapping[str, str]) -> dict[bytes, bytes]:
    """An environment that tells of no client."""
    kept = {name: value for name, value in environ.items() if name not in OF_A_CLIENT and not name.startswith("TCP")}
    return {os.fsencode(name): os.fsencode(value) for name, value in kept.items()}


def client_variables(ip: bytes, host: bytes | None = None, info: bytes | None = None) -> dict[bytes, bytes]:
    """What tcpserver says of a client (tcpserver.environ, which is another package's)."""
    said = {
        b"PROTO": b"TCP6" if b":" in ip else b"TCP",
        b"TCPLOCALIP": b"::1" if b":" in ip else SERVER_IP.encode(),
        b"TCPLOCALPORT": b"25",
        b"TCPREMOTEIP": ip,
        b"TCPREMOTEPORT": b"40000",
        b"TCPREMOTEHOST": host,
        b"TCPREMOTEINFO": info,
    }
    return {name: value for name, value in said.items() if value is not None}


class Piper:
    """Starts the program anew for each conversation. Raises OSError where it cannot be run."""

    def __init__(self, argv: Sequence[str], environ: dict[bytes, bytes]) -> None:
        self.argv = list(argv)
        self.environ = environ
        self.log = tempfile.TemporaryFile()

    def __call__(self) -> "Piped":
        ours, theirs = socket.socketpair()
        try:
            end = theirs.fileno()
            process = subprocess.Popen(
                self.argv, stdin=end, stdout=end, stderr=self.log.fileno(), env=self.environ, process_group=0
            )
        except ValueError as error:  # an environment that no process can have
            ours.close()
            raise OSError(str(error)) from error
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return Piped(ours.detach(), process)

    def last_words(self) -> bytes:
        """The last line that the program wrote to its log."""
        size = os.fstat(self.log.fileno()).st_size
        tail = os.pread(self.log.fileno(), LOG_TAIL, max(0, size - LOG_TAIL))
        return tail.rstrip(b"\n").rpartition(b"\n")[2]


class Piped(Descriptor):
    """The stream to a program, which ends with it."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(descriptor)
        self.process = process

    def close(self) -> None:
        """Close the stream, and see to it that the program ends, with all that a script has started."""
        super().close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                self.process.wait(GRACE)
                return
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, number)
        self.process.wait()
