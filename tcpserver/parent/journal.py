"""Descriptor 2 of the serving parent: lines go out at once or wait in a bounded queue; writing never blocks.

O_NONBLOCK belongs to the open file, which the programs share, so it is never set on descriptor 2 itself: a pipe or a
terminal is opened again. A socket, or a pipe of another account, cannot be: there, each write is small and comes
after a poll. Knows nothing of what the lines say.
"""

import errno
import os
import select
import stat
from _collections import deque  # type: ignore[import-not-found]  # the C half: the other loads four modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_BYTES = 256 * 1024  # what may wait for a log reader that has stalled
PIPE_BUF = 4096  # pipe(7): as much as a pipe that polls writable takes without blocking
NOT_NOW = (errno.EAGAIN, errno.EWOULDBLOCK)


class Journal:
    """Lines on their way to descriptor 2."""

    __slots__ = ("descriptor", "dropped", "poller", "report", "waiting", "waiting_bytes")

    def __init__(self, report: "Callable[[int], bytes]", descriptor: int = 2) -> None:
        self.report = report  # makes the line with the number of dropped lines
        self.descriptor = private(descriptor)
        self.poller: select.poll | None = None  # polled before each write, if a write could block
        if self.descriptor == descriptor and may_block(descriptor):
            self.poller = select.poll()
            self.poller.register(descriptor, select.POLLOUT)
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.dropped = 0

    def write(self, lines: bytes) -> None:
        """Write whole lines, or keep them until descriptor 2 takes them again; beyond the bound they are counted."""
        if not self.waiting:
            lines = lines[self.attempt(lines) :]
        if not lines:
            return
        if self.waiting_bytes + len(lines) > QUEUE_BYTES:
            self.dropped += lines.count(b"\n")
            return
        self.waiting.append(lines)
        self.waiting_bytes += len(lines)

    def attempt(self, lines: bytes) -> int:
        """Write what can be written now. Return how many bytes are done: after an error all, which are then lost."""
        written = 0
        try:
            if not self.poller:
                return os.write(self.descriptor, lines)
            while written < len(lines) and self.poller.poll(0):
                written += os.write(self.descriptor, lines[written : written + PIPE_BUF])
        except OSError as error:
            return written if error.errno in NOT_NOW else len(lines)
        return written

    def flush(self) -> None:
        """Write what waits, as far as it goes; then report how many lines were dropped."""
        while self.waiting:
            lines = self.waiting[0]
            written = self.attempt(lines)
            self.waiting_bytes -= written
            if written < len(lines):
                self.waiting[0] = lines[written:]
                return
            self.waiting.popleft()
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            self.write(self.report(lost))


def private(descriptor: int) -> int:
    """A non-blocking descriptor for the same pipe or terminal, or `descriptor` itself if there can be none."""
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind) or (stat.S_ISCHR(kind) and os.isatty(descriptor)):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        pass  # closed, no /proc, or another account's
    return descriptor


def may_block(descriptor: int) -> bool:
    """Whether it is a socket (systemd's journal is one), a pipe or a terminal."""
    try:
        kind = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind) or os.isatty(descriptor)
