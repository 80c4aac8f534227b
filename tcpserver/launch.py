"""The three ways to run the program for a connection: spawn, fork and exec, fork and call.

spawn() serves the parent that has nothing slow to ask; replace() ends a forked child, by exec, or by a call where the
program is preloaded (script.py); call() is for the parent that knows so. Decides nothing about the client.
"""

import errno
import os
import select
from _signal import (  # type: ignore[import-not-found]  # signal's own functions wrap these in enums: 86 page faults
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGCHLD,
    SIGINT,
    SIGKILL,
    SIGSTOP,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from os import close, dup2, fork

from tcpserver import chain
from tcpserver.script import perform, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Action = tuple[int, Any]  # the number of a signal, and what is done about it
    Start = tuple[Any, ...]  # what a child has to know; made by the parent

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # what fork itself says
CATCHABLE = [n for n in range(1, 32) if n not in (SIGKILL, SIGSTOP)]


class Signals:
    """What a program must not inherit of what this process does with signals: looked at before the first client."""

    __slots__ = ("for_a_call", "for_exec", "ignored")

    def __init__(self) -> None:
        found = {number: getsignal(number) for number in CATCHABLE}
        self.ignored = [number for number, action in found.items() if action == SIG_IGN]
        caught = [number for number, action in found.items() if action not in (SIG_IGN, SIG_DFL, None)]
        self.for_exec: list[Action] = [(number, SIG_DFL) for number in caught]
        self.for_a_call: list[Action] = [
            (number, SIG_DFL) for number in caught + self.ignored if number not in (SIGINT, *chain.PYTHON_IGNORES)
        ]
        self.for_a_call.append((SIGINT, default_int_handler))


def spawn(
    paths: list[bytes], argv: list[bytes], environ: dict[bytes, bytes], connection: int, ignored: list[int]
) -> int:
    """Start the first of the paths that can be started on the connection and return its pid.

    Raises OSError with pathexec's errno. Which of several files to try is found by looking (a stat costs a microsecond,
    a child that fails to exec a few hundred); what cannot be looked at is tried, so that the errno is exec's own.
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
    raise failure or OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def say(line: bytes) -> None:
    """In a child: write a line to descriptor 2. If that is closed, or its reader has stalled, nobody waits for it."""
    room = select.poll()
    room.register(2, select.POLLOUT)
    try:
        if room.poll(0):
            os.write(2, line)
    except OSError:
        return


def default(numbers: list[int]) -> None:
    """Let these signals do what they do to a process that has no plans."""
    for number in numbers:
        signal(number, SIG_DFL)


def replace(argv: list[bytes], environ: dict[bytes, bytes], connection: int, signals: Signals) -> OSError:
    """In a forked child: put the connection on descriptors 0 and 1, every signal to its default, and become argv[0].

    Returns only on failure, with the error.
    """
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    default(signals.ignored)
    return chain.become(argv, environ)


def fork_each(
    run: "Callable[[int, list[int], Start], NoReturn]",
    starts: "list[Start]",
    connections: list[int],
    mine: list[int],
    actions: "list[Action]",
) -> list[int | OSError]:
    """Fork for one connection after the other, and close it; what fork said for each: the pid, or an error.

    A child does run(connection, what it has to close, its start): `mine`, the parent's own descriptors, and those whose
    turn is still to come. After a fork the parent copies every page of memory that it writes to, some 2 microseconds a
    page; hence all in a row, and next to nothing between. What a child does stands outside of the parent's `try`: its
    errors must not pass for fork's.

    Meanwhile signals wait, in the child until it lets them come, and have the actions that the children are to have.
    """
    said: list[int | OSError] = []
    rest = mine + connections[::-1]
    numbers = [number for number, _ in actions]
    pthread_sigmask(SIG_BLOCK, numbers)
    wake = set_wakeup_fd(-1)
    before = [signal(number, action) for number, action in actions]
    for start in starts:
        connection = rest.pop()
        try:
            pid = fork()
        except OSError as error:
            said.append(error)
        else:
            if not pid:
                run(connection, rest, start)
            said.append(pid)
        close(connection)
    for number, action in zip(numbers, before, strict=True):
        signal(number, action)
    set_wakeup_fd(wake, warn_on_full_buffer=False)
    pthread_sigmask(SIG_UNBLOCK, numbers)
    look_again(wake)
    return said


def look_again(wake: int) -> None:
    """A SIGCHLD that waited while it had no handler was thrown away: do as if one had come."""
    try:
        os.write(wake, bytes([SIGCHLD]))
    except BlockingIOError:
        return  # there is something to be looked at already


def enter(closing: list[int]) -> None:
    """In a forked child that asks first: let signals come, and close what is not its own."""
    pthread_sigmask(SIG_SETMASK, ())
    for descriptor in closing:
        close(descriptor)


def call(connection: int, closing: list[int], start: "Start") -> "NoReturn":
    """In a forked child: run a preloaded main on the connection; its words are in sys.argv already. Signals wait.

    In one piece, and with short names: to call a function or to look into a module for the first time costs a child
    some 5 pages of memory, a twentieth of what all this takes.
    """
    told, main, edits = start
    for descriptor in closing:
        close(descriptor)
    dup2(connection, 0)
    dup2(connection, 1)
    close(connection)
    for name, value in edits:
        put(name, value)
    if told:
        say(told(os.getpid()))
    perform(main, True)
