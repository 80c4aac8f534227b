"""What a worker does between two clients, so that nothing of one is there for the next.

There are two ways. A program that uses Python's streams and os.environ (serve_client) gets what a new process has:
streams, environment, words, signals, directory, umask. A program that is called with its environment, and uses
descriptors 0 and 1 alone (serve_connection), needs less. A process that cannot be reset ends.
"""

import _thread
import os
import sys
from _signal import (  # type: ignore[import-not-found]  # see process
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGINT,
    alarm,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
    sigpending,
)
from atexit import _ncallbacks
from time import sleep

from tcpserver import chain
from tcpserver.child import streams
from tcpserver.process import CATCHABLE, change_environment, move_up, open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

THREAD_CHECKS = 50  # how often an ending thread is waited for, a millisecond each


class LeanReset:
    """For serve_connection(environ): it leaves nothing behind but the connection, the directory and sys.argv."""

    __slots__ = ("directory", "free", "null", "program", "words")

    def __init__(self, program: "Callable[[dict[bytes, bytes]], int]") -> None:
        self.program = program
        self.words = list(sys.argv)
        self.directory = move_up(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self.null = move_up(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        self.free = self.lowest_free()
        signal(SIGINT, SIG_DFL)

    def lowest_free(self) -> int:
        """The lowest free descriptor. It changes if the first one that a program got stays open, not if others do."""
        descriptor = os.dup(self.null)
        os.close(descriptor)
        return descriptor

    def call(self, environment: dict[bytes, bytes]) -> object:
        """Call the program for one client."""
        return self.program(environment)

    def is_clean(self, code: object) -> bool:
        """Whether the process may go on."""
        return self.lowest_free() == self.free and not has_children()

    def reset(self) -> None:
        """Close the connection, and return to the directory and words of the start."""
        os.dup2(self.null, 0)
        os.dup2(self.null, 1)
        os.fchdir(self.directory)
        sys.argv[:] = self.words

    def renew(self) -> None:
        """Prepare for the next client, whose connection is on descriptors 0 and 1."""


class FullReset:
    """For serve_client(): it may use and change whatever a program in a process of its own may."""

    __slots__ = ("descriptors", "directory", "identity", "program", "streams", "umask", "words")

    def __init__(self, program: "Callable[[], object]") -> None:
        self.program = program
        self.words = list(sys.argv)
        self.streams = sys.stdin, sys.stdout, sys.stderr
        self.directory = move_up(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self.identity = identity()
        self.umask = os.umask(0)
        os.umask(self.umask)
        self.descriptors = open_descriptors()

    def call(self, environment: dict[bytes, bytes]) -> object:
        """Call the program for one client."""
        change_environment(environment)
        code = self.program()
        signal(SIGINT, SIG_DFL)  # from here on the death of the process is no error of the program's
        return code

    def is_clean(self, code: object) -> bool:
        """Whether the process may go on: no exit functions are registered, and the program has left nothing behind."""
        return (
            (code is None or isinstance(code, int))
            and (sys.stdin, sys.stdout, sys.stderr) == self.streams
            and streams.flush()
            and not _ncallbacks()
            and not has_threads()
            and not has_children()
            and not sigpending()
            and identity() == self.identity != ()
            and bool(self.descriptors)
            and open_descriptors() == self.descriptors
        )

    def reset(self) -> None:
        """Close the connection, and undo what a program may have changed."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)
        os.close(null)
        for number in CATCHABLE:
            wanted = SIG_IGN if number in chain.PYTHON_IGNORES else SIG_DFL
            if getsignal(number) != wanted:
                signal(number, wanted)
        alarm(0)
        pthread_sigmask(SIG_SETMASK, ())
        os.fchdir(self.directory)
        os.umask(self.umask)
        sys.argv[:] = self.words
        sys.excepthook = sys.__excepthook__

    def renew(self) -> None:
        """Prepare for the next client, whose connection is on descriptors 0 and 1."""
        signal(SIGINT, default_int_handler)  # not while idle: the death of an idle worker is no error
        streams.make_streams()  # the old ones may hold input of the previous client
        self.streams = sys.stdin, sys.stdout, sys.stderr


def identity() -> tuple[object, ...]:
    """The user and group ids of this process, and the file behind its descriptor 2; empty if that is closed."""
    try:
        log = os.fstat(2)
    except OSError:
        return ()
    return os.getresuid(), os.getresgid(), log.st_dev, log.st_ino


def has_children() -> bool:
    """Whether this process has any, alive or not waited for."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def has_threads() -> bool:
    """Whether another thread runs. One that has asked for a name may need a moment to end."""
    for _ in range(THREAD_CHECKS):
        if not _thread._count():
            return False
        sleep(0.001)
    return True
