"""A byte stream to a server on descriptors that do not block: send and receive, each with a deadline. Knows no SMTP."""

import os
import time
from select import POLLIN, POLLOUT, poll
from typing import Protocol

BLOCK = 65536


class Gone(Exception):
    """The server has closed the connection, or it broke."""


class Late(Exception):
    """The deadline is over."""


class Transport(Protocol):
    """What a conversation needs. Deadlines are on the monotonic clock."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises Gone, Late."""

    def receive(self, deadline: float) -> bytes:
        """What is there, at least one byte. Raises Gone, Late."""

    def close(self) -> None:
        """The end, within seconds."""


class Descriptor:
    """A stream on one descriptor that is read and written: a socket. It is closed with the stream."""

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
                raise Gone from error

    def receive(self, deadline: float) -> bytes:
        while True:
            self.wait(POLLIN, deadline)
            try:
                data = os.read(self.descriptor, BLOCK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Gone from error
            if not data:
                raise Gone
            return data

    def wait(self, event: int, deadline: float) -> None:
        """Until the descriptor is ready. A deadline that is over still lets through what is ready now."""
        poller = poll()
        poller.register(self.descriptor, event)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Late

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
