"""The lines of a descriptor, split at LF and nowhere else. What they mean is for others."""

import os
from collections.abc import Callable, Iterator

CHUNK = 1 << 16  # a pipe's size: progress is told as often


def read_lines(descriptor: int, progress: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """The lines, without their LF. Raises OSError: EAGAIN too, which io.BufferedReader would take for the end.

    `progress` is told the bytes that each read has brought.
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
