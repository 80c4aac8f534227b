"""Serve one client after the other in one process, for a loaded program that offers it (--reuse).

Between two clients the process is reset: environment, words, streams, directory, umask, signals. What a program keeps
beyond that, it keeps on purpose. A process that cannot be reset ends.
"""

import _socket as socket
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

from tcpserver import chain, environ
from tcpserver.child import launch, script, streams
from tcpserver.handover import receive_client, send_result
from tcpserver.process import CATCHABLE, change_environment, move_up, open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def serve(connection: int, closing: list[int], start: "tuple[Any, ...]") -> "NoReturn":
    """In a forked child: become a worker that serves this client, and those that the parent sends it."""
    announce, program, base, edits, channel, channels, results, max_clients = start
    for descriptor in closing + [other for other in channels if other != channel]:
        os.close(descriptor)
    if announce:
        launch.write_log(announce(os.getpid()))
    for descriptor in (0, 1):
        os.dup2(connection, descriptor)
    os.close(connection)
    script.perform(lambda: Worker(program, base, channel, results).work(edits, max_clients), forked=True)


class Worker:
    """One process. `program` is the loaded program's function for one client: it returns what its main would."""

    __slots__ = (
        "base",
        "channel",
        "descriptors",
        "directory",
        "identity",
        "program",
        "results",
        "streams",
        "umask",
        "words",
    )

    def __init__(self, program: "Callable[[], object]", base: dict[bytes, bytes], channel: int, results: int) -> None:
        self.program, self.base, self.results = program, base, results
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        self.words = list(sys.argv)
        self.streams = sys.stdin, sys.stdout, sys.stderr
        self.directory = move_up(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self.identity = identity()
        self.umask = os.umask(0)
        os.umask(self.umask)
        self.descriptors = open_descriptors()

    def work(self, edits: environ.Edits, max_clients: int) -> object:
        """Serve so many clients at most, and return what the program returned for the last one."""
        remaining = max_clients
        while True:
            environment = dict(self.base)
            environ.edit(environment, edits)
            change_environment(environment)
            code = self.program()
            remaining -= 1
            if not remaining or not self.is_reusable(code):
                return code
            self.reset()
            try:
                send_result(self.results, script.exit_status(code))
            except BrokenPipeError:  # the server has ended
                return code
            edits = self.next_client()

    def is_reusable(self, code: object) -> bool:
        """May this process go on? Not with something to do at its end, or where the program has left something."""
        return (
            (code is None or isinstance(code, int))
            and (sys.stdin, sys.stdout, sys.stderr) == self.streams
            and streams.flush()
            and not _ncallbacks()
            and not _thread._count()
            and not has_children()
            and not sigpending()
            and identity() == self.identity != ()
            and bool(self.descriptors)
            and open_descriptors() == self.descriptors
        )

    def reset(self) -> None:
        """Leave the client, and be as before it."""
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

    def next_client(self) -> environ.Edits:
        """Wait for a client, put it on descriptors 0 and 1, and return the edits. Exits where none is to come."""
        client = receive_client(self.channel)
        if client is None:
            os._exit(0)
        connection, edits = client
        for descriptor in (0, 1):
            os.dup2(connection, descriptor)
        os.close(connection)
        signal(SIGINT, default_int_handler)  # not while idle: the death of an idle worker is no error
        streams.make_streams()  # the old ones may hold what the client before has sent
        self.streams = sys.stdin, sys.stdout, sys.stderr
        return environ.edits_of(edits)


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
