"""Descriptors that a process keeps from one client to the next (--reuse), for connections to other servers."""

import fcntl
import os

FIRST_KEPT = 256  # above the numbers that a session takes: a worker looks at the lowest free one for what was left open


def set_apart(descriptor: int) -> int | None:
    """Return a duplicate that may stay open when the session is over, None if the limit of descriptors has no room.

    The caller closes the original, and closes the duplicate without using it in a process that did not make it.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_KEPT)
    except OSError:
        return None


def key_of(path: bytes) -> bytes:
    """Return what tells the socket at a path from all others. Raises OSError.

    A relative path leads to another socket in another home. The home, which is the current directory, is known by its
    inode: its own path can be longer than that of a socket may be.
    """
    if path.startswith(b"/"):
        return path
    status = os.stat(b".")
    return b"%d:%d:%b" % (status.st_dev, status.st_ino, path)
