"""Read a file that holds secrets: the whole of it, up to a bound, and only where it is not for everybody."""

import os
import stat

from qmail_smtpd.auth.trouble import Trouble

LARGEST = 1 << 26  # bytes: 600,000 users
BLOCK = 1 << 16
EVERYBODY = stat.S_IROTH | stat.S_IWOTH


def read(path: bytes) -> bytes:
    """The content as it is now. Raises Trouble."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        check(path, os.fstat(descriptor))
        return read_all(path, descriptor)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)


def check(path: bytes, status: os.stat_result) -> None:
    """A list of passwords that everybody can read, or write, is none to go by."""
    if not stat.S_ISREG(status.st_mode):
        raise Trouble(b"unable to read " + path + b": not a file")
    if status.st_mode & EVERYBODY:
        raise Trouble(path + b" is open to everybody: chmod o-rw")


def read_all(path: bytes, descriptor: int) -> bytes:
    blocks = []
    room = LARGEST
    while block := os.read(descriptor, BLOCK):
        room -= len(block)
        if room < 0:
            raise Trouble(path + b" has more than %d bytes" % LARGEST)
        blocks.append(block)
    return b"".join(blocks)


def unreadable(path: bytes, error: OSError) -> Trouble:
    from tcprules.strerr import reason  # a table that a login without trouble does not need

    return Trouble(b"unable to read " + path + b": " + reason(error).encode())
