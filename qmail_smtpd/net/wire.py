"""The client on descriptors 0 and 1: waits, times out, and writes pending output before it reads.

Knows no SMTP, except that DATA is read in larger blocks and must not be too slow. With a layer (tls.py) all input and
output passes through it; without one no TLS code is loaded.
"""

import os
import sys
from errno import EMFILE, ENFILE
from select import POLLIN, POLLOUT, poll
from stat import S_ISSOCK
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Layer(Protocol):
        """What a Wire, or another reader of descriptor 0, uses of a TLS connection (tls.py implements it)."""

        protocol: bytes
        cipher: bytes
        at_end: bool

        def read(self, seconds: float, size: int) -> bytes:
            """Return data from the client, empty at its end."""

        def read_ready(self) -> bytes | None:
            """Read a readable descriptor once. Return None if no record is complete."""

        def read_buffered(self) -> bytes:
            """Return the data that has arrived but has not been read yet."""

        def encrypt(self, data: bytearray) -> bytearray:
            """Return the records to write for all the data."""

        def close(self) -> None:
            """Queue the pending output and close_notify."""


COMMAND_BLOCK = 8192
DATA_BLOCK = 131072  # measured: the fastest from a socket; smaller is slower over TCP, larger costs memory
WRITE_BLOCK = 4096  # PIPE_BUF: as much as a pipe that polls writable takes without blocking
PENDING_LIMIT = 16384  # bounds the replies that are collected for one block of pipelined commands
SLOW_SECONDS = 600.0  # DATA must bring SLOW_BYTES in each SLOW_SECONDS of waiting
SLOW_BYTES = 600 * 1024
LONGEST_POLL = 2_000_000.0  # seconds: poll counts milliseconds in a C int
FINAL_REPLY_SECONDS = 1.0  # for the reply that says that the session has timed out
LAST_SECONDS = 2.0  # for a client that has got its last reply: until it closes the connection
LAST_BYTES = 1 << 20  # the most that is read from it in this time
LONG = 8 if sys.maxsize > 1 << 32 else 4  # bytes of a C long


class TimedOut(Exception):
    """The client was silent for too long, or too slow."""


class SessionTimedOut(TimedOut):
    """The time limit of the whole session has passed."""


class Closed(Exception):
    """The client has disconnected, or does not read any more."""


class TlsBroken(Closed):
    """The client's data is not TLS, or was changed on its way. `why` is for the log."""

    def __init__(self, why: bytes) -> None:
        self.why = why


