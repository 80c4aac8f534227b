"""Copy descriptor 0 to descriptor 1 through a conversion: addcr, delcr, and what the network clients print."""

import os
from _signal import SIG_DFL, SIGPIPE, signal  # type: ignore[import-not-found]  # see chain

from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE = 65536  # a pipe holds no more


def die_by_sigpipe() -> None:
    """Let SIGPIPE end this process, as it ends a C program."""
    signal(SIGPIPE, SIG_DFL)


def run(convert: "Callable[[bytes], bytes]") -> int:
    """Copy 0 to 1, and return the exit status. Each piece is written before the next one is read (buffer_0.c).

    `convert` is called with b"" at the end.
    """
    die_by_sigpipe()
    try:
        copy(0, 1, convert)
    except OSError:
        return strerr.TEMPORARY  # without a message, as addcr.c and delcr.c
    return 0


def copy(source: int, target: int, convert: "Callable[[bytes], bytes]") -> None:
    """Copy until the end of the input. Raises OSError."""
    while data := os.read(source, READ_SIZE):
        write_all(target, convert(data))
    write_all(target, convert(b""))


def write_all(target: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
