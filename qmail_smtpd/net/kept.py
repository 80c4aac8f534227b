"""Descriptors that a process keeps from one client to the next (--reuse), for connections to other servers."""

import fcntl

FIRST_KEPT = 256  # above the numbers that a session takes: a worker looks at the lowest free one for what was left open


def set_apart(descriptor: int) -> int | None:
    """Return a duplicate that may stay open when the session is over, None if the limit of descriptors has no room.

    The caller closes the original, and closes the duplicate without using it in a process that did not make it.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_KEPT)
    except OSError:
        return None