class Wire:
    """The connection. `timeout`: seconds for a read or write; `deadline`: the session's end, on the monotonic clock."""

    __slots__ = ("data_bytes", "data_wait", "deadline", "layer", "pending", "timed_by_kernel", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.deadline: float | None = None
        self.timed_by_kernel = False  # whether a read or write of the connection ends by itself after `timeout`
        self.layer: Layer | None = None  # set by tls.accept
        self.pending = bytearray()  # output that is not yet written, nor encrypted
        self.start_data()

    def set_limits(self, timeout: float, session_seconds: float) -> None:
        """Set the time limits, in seconds. `session_seconds`: 0 for a session without a limit."""
        self.timeout = timeout
        self.deadline = monotonic() + session_seconds if session_seconds else None

    def let_kernel_time(self) -> None:
        """Have the kernel end reads and writes after `timeout`, so that commands need no poll.

        Only for a connection that no other program uses: a later reader would not expect a read to time out. A pipe
        has no time limits, and a session with a deadline has another limit for each read: they go on with poll.
        """
        self.timed_by_kernel = self.deadline is None and set_time_limits(int(self.timeout))

    def start_data(self) -> None:
        """Begin to measure the speed of DATA."""
        self.data_wait = 0.0
        self.data_bytes = 0

    def read(self) -> bytes:
        """Return input between messages, empty at the end of file and on errors."""
        self.flush()
        if self.timed_by_kernel and self.layer is None:
            return receive_in_time(COMMAND_BLOCK)
        return self.read_once(self.timeout, COMMAND_BLOCK)

    def read_data(self) -> bytes:
        """Return input in DATA. Only the time spent waiting for it counts as slowness, not a slow queue program."""
        self.flush()
        start = monotonic()
        data = self.read_once(min(self.timeout, SLOW_SECONDS), DATA_BLOCK)
        self.data_wait += monotonic() - start
        self.data_bytes += len(data)
        if self.data_wait >= SLOW_SECONDS:
            if self.data_bytes < SLOW_BYTES:
                raise TimedOut
            self.start_data()
        return data

    def read_once(self, seconds: float, size: int) -> bytes:
        """Wait for at most `seconds`, and read at most `size` bytes. Does not flush pending output."""
        if self.layer is not None:
            return self.layer.read(seconds, size)
        self.wait_for_client(seconds)
        return receive(size)

    def read_early(self, seconds: float) -> bytes | None:
        """Return what the client sends within these seconds, b"" at its end, None if it is silent."""
        try:
            return self.read_once(seconds, COMMAND_BLOCK)
        except SessionTimedOut:
            raise
        except TimedOut:
            return None

    def wait_for_client(self, seconds: float) -> None:
        """Wait until there is input, for at most `seconds` and not beyond the session's deadline."""
        self.check_deadline()
        if not ready(0, POLLIN, seconds, self.deadline):
            self.check_deadline()
            raise TimedOut

    def check_deadline(self) -> None:
        """Raise SessionTimedOut after the deadline, even if the client never stops sending."""
        if self.deadline is not None and self.deadline <= monotonic():
            raise SessionTimedOut

    def allow_final_reply(self) -> None:
        """Remove the deadline that has passed, and leave a short time for the reply that says so."""
        self.deadline = None
        self.timeout = min(self.timeout, FINAL_REPLY_SECONDS)

    def write(self, data: bytes) -> None:
        """Queue data for the client."""
        self.pending += data
        if len(self.pending) > PENDING_LIMIT:
            self.flush()

    def flush(self) -> None:
        """Write all pending output."""
        outgoing = self.pending if self.layer is None else self.layer.encrypt(self.pending)
        by_kernel = self.timed_by_kernel and self.deadline is None  # a TLS handshake has one
        while outgoing:
            if not by_kernel and not ready(1, POLLOUT, self.timeout, self.deadline):
                self.check_deadline()
                raise Closed
            try:
                written = os.write(1, outgoing[:WRITE_BLOCK])
            except BlockingIOError as error:
                if by_kernel:
                    raise Closed from error
                continue  # the descriptor is non-blocking, and another writer filled it after the poll
            except OSError as error:
                raise Closed from error
            del outgoing[:written]

    def close(self) -> None:
        """Write all pending output, and the layer's close_notify. The descriptors stay open."""
        if self.layer is not None:
            self.layer.close()
        self.flush()


def ready(descriptor: int, event: int, seconds: float, deadline: float | None = None) -> bool:
    """Wait until the descriptor is ready, for at most `seconds` and not beyond `deadline`. An error counts as ready."""
    remaining = seconds if deadline is None else min(seconds, deadline - monotonic())
    poller = poll()
    poller.register(descriptor, event)
    return bool(poller.poll(int(max(0, min(remaining, LONGEST_POLL)) * 1000) + 1))


def receive(size: int) -> bytes:
    """Read descriptor 0 once. An error counts as end of file: qmail-smtpd.c, saferead, exits silently on both."""
    try:
        return os.read(0, size)
    except OSError:
        return b""


def receive_in_time(size: int) -> bytes:
    """Read descriptor 0 once as `receive` does. Raises TimedOut at the end of its time limit."""
    try:
        return os.read(0, size)
    except BlockingIOError as error:
        raise TimedOut from error
    except OSError:
        return b""


def set_time_limits(seconds: int) -> bool:
    """Limit the time of a read of descriptor 0 and of a write to descriptor 1. False if they are not both sockets."""
    import _socket  # as in hang_up

    limit = seconds.to_bytes(LONG, sys.byteorder) + bytes(LONG)  # struct timeval
    for descriptor, option in ((0, _socket.SO_RCVTIMEO), (1, _socket.SO_SNDTIMEO)):
        try:
            connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, descriptor)
        except OSError:
            return False
        try:
            connection.setsockopt(_socket.SOL_SOCKET, option, limit)
        except OSError:
            return False
        finally:
            connection.detach()
    return True


def is_out_of_descriptors(error: OSError) -> bool:
    """Whether the error is a lack of descriptors. A session then cannot load a module, for example."""
    return error.errno in (EMFILE, ENFILE)


def hang_up() -> None:
    """End a connection after the last reply: send no more, and read on until the client has closed it, too.

    A connection that is closed with unread input, or gets more afterwards, is reset (RFC 1122 section 4.2.2.13). The
    client then loses the replies that are still on their way, for example the one that its message is stored. Waits for
    at most LAST_SECONDS; a pipe has no such effect.
    """
    if not all(S_ISSOCK(os.fstat(descriptor).st_mode) for descriptor in (0, 1)):
        return  # also if only the output passes through another program: `sh -c 'qmail-smtpd | tee -a copy'`
    try:
        import _socket  # 0.4 ms in a process that was exec'd
    except ImportError:  # there is no descriptor to load it with
        return
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, 1)  # the family does not matter for shutdown
    try:
        connection.shutdown(_socket.SHUT_WR)
    except OSError:
        return  # the client is gone
    finally:
        connection.detach()
    poller = poll()
    poller.register(0, POLLIN)
    seconds, bytes_left = LAST_SECONDS, LAST_BYTES
    deadline = monotonic() + seconds
    while seconds > 0 and bytes_left > 0 and poller.poll(seconds * 1000) and (data := receive(COMMAND_BLOCK)):
        seconds = deadline - monotonic()
        bytes_left -= len(data)


def prepare_descriptors() -> None:
    """Open /dev/null on those of the descriptors 0 to 2 that are closed, and on 2 if it is the client's connection.

    So no pipe becomes one of them, and only replies are written to the client. Under inetd, and in a terminal, 2 is the
    connection; log lines, also those of child processes, are then lost.
    """
    files = []
    for descriptor in (0, 1, 2):
        try:
            files.append(os.fstat(descriptor))
        except OSError:
            open_null(descriptor)
            files.append(os.fstat(descriptor))
    if os.path.samestat(files[2], files[0]) or os.path.samestat(files[2], files[1]):
        open_null(2)


def open_null(descriptor: int) -> None:
    """Open /dev/null on the descriptor, so that child processes inherit it."""
    null = os.open(b"/dev/null", os.O_RDWR)
    os.dup2(null, descriptor)
    if null == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.close(null)
