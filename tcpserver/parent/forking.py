"""The parent's two ways to make a process for a connection: posix_spawn, and fork for a batch. Decides nothing."""

import errno
import os
from _signal import (  # type: ignore[import-not-found]  # see process
    SIG_BLOCK,
    SIG_UNBLOCK,
    SIGCHLD,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from os import close, fork

from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from tcpserver.process import Action

    Start = tuple[Any, ...]  # what a child has to know; made by the parent
    Run = Callable[[int, list[int], Start], NoReturn]

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # the errors of fork itself


def spawn(
    paths: list[bytes], argv: list[bytes], environ: dict[bytes, bytes], connection: int, ignored: list[int]
) -> int:
    """Start the first of the paths that can be started, on the connection, and return its pid.

    Raises OSError with pathexec's errno. With several paths, stat() first finds those that exist: it costs a
    microsecond, a child that fails to exec a few hundred. Where stat() fails, its errno is that of exec.
    """
    failure = None
    descriptors = [(os.POSIX_SPAWN_DUP2, connection, 0), (os.POSIX_SPAWN_DUP2, connection, 1)]
    look = len(paths) > 1
    for path in paths:
        try:
            if look:
                os.stat(path)
            return os.posix_spawn(path, argv, environ, file_actions=descriptors, setsigdef=ignored)
        except OSError as error:
            if error.errno in chain.SEARCH_ON:
                failure = error
            elif error.errno != errno.ENOENT:
                raise
        except ValueError:  # a NUL in a word, or a name that no environment can hold
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    raise failure or chain.not_found(argv[0])


def fork_each(
    run: "Run",
    starts: "list[Start]",
    connections: list[int],
    own_descriptors: list[int],
    actions: "list[Action]",
) -> list[int | OSError]:
    """Fork for one connection after the other, and close it. Returns for each the pid, or fork's error.

    A child does run(connection, descriptors to close, its start). It has to close the parent's own descriptors, and the
    connections whose turn is still to come.

    After a fork the parent copies every page of memory that it writes to, some 2 microseconds a page. So all forks
    follow each other, with almost no code between. The child's code is outside of the parent's `try`: its errors must
    not be taken for fork's.

    Signals are blocked meanwhile, in the child until it unblocks them, and have the actions that the children need.
    """
    results: list[int | OSError] = []
    remaining = own_descriptors + connections[::-1]
    numbers = [number for number, _ in actions]
    pthread_sigmask(SIG_BLOCK, numbers)
    wake = set_wakeup_fd(-1)
    before = [signal(number, action) for number, action in actions]
    for start in starts:
        connection = remaining.pop()
        try:
            pid = fork()
        except OSError as error:
            results.append(error)
        else:
            if not pid:
                run(connection, remaining, start)
            results.append(pid)
        close(connection)
    for number, action in zip(numbers, before, strict=True):
        signal(number, action)
    set_wakeup_fd(wake, warn_on_full_buffer=False)
    pthread_sigmask(SIG_UNBLOCK, numbers)
    wake_up_for_children(wake)
    return results


def wake_up_for_children(wake: int) -> None:
    """Wake the loop as a SIGCHLD does: one that came while it had no handler has been discarded."""
    try:
        os.write(wake, bytes([SIGCHLD]))
    except BlockingIOError:
        return  # the loop will look already
