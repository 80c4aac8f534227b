"""recordio: run a program, and write what it reads and writes to descriptor 2.

It copies in a process of its own while the program runs. So tcpserver does not load it: a
worker could not serve one client after the other with it.
"""

import os

from tcprules import strerr
from tcpserver.tools import plumbing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

PIECE = 256  # recordio.c: leftbuf, rightbuf. A line of the log has at most so many bytes of data


def main() -> "NoReturn":
    """Run the program, whose pid is this process's."""
    prefix = b"%d" % os.getpid()
    plumbing.run("recordio", recorder(prefix + b" < "), recorder(prefix + b" > "))


def recorder(prefix: bytes) -> "Callable[[bytes], bytes]":
    """A conversion that changes nothing, and logs each piece."""

    def record(data: bytes) -> bytes:
        lines: list[bytes] = []
        for start in range(0, len(data), PIECE):
            lines += log_lines(prefix, data[start : start + PIECE])
        for batch in batches(lines or [prefix + b"[EOF]\n"]):
            strerr.write(batch)
        return data

    return record


def log_lines(prefix: bytes, piece: bytes) -> list[bytes]:
    """The lines of the log for a piece: ` ` marks the end of a line, `+` that of a piece without one. Pure."""
    *lines, last = piece.split(b"\n")
    found = [prefix + line + b" \n" for line in lines]
    return found + [prefix + last + b"+\n"] if last else found


def batches(lines: list[bytes]) -> list[bytes]:
    """Whole lines, joined up to what a pipe takes in one piece, so that no other process writes between. Pure."""
    found = [b""]
    for line in lines:
        if len(found[-1]) + len(line) > strerr.PIPE_BUF:
            found.append(b"")
        found[-1] += line
    return found
