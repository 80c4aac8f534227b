"""Read the lines of a descriptor, split only at LF. Does not know what they mean."""

import os
from collections.abc import Callable, Iterator

CHUNK = 1 << 16  # a pipe's capacity; progress is reported for each chunk


def read_lines(descriptor: int, progress: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """Yield the lines without their LF.

    Raise OSError, also for EAGAIN, which io.BufferedReader would treat as end of file. `progress` is called with the
    number of bytes of each read.
    """
    parts: list[bytes] = []
    while chunk := os.read(descriptor, CHUNK):
        progress(len(chunk))
        if b"\n" not in chunk:
            parts.append(chunk)
            continue
        lines = b"".join([*parts, chunk]).split(b"\n")
        parts = [lines.pop()]
        yield from lines
    last = b"".join(parts)
    if last:
        yield last
