"""Commands and answers on a connection to Redis, in RESP2. redis-py opens the connection: TLS, password, database.

Every relayed recipient takes this way. redis-py's own takes more than twice the CPU.
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

import socket
import struct
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, ResponseError

if TYPE_CHECKING:
    Answer = bytes | int | None | ResponseError | list["Answer"]

PIECE = 65536  # bytes that are received at once
LARGEST = 64 << 20  # bytes of an answer: a thousand logins have 200 kB
DEEPEST = 4  # arrays in arrays
ERRORS = {b"NOSCRIPT": NoScriptError, b"READONLY": ReadOnlyError}


class Incomplete(Exception):
    """The answer goes on in what has not been received yet."""


class Line:
    """A connection. `unread` are the commands that were sent and whose answers nobody has read."""

    __slots__ = ("received", "seconds", "socket", "unread")

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self.socket = connected
        self.received = b""
        self.unread: list[bytes] = []
        self.seconds = 0.0
        self.limit(seconds)

    def limit(self, seconds: float) -> None:
        """Set how long a system call may take. The kernel ends those that take longer: Python would poll before each.

        A TLS connection (ssl.SSLSocket) keeps Python's time-out, and so does one whose kernel wants another structure.
        """
        self.seconds = seconds
        self.socket.settimeout(seconds)
        if type(self.socket) is not socket.socket:
            return
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))  # struct timeval
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except OSError:
            return
        self.socket.settimeout(None)

    def send(self, command: bytes) -> None:
        """Send a packed command, and leave its answer for later. Raise OSError."""
        self.unread.append(command)
        try:
            self.socket.sendall(command)
        except BlockingIOError:
            raise TimeoutError from None

    def read(self) -> "Answer":
        """Return the answer to the first unread command, also an error. Raise RedisError and OSError."""
        while True:
            if self.received:
                try:
                    answer, end = parse(self.received, 0)
                    break
                except Incomplete:
                    pass
            self.receive()
        self.received = self.received[end:]
        del self.unread[0]
        return answer

    def receive(self) -> None:
        """Wait for more of an answer. Raise RedisError and OSError."""
        try:
            piece = self.socket.recv(PIECE)
        except BlockingIOError:
            raise TimeoutError from None
        if not piece:
            raise Disconnected("connection closed by server")
        self.received += piece
        if len(self.received) > LARGEST:
            raise InvalidResponse("the answer is too long")


def packed(*command: bytes) -> bytes:
    """Return a command as it is sent."""
    return b"*%d\r\n" % len(command) + words(*command)


def words(*command: bytes) -> bytes:
    """Return some words of a command as they are sent."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in command])


def parse(data: bytes, position: int, depth: int = 0) -> "tuple[Answer, int]":
    """Return the answer at this position, and the position after it. Raise Incomplete and InvalidResponse."""
    end = data.find(b"\r\n", position)
    if end < 0:
        raise Incomplete
    kind, text, position = data[position : position + 1], data[position + 1 : end], end + 2
    if kind == b"+":
        return text, position
    if kind == b"-":
        return error(text), position
    number = whole(text)
    if kind == b":":
        return number, position
    if kind == b"$":
        return bulk(data, position, number)
    if kind != b"*" or depth == DEEPEST:
        raise InvalidResponse("not an answer of RESP2")
    if number < 0:
        return None, position
    answers = []
    for _ in range(number):
        answer, position = parse(data, position, depth + 1)
        answers.append(answer)
    return answers, position


def bulk(data: bytes, position: int, length: int) -> tuple[bytes | None, int]:
    """Return the string of this length at this position, None for a negative length, and the position after it."""
    if length < 0:
        return None, position
    end = position + length
    if len(data) < end + 2:
        raise Incomplete
    return data[position:end], end + 2


def whole(text: bytes) -> int:
    """Return a decimal number. Raise InvalidResponse."""
    try:
        return int(text)
    except ValueError:
        raise InvalidResponse("not an answer of RESP2") from None


def error(text: bytes) -> ResponseError:
    """Return the exception for an error of the server."""
    kind = ERRORS.get(text.partition(b" ")[0], ResponseError)
    return kind(text.decode("ascii", "backslashreplace"))
