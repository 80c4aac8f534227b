"""One message for a queue program that is loaded in the session's own process: no fork, no pipes, the same delivery.

A queue program that offers this has a function open_message(environ). Its exit codes, lines for the administrator and
files are those of the program (intake.py); only the message comes by calls in place of descriptors.
"""

import os
import time
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask  # type: ignore[import-not-found]  # see intake

from qmail_smtpd.queue.intake import (
    DEATH,
    IGNORED_NUMBERS,
    MEMORY_LIMIT,
    NOT_READ,
    OUT_OF_MEMORY,
    TIMED_OUT,
    Envelope,
    Failure,
    complain,
    write,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Store = Callable[[bytes, list[bytes], bytes, int | None], None]  # sender, recipients, text, the rest in a file


class Message:
    """The message. A failure is kept until close() reports it, as a queue program's exit status is."""

    __slots__ = ("blocks", "deadline", "enter", "failure", "home", "open_spool", "program", "size", "spooled", "store")

    def __init__(
        self, program: str, enter: "Callable[[], None]", open_spool: "Callable[[], int]", store: "Store"
    ) -> None:
        self.program = program
        self.enter, self.open_spool, self.store = enter, open_spool, store
        self.deadline = time.monotonic() + DEATH
        self.home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.blocks: list[bytes] = []
        self.size = 0
        self.spooled: int | None = None
        self.failure: Failure | None = None
        self.attempt(self.enter)

    def attempt(self, call: "Callable[[], None]") -> None:
        """Do something in the directory of the queue, and come back. A failure is kept."""
        try:
            call()
        except Failure as failure:
            self.failure = failure
        except MemoryError:
            self.failure = Failure(OUT_OF_MEMORY, "out of memory")
        finally:
            os.fchdir(self.home)

    def write(self, data: bytes) -> None:
        """Take a part of the message."""
        if self.failure is None:
            self.attempt(lambda: self.take(data))

    def take(self, data: bytes) -> None:
        """Keep the beginning in memory, and the rest in a file."""
        if self.spooled is None and self.size < MEMORY_LIMIT:
            self.blocks.append(data)
            self.size += len(data)
            return
        if self.spooled is None:
            self.enter()
            self.spooled = self.open_spool()
        write(self.spooled, data)

    def close(self, envelope: bytes) -> int:
        """Store the message and return the exit status. Signals that a queue program ignores are blocked meanwhile."""
        mask = pthread_sigmask(SIG_BLOCK, IGNORED_NUMBERS)
        if self.failure is None:
            self.attempt(lambda: self.deliver(envelope))
        failure = self.failure
        self.abandon()
        pthread_sigmask(SIG_SETMASK, mask)
        if failure is None:
            return 0
        complain(self.program, ": fatal: ", *failure.parts)
        return failure.status

    def deliver(self, envelope: bytes) -> None:
        """Parse the envelope, and store."""
        parser = Envelope()
        if not parser.feed(envelope):
            raise Failure(NOT_READ, "envelope ends too early")
        if time.monotonic() > self.deadline:
            raise Failure(TIMED_OUT, "unable to read: timed out")
        sender, *recipients = parser.addresses
        self.enter()
        self.store(sender, recipients, b"".join(self.blocks), self.spooled)

    def abandon(self) -> None:
        """Discard the message, and close its descriptors."""
        self.blocks = []
        for descriptor in (self.spooled, self.home):
            if descriptor is not None and descriptor >= 0:
                discard(descriptor)
        self.spooled, self.home = None, -1


def discard(descriptor: int) -> None:
    """Close a descriptor of which nothing is needed any more."""
    try:
        os.close(descriptor)
    except OSError:
        pass  # on NFS, for what could not be written of the spool; the descriptor is closed nevertheless
