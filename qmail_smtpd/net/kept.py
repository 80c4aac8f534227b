"""Descriptors that a process keeps from one client to the next (--reuse), for connections to other servers."""

import fcntl
import os

FIRST_KEPT = 256  # above a session's own: a worker notices by the lowest free number that one of those was left open


def set_apart(descriptor: int) -> int | None:
    """Return a duplicate that may stay open when the session is over, None if the limit of descriptors forbids it.

    The caller closes the original. A process that did not make the duplicate closes it without using it.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_KEPT)
    except OSError:
        return None


def key_of(path: bytes) -> bytes:
    """Return a key that identifies the socket at a path. Raises OSError.

    A relative path leads to another socket in another home. The home, which is the current directory, is identified
    by its inode: its path can be longer than a socket's path may be.
    """
    if path.startswith(b"/"):
        return path
    status = os.stat(b".")
    return b"%d:%d:%b" % (status.st_dev, status.st_ino, path)
