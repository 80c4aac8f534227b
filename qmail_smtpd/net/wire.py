"""Descriptors 0 and 1: the client. Waits, times out, writes what is pending before it reads.

Knows no SMTP beyond the difference between commands and DATA, which is read in larger blocks and may not be too slow.
With a layer (tls.py) all that is read and written passes through it; without one nothing of TLS is loaded.
"""

import os
from select import POLLIN, POLLOUT, poll
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Layer(Protocol):
        """What a wire, and a program beside it, needs of TLS (tls.py has the class)."""

        protocol: bytes
        cipher: bytes
        over: bool

        def take(self, seconds: float, size: int) -> bytes:
            """What the client says; empty at its end."""

        def take_ready(self) -> bytes | None:
            """What a readable descriptor brings; None where no record is complete."""

        def rest(self) -> bytes:
            """What has been read already, and not yet taken."""

        def seal(self, data: bytearray) -> bytearray:
            """The records to write for all the data."""

        def close(self) -> None:
            """Queue what is pending and the goodbye."""


COMMAND_BLOCK = 8192
DATA_BLOCK = 131072  # measured: the fastest from a socket; smaller is slower over TCP, larger costs memory
WRITE_BLOCK = 4096  # PIPE_BUF: as much as a pipe that polls writable takes without blocking
PENDING_LIMIT = 16384  # replies to one block of pipelined commands are not collected without end
SLOW_SECONDS = 600.0  # DATA has to bring, in each ten minutes of waiting for it,
SLOW_BYTES = 600 * 1024  # one kB for every second
LONGEST_POLL = 2_000_000.0  # seconds: poll counts milliseconds in a C int
LAST_WORDS = 1.0  # seconds for the reply that says that the time is over
UNHEARD_BLOCKS = 64  # how many are read at the end at most, from a client that does not stop


class TimedOut(Exception):
    """The client was silent for too long, or too slow."""


class SessionTimedOut(TimedOut):
    """The time for the whole session is over."""


class Closed(Exception):
    """The client is gone, or takes nothing any more."""


class Broken(Closed):
    """What the client sends is no TLS, or not what its own end of the connection has sent. `why` is for the log."""

    def __init__(self, why: bytes) -> None:
        self.why = why


class Wire:
    """The connection. `timeout` is for one read or write; `deadline`, on the monotonic clock, for the whole session."""

    __slots__ = ("deadline", "layer", "pending", "slow_received", "slow_waited", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.deadline: float | None = None
        self.layer: Layer | None = None  # tls.accept sets it
        self.pending = bytearray()  # what is to be written, as the layer, if there is one, has yet to see it
        self.start_data()

    def limit(self, timeout: float, session_seconds: float) -> None:
        """Set the times, in seconds; 0 for a session without end."""
        self.timeout = timeout
        self.deadline = monotonic() + session_seconds if session_seconds else None

    def start_data(self) -> None:
        """A message begins: from here on DATA is measured."""
        self.slow_waited = 0.0
        self.slow_received = 0

    def read(self) -> bytes:
        """What the client sends between messages; empty at the end of file and on errors."""
        self.flush()
        return self.take(self.timeout, COMMAND_BLOCK)

    def read_data(self) -> bytes:
        """What the client sends in DATA. Only the time spent in waiting for it counts as slowness, not a slow queue."""
        self.flush()
        begun = monotonic()
        data = self.take(min(self.timeout, SLOW_SECONDS), DATA_BLOCK)
        self.slow_waited += monotonic() - begun
        self.slow_received += len(data)
        if self.slow_waited >= SLOW_SECONDS:
            if self.slow_received < SLOW_BYTES:
                raise TimedOut
            self.start_data()
        return data

    def take(self, seconds: float, size: int) -> bytes:
        """Wait for `seconds` at most, and read once."""
        if self.layer is not None:
            return self.layer.take(seconds, size)
        self.await_client(seconds)
        return receive(size)

    def await_client(self, seconds: float) -> None:
        """Wait until there is something to read, for `seconds`, and never longer than the session may last."""
        self.check_deadline()
        if not ready(0, POLLIN, seconds, self.deadline):
            self.check_deadline()
            raise TimedOut

    def check_deadline(self) -> None:
        """A client that sends and sends is not asked whether it has finished."""
        if self.deadline is not None and self.deadline <= monotonic():
            raise SessionTimedOut

    def overtime(self) -> None:
        """The session's time is over: there is some more for saying so."""
        self.deadline = None
        self.timeout = min(self.timeout, LAST_WORDS)

    def write(self, data: bytes) -> None:
        """Queue data for the client."""
        self.pending += data
        if len(self.pending) > PENDING_LIMIT:
            self.flush()

    def flush(self) -> None:
        """Write all that is pending."""
        outgoing = self.pending if self.layer is None else self.layer.seal(self.pending)
        while outgoing:
            if not ready(1, POLLOUT, self.timeout, self.deadline):
                self.check_deadline()
                raise Closed
            try:
                written = os.write(1, outgoing[:WRITE_BLOCK])
            except BlockingIOError:
                continue  # somebody made the descriptor non-blocking, and another writer was faster
            except OSError as error:
                raise Closed from error
            del outgoing[:written]

    def close(self) -> None:
        """Write all that is pending, and the layer's own goodbye. The descriptors stay open."""
        if self.layer is not None:
            self.layer.close()
        self.flush()


def ready(descriptor: int, event: int, seconds: float, deadline: float | None = None) -> bool:
    """Wait until the descriptor is ready, for `seconds` but not beyond `deadline`. An error counts as ready."""
    left = seconds if deadline is None else min(seconds, deadline - monotonic())
    poller = poll()
    poller.register(descriptor, event)
    return bool(poller.poll(int(max(0, min(left, LONGEST_POLL)) * 1000) + 1))


def receive(size: int) -> bytes:
    """One read of descriptor 0. An error is an end of file: qmail-smtpd.c, saferead, ends silently at either."""
    try:
        return os.read(0, size)
    except OSError:
        return b""


def discard_unheard() -> None:
    """Read what the client has said already, and nobody will answer, after the last reply.

    A connection that is closed with something unread in it is reset (RFC 1122 section 4.2.2.13), and of the last reply
    the client loses what is still on its way: all of it, where Nagle's algorithm waits for the one before.
    """
    poller = poll()
    poller.register(0, POLLIN)
    for _ in range(UNHEARD_BLOCKS):
        if not poller.poll(0) or not receive(COMMAND_BLOCK):
            return


def settle_descriptors() -> None:
    """Have 0 to 2 open, so that no pipe of ours becomes one of them, and nothing but replies on the connection.

    Under inetd, and in a terminal, 2 is the client: what is meant for a log goes nowhere then, for our children, too.
    """
    files = []
    for descriptor in (0, 1, 2):
        try:
            files.append(os.fstat(descriptor))
        except OSError:
            nowhere(descriptor)
            files.append(os.fstat(descriptor))
    if os.path.samestat(files[2], files[0]) or os.path.samestat(files[2], files[1]):
        nowhere(2)


def nowhere(descriptor: int) -> None:
    """Make the descriptor /dev/null, inherited by children."""
    null = os.open(b"/dev/null", os.O_RDWR)
    os.dup2(null, descriptor)
    if null == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.close(null)
