"""What the queue programs share: qmail-queue's exit codes, its envelope, and reading the message from descriptor 0.

Covers how mail comes in and how a failure is reported. Does not know where the mail goes.
"""

# The C module that every interpreter has loaded already: `signal` imports enum, which would cost 5 ms for each message.
import _signal  # type: ignore[import-not-found]
import os
import select
import stat
import time
from errno import EDQUOT, ENOSPC

from tcprules.strerr import reason, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    Result = TypeVar("Result")

# qmail-queue.8's exit codes, which qmail-smtpd turns into replies.
ADDRESS_TOO_LONG = 11
OUT_OF_MEMORY = 51
TIMED_OUT = 52
NOT_WRITTEN = 53
NOT_READ = 54

DEATH = 86400  # seconds for message and envelope in all, qmail-queue.c DEATH
ADDRESS_LIMIT = 1003  # bytes of an address with the letter before it, qmail-queue.c ADDR
BLOCK = 65536  # bytes in one read: the capacity of a pipe
MEMORY_LIMIT = 262144  # bytes of a message kept in memory: the process stays small, and ordinary mail needs no spool

# sig_misc.c: no signal from a terminal or a resource limit interrupts the storing of a message
IGNORED = ("SIGVTALRM", "SIGPROF", "SIGQUIT", "SIGINT", "SIGHUP", "SIGXCPU", "SIGXFSZ")
IGNORED_NUMBERS = [getattr(_signal, name) for name in IGNORED]


class Failure(Exception):
    """Why the message is refused: the exit code for the caller, and the parts of a line for the administrator."""

    def __init__(self, status: int, *parts: str | bytes) -> None:
        super().__init__(status)
        self.status = status
        self.parts = parts


def run(program: str, deliver: "Callable[[float], None]") -> "NoReturn":
    """Call `deliver` with its deadline (monotonic seconds), and exit with the code of the outcome."""
    for number in IGNORED_NUMBERS:
        _signal.signal(number, _signal.SIG_IGN)
    try:
        check_descriptors()
        deliver(time.monotonic() + DEATH)
        status = 0
    except Failure as failure:
        status = failure.status
        complain(program, ": fatal: ", *failure.parts)
    except MemoryError:
        status = OUT_OF_MEMORY
    os._exit(status)


def check_descriptors() -> None:
    """Raise Failure if descriptor 0 or 1 is closed: the next file to be opened would be read as the envelope.

    A closed descriptor 2 becomes /dev/null.
    """
    for descriptor in (0, 1):
        attempt(NOT_READ, "unable to read message and envelope", os.fstat, descriptor)
    try:
        os.fstat(2)
    except OSError:
        os.open(os.devnull, os.O_WRONLY)


def complain(*parts: str | bytes) -> None:
    """Write one line to descriptor 2, unless it is closed or a socket: under inetd the socket is the client's."""
    try:
        log = os.fstat(2)
    except OSError:
        return
    if not stat.S_ISSOCK(log.st_mode):
        say(*parts)


def attempt(status: int, purpose: str | bytes, call: "Callable[..., Result]", *arguments: object) -> "Result":
    """Return what the call returns. An OSError becomes a Failure with `status`.

    On a full disk any call may fail, so ENOSPC and EDQUOT always become a write error.
    """
    try:
        return call(*arguments)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            status = NOT_WRITTEN
        raise Failure(status, purpose, ": ", reason(error)) from error


def read(descriptor: int, deadline: float) -> bytes:
    """Read up to one block; b"" at end of file. Raise Failure on an error and at the deadline."""
    remaining = max(deadline - time.monotonic(), 0)
    ready = attempt(NOT_READ, "unable to read", select.select, [descriptor], [], [], remaining)
    if not ready[0]:
        raise Failure(TIMED_OUT, "unable to read: timed out")
    return attempt(NOT_READ, "unable to read", os.read, descriptor, BLOCK)


def read_message(deadline: float, open_spool: "Callable[[], int]") -> tuple[bytes, int | None]:
    """Read the message from descriptor 0. Return its beginning, and a descriptor of a file with the rest.

    The descriptor is None if all of the message is in memory.
    """
    blocks = []
    size = 0
    while block := read(0, deadline):
        blocks.append(block)
        size += len(block)
        if size >= MEMORY_LIMIT:
            return b"".join(blocks), spool(deadline, open_spool())
    return b"".join(blocks), None


def spool(deadline: float, descriptor: int) -> int:
    """Copy the rest of descriptor 0 to a new file, and return its descriptor.

    The spool is needed because the envelope arrives after the message, but is stored before it.
    """
    while block := read(0, deadline):
        write(descriptor, block)
    return descriptor


def unspool(spooled: int, descriptor: int) -> None:
    """Copy the spooled part of the message to another file. The spool can be copied again."""
    offset = 0
    while block := attempt(NOT_READ, "unable to read the spool", os.pread, spooled, MEMORY_LIMIT, offset):
        write(descriptor, block)
        offset += len(block)


def write(descriptor: int, data: bytes) -> None:
    """Write all the data, or raise Failure."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[attempt(NOT_WRITTEN, "unable to write", os.write, descriptor, remaining) :]


def read_envelope(deadline: float) -> list[bytes]:
    """Read the sender and the recipients from descriptor 1, in this order.

    Raise Failure if the last NUL is missing: the caller has abandoned the message.
    """
    envelope = Envelope()
    while block := read(1, deadline):
        if envelope.feed(block):
            return envelope.addresses
    raise Failure(NOT_READ, "envelope ends too early")


class Envelope:
    """Parse `F sender NUL (T recipient NUL)* NUL` in blocks. Later bytes are ignored, as in qmail-queue.c."""

    __slots__ = ("addresses", "rest")

    def __init__(self) -> None:
        self.addresses: list[bytes] = []
        self.rest = b""

    def feed(self, block: bytes) -> bool:
        """Take the next bytes. Return True once the envelope is complete. Raise Failure if it is malformed."""
        *fields, self.rest = (self.rest + block).split(b"\0")
        for field in fields:
            if not field and self.addresses:
                return True
            self.addresses.append(self.check(field)[1:])
        if self.rest:
            self.check(self.rest)
        return False

    def check(self, field: bytes) -> bytes:
        """Return the field. Raise Failure if its first letter or its length is wrong."""
        if field[:1] != (b"T" if self.addresses else b"F"):
            raise Failure(NOT_READ, "envelope is not F sender NUL (T recipient NUL)* NUL")
        if len(field) > ADDRESS_LIMIT:
            raise Failure(ADDRESS_TOO_LONG, "envelope has an address that is too long")
        return field
