"""The three ways to run the program for a connection: spawn, fork and exec, fork and call.

spawn() serves the parent that has nothing slow to ask; replace() ends a forked child, by exec, or by a call where the
program is preloaded (script.py); call() is for the parent that knows so. Decides nothing about the client, and does not
fork (batch.py).
"""

import errno
import os
import select
from _signal import (  # type: ignore[import-not-found]  # signal's own functions wrap these in enums: 86 page faults
    SIG_DFL,
    SIG_IGN,
    SIGKILL,
    SIGSTOP,
    getsignal,
    signal,
)

from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from tcpserver.script import Script

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # what fork itself says
CATCHABLE = [n for n in range(1, 32) if n not in (SIGKILL, SIGSTOP)]


class Signals:
    """What this process does with signals that a program must not inherit: looked at once, before the first client."""

    __slots__ = ("caught", "for_a_call", "ignored")

    def __init__(self) -> None:
        self.ignored = [number for number in CATCHABLE if getsignal(number) == SIG_IGN]
        self.caught = [number for number in CATCHABLE if getsignal(number) not in (SIG_IGN, SIG_DFL, None)]
        self.for_a_call = [number for number in self.ignored if number not in chain.PYTHON_IGNORES]


def spawn(
    paths: list[bytes], argv: list[bytes], environ: dict[bytes, bytes], connection: int, ignored: list[int]
) -> int:
    """Start the first of the paths that can be started on the connection and return its pid.

    Raises OSError with pathexec's errno. Which file to try is found by looking (a stat costs a microsecond, a child
    that fails to exec a few hundred); what cannot be looked at is tried, so that the errno is exec's own.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptors = [(os.POSIX_SPAWN_DUP2, connection, 0), (os.POSIX_SPAWN_DUP2, connection, 1)]
    for path in paths:
        try:
            os.stat(path)
            return os.posix_spawn(path, argv, environ, file_actions=descriptors, setsigdef=ignored)
        except OSError as error:
            if error.errno in chain.SEARCH_ON:
                failure = error
            elif error.errno != errno.ENOENT:
                raise
        except ValueError:  # a NUL in a word, or a name that no environment can hold
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    raise failure


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


def call(script: "Script", words: list[bytes], connection: int, signals: Signals) -> "NoReturn":
    """In a forked child: run a preloaded script on the connection, in the environment that the parent has set."""
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    default(signals.for_a_call)
    script.run([os.fsdecode(word) for word in words])
