"""A byte stream to a server on a non-blocking descriptor: send and receive, each with a deadline. Knows no SMTP."""

import os
import time
from select import POLLIN, POLLOUT, poll
from typing import Protocol

BLOCK = 65536


class ConnectionLost(Exception):
    """The server has closed the connection, or it is broken."""


class TimedOut(Exception):
    """The deadline has passed."""


class Transport(Protocol):
    """What a conversation needs. Deadlines are on the monotonic clock."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all the data. Raise ConnectionLost, TimedOut."""

    def receive(self, deadline: float) -> bytes:
        """Return the available data, at least one byte. Raise ConnectionLost, TimedOut."""

    def close(self) -> None:
        """Close the stream, within seconds."""


class Descriptor:
    """A stream on a socket's descriptor, which is closed with the stream."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    def send(self, data: bytes, deadline: float) -> None:
        while data:
            self.wait(POLLOUT, deadline)
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ConnectionLost from error

    def receive(self, deadline: float) -> bytes:
        while True:
            self.wait(POLLIN, deadline)
            try:
                data = os.read(self.descriptor, BLOCK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise ConnectionLost from error
            if not data:
                raise ConnectionLost
            return data

    def wait(self, event: int, deadline: float) -> None:
        """Wait until the descriptor is ready. A past deadline still accepts a descriptor that is ready now."""
        poller = poll()
        poller.register(self.descriptor, event)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimedOut

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
