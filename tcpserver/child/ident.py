"""The user that the client's host names (RFC 1413): -r. It proves nothing; 0.88 offers it for the log.

Unlike in 0.88, the answer must be about our pair of ports and say USERID, and control bytes are dropped.
"""

import _socket as socket  # see listen
import errno
import time

from tcpserver.child.names import Unasked
from tcpserver.environ import Facts

PORT = 113
LONGEST_WAIT = 2_000_000.0  # seconds: settimeout passes milliseconds to poll(2) as an int, which more would overflow
LONGEST_REPLY = 1000  # RFC 1413, 4: a reply is at most 1000 characters
LONGEST_USER = 257  # remoteinfo.c stops there
NO_RESOURCES = (  # this system's errors, which say nothing about the client's host
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
)
BLANKS = b" \t\r"  # remoteinfo.c drops them anywhere


def ask(facts: Facts, timeout: int, deadline: float) -> bytes | None:
    """The user that the client's host names, or None. One deadline for connecting, asking and reading.

    Raises names.Unasked.
    """
    deadline = min(deadline, time.monotonic() + timeout)
    family = socket.AF_INET6 if b":" in facts.remote_ip else socket.AF_INET
    try:
        talk = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Unasked from error
    try:
        wait_until(talk, deadline)
        talk.bind((facts.local_ip.decode(), 0))
        talk.connect((facts.remote_ip.decode(), PORT))
        wait_until(talk, deadline)
        talk.sendall(b"%d , %d\r\n" % (facts.remote_port, facts.local_port))
        return user(read_line(talk, deadline), facts.remote_port, facts.local_port)
    except OSError as error:
        if error.errno in NO_RESOURCES and not isinstance(error, TimeoutError):
            raise Unasked from error
        return None
    finally:
        talk.close()


def wait_until(talk: socket.socket, deadline: float) -> None:
    """Let the next call wait until the deadline, at most 23 days. Raises TimeoutError after it."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    talk.settimeout(min(remaining, LONGEST_WAIT))


def read_line(talk: socket.socket, deadline: float) -> bytes:
    """One line with its LF, or what came before the end of the connection or the longest reply."""
    line = b""
    while b"\n" not in line and len(line) < LONGEST_REPLY:
        wait_until(talk, deadline)
        part = talk.recv(LONGEST_REPLY - len(line))
        if not part:
            break
        line += part
    return line


def user(reply: bytes, remote_port: int, local_port: int) -> bytes | None:
    """The user in a reply `REMOTEPORT , LOCALPORT : USERID : SYSTEM : USER`, or None where it is not one. Pure."""
    line, end, _ = reply.partition(b"\n")
    parts = line.translate(None, BLANKS).split(b":", 3)
    if not end or len(parts) != 4:
        return None
    if parts[0] != b"%d,%d" % (remote_port, local_port) or parts[1].upper() != b"USERID":
        return None
    return bytes(byte for byte in parts[3] if byte >= 32 and byte != 127)[:LONGEST_USER]
