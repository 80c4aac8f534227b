"""Read the lines of a descriptor or a file, split only at LF. Does not know what they mean."""

import errno
import os
from collections.abc import Callable, Iterator
from select import POLLIN, poll

CHUNK = 1 << 16  # a pipe's capacity
LARGEST = 1 << 26  # bytes of a file that is opened by name: a million rules have half of it
PATIENCE = 5.0  # seconds to wait for the other end of a FIFO, each time


def read_file(path: bytes | str, patience: float = PATIENCE) -> Iterator[bytes]:
    """Yield the lines of the file at this path, without their LF.

    Raise OSError: EFBIG for more than LARGEST bytes, ETIMEDOUT if a FIFO, or another file that is not regular, has
    nothing to read for `patience` seconds.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait for a writer
    poller = poll()
    poller.register(descriptor, POLLIN)
    remaining = LARGEST

    def read(descriptor: int, size: int) -> bytes:
        nonlocal remaining
        if not poller.poll(patience * 1000):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        chunk = os.read(descriptor, size)
        remaining -= len(chunk)
        if remaining < 0:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return chunk

    try:
        if os.fstat(descriptor).st_size > LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        yield from read_lines(descriptor, read)
    finally:
        os.close(descriptor)


def read_lines(descriptor: int, read: Callable[[int, int], bytes] = os.read) -> Iterator[bytes]:
    """Yield the lines without their LF. `read` is called as os.read.

    Raise OSError, also for EAGAIN, which io.BufferedReader would treat as end of file.
    """
    parts: list[bytes] = []
    while chunk := read(descriptor, CHUNK):
        if b"\n" not in chunk:
            parts.append(chunk)
            continue
        lines = b"".join([*parts, chunk]).split(b"\n")
        parts = [lines.pop()]
        yield from lines
    last = b"".join(parts)
    if last:
        yield last
