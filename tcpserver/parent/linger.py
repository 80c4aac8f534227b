"""Clients that are refused with a message, and have a second to read it. The accept loop does not wait for them.

A socket closed with unread data resets the connection and may take the message with it, hence the draining. Bounded in
time and in number; knows nothing of why they are refused.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket

SHUT_WR = 1  # sys/socket.h
MOST = 64  # sockets; one more is closed immediately
SECONDS = 1.0
DRAIN_BYTES = 65536  # at most in one read
DRAIN_READS = 4  # how often, before the others have their turn


class Linger:
    """The sockets that are about to be closed, each with its deadline; the oldest first."""

    __slots__ = ("deadlines", "sockets")

    def __init__(self) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.deadlines: dict[int, float] = {}

    def refuse(self, connection: "socket.socket", message: bytes, now: float) -> None:
        """Send the message, half-close, and keep the socket for a second if there is room for it."""
        connection.setblocking(False)
        try:
            connection.send(message)
            connection.shutdown(SHUT_WR)
        except OSError:
            return
        if len(self.sockets) < MOST:
            self.sockets[connection.fileno()] = connection
            self.deadlines[connection.fileno()] = now + SECONDS

    def drain(self, descriptor: int) -> bool:
        """Throw away what the client sent. True once it is gone."""
        for _ in range(DRAIN_READS):
            try:
                if not os.read(descriptor, DRAIN_BYTES):
                    return True
            except BlockingIOError:
                return False
            except OSError:
                return True
        return False

    def close(self, descriptor: int) -> None:
        """Close one of them."""
        self.sockets.pop(descriptor).close()
        del self.deadlines[descriptor]

    def late(self, now: float) -> list[int]:
        """The descriptors whose time is over."""
        return [descriptor for descriptor, deadline in self.deadlines.items() if deadline <= now]

    def next_deadline(self) -> float | None:
        """When the next one's time is over (time.monotonic()); None if there is none."""
        return min(self.deadlines.values(), default=None)
