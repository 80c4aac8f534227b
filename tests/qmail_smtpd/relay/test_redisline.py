"""Redis's answers on a connection, in whatever pieces they arrive, and what is no answer."""

import os
import socket
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, ResponseError

from qmail_smtpd.relay import redisline
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.redisclient import Client
from qmail_smtpd.relay.redisline import Line, packed
from qmail_smtpd.relay.redisscripts import TAKE

ANSWERS: list[tuple[bytes, object]] = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$5\r\na\r\nb\r\r\n", b"a\r\nb\r"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n$1\r\nx\r\n*2\r\n$-1\r\n+y\r\n", [1, b"x", [None, b"y"]]),
]


@pytest.fixture
def ends() -> Iterator[tuple[Line, socket.socket]]:
    client_end, server_end = socket.socketpair()
    with client_end, server_end:
        yield Line(client_end, 20), server_end


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_answers_are_read_in_pieces_of_any_size(ends: tuple[Line, socket.socket], size: int) -> None:
    line, server = ends
    text = b"".join(answer for answer, _ in ANSWERS)
    for _ in ANSWERS:
        line.send(packed(b"TIME"))
    found, left = [], text
    while left or line.received:
        server.send(left[:size])
        left = left[size:]
        line.socket.setblocking(False)
        try:
            while True:
                found.append(line.read())
        except (TimeoutError, IndexError):
            pass
    assert found == [value for _, value in ANSWERS]
    assert server.recv(999) == b"*1\r\n$4\r\nTIME\r\n" * len(ANSWERS)


def test_a_command_is_counted_in_bytes() -> None:
    assert packed(b"GET", b"\xff\r\n", b"") == b"*3\r\n$3\r\nGET\r\n$3\r\n\xff\r\n\r\n$0\r\n\r\n"


def test_the_kernel_limits_the_time_of_reads_and_writes() -> None:
    client_end, server_end = socket.socketpair()
    with client_end, server_end:
        line = Line(client_end, 20)
        line.limit(0.25)
        assert client_end.gettimeout() is None
        started = monotonic()
        with pytest.raises(TimeoutError):
            line.read()
        assert 0.25 <= monotonic() - started < 20
        with pytest.raises(TimeoutError):
            line.send(bytes(1 << 22))


class Elsewhere(socket.socket):
    """A socket of which only Python limits the time, as ssl.SSLSocket."""


@pytest.mark.parametrize("kind", [Elsewhere, socket.socket])
def test_python_limits_the_time_where_the_kernel_does_not(
    kind: type[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 32-bit system with 64-bit times refuses the structure."""
    monkeypatch.setattr(redisline, "struct", SimpleNamespace(pack=lambda *_: b"short"))
    client_end, server_end = socket.socketpair()
    with server_end, kind(client_end.family, client_end.type, client_end.proto, client_end.detach()) as connected:
        line = Line(connected, 0.25)
        assert connected.gettimeout() == 0.25
        with pytest.raises(TimeoutError):
            line.read()


def test_errors_are_answers(ends: tuple[Line, socket.socket]) -> None:
    line, server = ends
    server.send(b"-OOM too much\r\n-NOSCRIPT No \xffmatching script\r\n*1\r\n-ERR x\r\n")
    for _ in range(3):
        line.send(packed(b"TIME"))
    first, second, third = line.read(), line.read(), line.read()
    assert (type(first), str(first)) == (ResponseError, "OOM too much")
    assert (type(second), str(second)) == (NoScriptError, r"NOSCRIPT No \xffmatching script")
    assert isinstance(third, list)
    assert isinstance(redisline.error(b"READONLY You can't write"), ReadOnlyError)


@pytest.mark.parametrize("text", [b"\r\n", b"hello\r\n", b":x\r\n", b"$x\r\n", b"%1\r\n", b"*1\r\n" * 9, b"*1\r\n\r\n"])
def test_what_is_no_answer_is_an_error(ends: tuple[Line, socket.socket], text: bytes) -> None:
    line, server = ends
    line.send(packed(b"TIME"))
    server.send(text)
    with pytest.raises(InvalidResponse):
        line.read()


def test_an_answer_that_does_not_end_is_an_error(
    ends: tuple[Line, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, server = ends
    monkeypatch.setattr(redisline, "LARGEST", 100)
    line.send(packed(b"TIME"))
    server.send(b"$999\r\n" + b"x" * 200)
    with pytest.raises(InvalidResponse):
        line.read()
    assert server.recv(99)
    server.close()
    line.received = b"$999\r\n"
    with pytest.raises(Disconnected):
        line.read()


class Watched(Line):
    """A connection whose server reads only after each command has been sent, or has failed."""

    __slots__ = ("seen", "server")

    def __init__(self, client_end: socket.socket, server: socket.socket) -> None:
        super().__init__(client_end, 0.1)
        self.seen, self.server = b"", server
        server.setblocking(False)

    def send(self, command: bytes) -> None:
        try:
            super().send(command)
        finally:
            try:
                while piece := self.server.recv(1 << 20):
                    self.seen += piece
            except BlockingIOError:
                pass


def test_after_a_part_of_a_command_nothing_else_is_sent_on_the_same_connection() -> None:
    client_end, server_end = socket.socketpair()
    with client_end, server_end:
        client = Client(b"redis://127.0.0.1:1", 0.1)
        client.line = line = Watched(client_end, server_end)
        client.connection, client.pid = SimpleNamespace(disconnect=client_end.close), os.getpid()
        name = b"x" * (8 << 20)
        with pytest.raises(StoreError, match="timed out"):
            client.run_without_answer(TAKE, [name], b"1")
        assert len(line.seen) < len(name)
        assert line.seen.count(b"*5\r\n") == 1
        assert client.kept() is None
