"""What the queue programs share: qmail-queue's exit codes, its envelope, and the message on descriptor 0.

Knows how mail comes in, and how a failure is told. Does not know where mail goes.
"""

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a message.
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
ADDRESS_LIMIT = 1003  # bytes of an address with its letter, qmail-queue.c ADDR
BLOCK = 65536  # bytes a read: what a pipe holds
HELD = 262144  # bytes of message kept in memory: ordinary mail is written once, and the process stays small

# sig_misc.c: nothing that a terminal or a limit sends stops mail that has come
IGNORED = ("SIGVTALRM", "SIGPROF", "SIGQUIT", "SIGINT", "SIGHUP", "SIGXCPU", "SIGXFSZ")


class Failure(Exception):
    """Why the message is not taken: the exit code for the caller, words for the administrator."""

    def __init__(self, status: int, *words: str | bytes) -> None:
        super().__init__(status)
        self.status = status
        self.words = words


def run(program: str, deliver: "Callable[[float], None]") -> "NoReturn":
    """Call `deliver` with the time by which all must have come in, and end with the exit code of what came of it."""
    for name in IGNORED:
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    try:
        check_descriptors()
        deliver(time.monotonic() + DEATH)
        status = 0
    except Failure as failure:
        status = failure.status
        complain(program, ": fatal: ", *failure.words)
    except MemoryError:
        status = OUT_OF_MEMORY
    os._exit(status)


def check_descriptors() -> None:
    """Refuse to go on without 0 or 1: the next file to be opened would be taken for the envelope."""
    for descriptor in (0, 1):
        attempt(NOT_READ, "unable to read message and envelope", os.fstat, descriptor)
    try:
        os.fstat(2)
    except OSError:
        os.open(os.devnull, os.O_WRONLY)


def complain(*words: str | bytes) -> None:
    """One line on descriptor 2, unless that is closed, or a socket: under inetd it would go to the client."""
    try:
        log = os.fstat(2)
    except OSError:
        return
    if not stat.S_ISSOCK(log.st_mode):
        say(*words)


def attempt(status: int, purpose: str | bytes, call: "Callable[..., Result]", *arguments: object) -> "Result":
    """What the call gives. An OSError becomes a Failure with `status`; a full disk is a write error anywhere."""
    try:
        return call(*arguments)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            status = NOT_WRITTEN
        raise Failure(status, purpose, ": ", reason(error)) from error


def read(descriptor: int, deadline: float) -> bytes:
    """What has come, at most a block; b"" at the end."""
    remaining = max(deadline - time.monotonic(), 0)
    ready = attempt(NOT_READ, "unable to read", select.select, [descriptor], [], [], remaining)
    if not ready[0]:
        raise Failure(TIMED_OUT, "unable to read: timed out")
    return attempt(NOT_READ, "unable to read", os.read, descriptor, BLOCK)


def read_message(deadline: float, open_spool: "Callable[[], int]") -> tuple[bytes, int | None]:
    """The message on descriptor 0: its beginning, and a file with the rest of it, or None where there is no more."""
    blocks = []
    size = 0
    while block := read(0, deadline):
        blocks.append(block)
        size += len(block)
        if size >= HELD:
            return b"".join(blocks), spool(deadline, open_spool())
    return b"".join(blocks), None


def spool(deadline: float, descriptor: int) -> int:
    """Copy the rest of descriptor 0 to a new file. The envelope comes only after the message, and must go before it."""
    while block := read(0, deadline):
        write(descriptor, block)
    return descriptor


def unspool(spooled: int, descriptor: int) -> None:
    """Copy what was spooled, once or again, to another file."""
    offset = 0
    while block := attempt(NOT_READ, "unable to read the spool", os.pread, spooled, HELD, offset):
        write(descriptor, block)
        offset += len(block)


def write(descriptor: int, data: bytes) -> None:
    """Write all of it."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[attempt(NOT_WRITTEN, "unable to write", os.write, descriptor, remaining) :]


def read_envelope(deadline: float) -> list[bytes]:
    """The sender and then the recipients, from descriptor 1. Without the last NUL the caller has changed its mind."""
    envelope = Envelope()
    while block := read(1, deadline):
        if envelope.feed(block):
            return envelope.addresses
    raise Failure(NOT_READ, "envelope ends too early")


class Envelope:
    """F sender NUL (T recipient NUL)* NUL, in blocks. What follows the last NUL is not looked at (qmail-queue.c)."""

    __slots__ = ("addresses", "rest")

    def __init__(self) -> None:
        self.addresses: list[bytes] = []
        self.rest = b""

    def feed(self, block: bytes) -> bool:
        """Take the next bytes. True when the envelope is whole."""
        *fields, self.rest = (self.rest + block).split(b"\0")
        for field in fields:
            if not field and self.addresses:
                return True
            self.addresses.append(self.judge(field)[1:])
        if self.rest:
            self.judge(self.rest)
        return False

    def judge(self, field: bytes) -> bytes:
        """The field, if its letter and its length are right."""
        if field[:1] != (b"T" if self.addresses else b"F"):
            raise Failure(NOT_READ, "envelope is not F sender NUL (T recipient NUL)* NUL")
        if len(field) > ADDRESS_LIMIT:
            raise Failure(ADDRESS_TOO_LONG, "envelope has an address that is too long")
        return field
