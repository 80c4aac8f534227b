"""How the parent gives a worker its next client, and how the worker reports the end of one. Formats and system calls.

A client is one message on the worker's own socket: the edits of the environment, with the connection as a descriptor.
A result is one record in the pipe that all workers share.
"""

import _socket as socket
import os
import sys
from struct import Struct

MAX_EDITS = 65536  # bytes; a client for whom the rules set more gets a process of its own
RESULT = Struct("=II")  # pid and exit status
AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def send_client(channel: int, connection: int, edits: bytes) -> bool:
    """Give the worker at the other end of `channel` a client. False if it has ended, or takes nothing now."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
    try:
        end.sendmsg([edits], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, connection.to_bytes(4, sys.byteorder))], AT_ONCE)
    except OSError:
        return False
    finally:
        end.detach()
    return True


def receive_client(channel: socket.socket) -> tuple[int, bytes] | None:
    """Wait for a client: its connection, and the edits. None when the parent has closed the other end."""
    edits, extra, _, _ = channel.recvmsg(MAX_EDITS, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
    if not extra:
        return None
    return int.from_bytes(extra[0][2], sys.byteorder), edits


def send_result(pipe: int, status: int) -> None:
    """Report that this worker's client is gone, with the program's exit status. Raises OSError."""
    os.write(pipe, RESULT.pack(os.getpid(), status))


def receive_results(pipe: int) -> list[tuple[int, int]]:
    """All (pid, exit status) that stand in the pipe."""
    data = b""
    try:
        while part := os.read(pipe, 65536):
            data += part
    except BlockingIOError:
        pass
    return list(RESULT.iter_unpack(data))
