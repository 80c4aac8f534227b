"""Commands and answers on a connection to Redis, in RESP2. redis-py opens the connection: TLS, password, database.

redis-py's own way from a command to its answer takes 27 us of CPU, this one 11. Every relayed recipient takes it.
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, ResponseError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    Answer = bytes | int | None | ResponseError | list["Answer"]

PIECE = 65536  # bytes that are received at once
LARGEST = 64 << 20  # bytes of an answer: a thousand logins have 200 kB
DEEPEST = 4  # arrays in arrays
ERRORS = {b"NOSCRIPT": NoScriptError, b"READONLY": ReadOnlyError}


class Incomplete(Exception):
    """The answer goes on in what has not been received yet."""


class Line:
    """A connection. `unread` are the commands that were sent and whose answers nobody has read."""

    __slots__ = ("received", "socket", "unread")

    def __init__(self, connected: "socket.socket") -> None:
        self.socket = connected
        self.received = b""
        self.unread: list[Sequence[bytes]] = []

    def send(self, command: "Sequence[bytes]") -> None:
        """Send a command, and leave its answer for later. Raise OSError."""
        self.unread.append(command)
        self.socket.sendall(packed(command))

    def read(self) -> "Answer":
        """Return the answer to the first unread command, also an error. Raise RedisError and OSError."""
        while True:
            try:
                answer, end = parse(self.received, 0)
                break
            except Incomplete:
                piece = self.socket.recv(PIECE)
                self.received += piece
                if not piece:
                    raise Disconnected("connection closed by server") from None
                if len(self.received) > LARGEST:
                    raise InvalidResponse("the answer is too long") from None
        self.received = self.received[end:]
        del self.unread[0]
        return answer


def packed(command: "Sequence[bytes]") -> bytes:
    """Return a command as it is sent."""
    return b"*%d\r\n" % len(command) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in command])


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
