"""Read a whole file of secrets, up to a size limit, unless other accounts can read or write it."""

import os
import stat

from qmail_smtpd.auth.errors import CannotVerify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 1 << 26  # bytes: 600,000 users
BLOCK = 1 << 16
WORLD_ACCESS = stat.S_IROTH | stat.S_IWOTH


def read(path: bytes) -> bytes:
    """Return the current content. Raises CannotVerify."""
    return b"".join(blocks(path))


def blocks(path: bytes) -> "Iterator[bytes]":
    """Yield the current content in blocks. Raises CannotVerify."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    remaining = LARGEST
    try:
        check_mode(path, os.fstat(descriptor))
        while block := os.read(descriptor, BLOCK):
            remaining -= len(block)
            if remaining < 0:
                raise CannotVerify(path + b" has more than %d bytes" % LARGEST)
            yield block
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)


def check_mode(path: bytes, status: os.stat_result) -> None:
    """Refuse what is not a regular file, and a file that every account can read or write."""
    if not stat.S_ISREG(status.st_mode):
        raise CannotVerify(b"unable to read " + path + b": not a file")
    if status.st_mode & WORLD_ACCESS:
        raise CannotVerify(path + b" is world-readable or world-writable: chmod o-rw")


def unreadable(path: bytes, error: OSError) -> CannotVerify:
    """Return the exception for a file that cannot be read."""
    from tcprules.strerr import reason  # a table that is needed only for errors

    return CannotVerify(b"unable to read " + path + b": " + reason(error).encode())
