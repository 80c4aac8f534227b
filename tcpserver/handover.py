"""How the parent gives a worker its next client, and how the worker reports the end of one. Formats and system calls.

A client is one message on the worker's own socket, with the connection as a descriptor. The message has the lines that
the worker logs first. If the parent has judged, it has the edits of the environment, otherwise the facts. A result is
one record in the pipe that all workers share.
"""

import _socket as socket
import marshal
import os
import sys
from struct import Struct

from tcpserver.environ import Edits, Facts

MAX_MESSAGE = 65536  # bytes; a client for whom the rules set more gets a process of its own
RESULT = Struct("=II")  # pid and exit status
AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Job:
    """What a worker is to do for one client. If the parent has judged, `facts` is None, and `edits` are complete."""

    __slots__ = ("announcement", "edits", "facts", "others")

    def __init__(self, announcement: bytes, edits: Edits, facts: Facts | None = None, others: int = 0) -> None:
        self.announcement = announcement  # lines for the log
        self.edits = edits
        self.facts = facts
        self.others = others  # how many more are connected from the same address


def encode(job: Job) -> bytes:
    """A job as bytes."""
    facts = job.facts
    known = None
    if facts is not None:
        ends = facts.local_ip, facts.local_port, facts.remote_ip, facts.remote_port
        proxy = facts.proxy_ip, facts.proxy_port, facts.never_relays
        known = *ends, facts.interface, *proxy, facts.via, facts.connection
    return marshal.dumps((job.announcement, job.edits, known, job.others))


def decode(message: bytes) -> Job:
    """What encode() was given. Only the parent writes to a worker's socket."""
    announcement, edits, known, others = marshal.loads(message)  # noqa: S302  (see above)
    facts = None
    if known is not None:
        facts = Facts(*known[:4])
        facts.interface, facts.proxy_ip, facts.proxy_port, facts.never_relays, facts.via, facts.connection = known[4:]
    return Job(announcement, edits, facts, others)


def send_client(channel: int, connection: int, message: bytes) -> bool:
    """Give the worker at the other end of `channel` a client. False if it has ended, or takes nothing now."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
    try:
        end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, connection.to_bytes(4, sys.byteorder))], AT_ONCE)
    except OSError:
        return False
    finally:
        end.detach()
    return True


def receive_client(channel: socket.socket) -> tuple[int, bytes] | None:
    """Wait for a client: its connection, and the message. None when the parent has closed the other end."""
    message, extra, _, _ = channel.recvmsg(MAX_MESSAGE, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
    if not extra:
        return None
    return int.from_bytes(extra[0][2], sys.byteorder), message


def send_result(pipe: int, status: int) -> None:
    """Report that this worker's client is gone, with the program's exit status. Raises OSError."""
    os.write(pipe, RESULT.pack(os.getpid(), status))


def receive_results(pipe: int) -> list[tuple[int, int]]:
    """All (pid, exit status) that are in the pipe."""
    data = b""
    try:
        while part := os.read(pipe, 65536):
            data += part
    except BlockingIOError:
        pass
    return list(RESULT.iter_unpack(data))
