"""CHILD: serve one client after the other in one process, for a preloaded program that offers it (--reuse).

Between two clients the process is put back to where it began: environment, words, streams, directory, umask, signals.
What a program keeps beyond that, it must want to keep. A process that cannot be put back is not used again.
"""

import _socket as socket
import _thread
import os
import sys
from _signal import (  # type: ignore[import-not-found]  # see launch
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

from tcpserver import chain, environ, launch, script, streams
from tcpserver.pool import MOST_EDITS, out_of_the_way, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def serve(connection: int, closing: list[int], start: "launch.Start") -> "NoReturn":
    """In a forked child: become a process that serves this client, and those that the parent sends it."""
    told, program, base, edits, job, jobs, results, most = start
    for descriptor in closing + [other for other in jobs if other != job]:
        os.close(descriptor)
    if told:
        launch.say(told(os.getpid()))
    for descriptor in (0, 1):
        os.dup2(connection, descriptor)
    os.close(connection)
    script.perform(lambda: Worker(program, base, job, results).work(edits, most), forked=True)


class Worker:
    """One process. `program` is the preloaded program's function for one client: it returns what its main would."""

    __slots__ = (
        "base",
        "descriptors",
        "directory",
        "identity",
        "job",
        "program",
        "results",
        "streams",
        "umask",
        "words",
    )

    def __init__(self, program: "Callable[[], object]", base: dict[bytes, bytes], job: int, results: int) -> None:
        self.program, self.base, self.results = program, base, results
        self.job = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, job)
        self.words = list(sys.argv)
        self.streams = sys.stdin, sys.stdout, sys.stderr
        self.directory = out_of_the_way(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self.identity = identity()
        self.umask = os.umask(0)
        os.umask(self.umask)
        self.descriptors = script.open_descriptors()

    def work(self, edits: environ.Edits, most: int) -> object:
        """Serve so many clients at most, and return what the program returned for the last one."""
        while True:
            environment = dict(self.base)
            environ.edit(environment, edits)
            script.change_environment(environment)
            code = self.program()
            most -= 1
            if not most or not self.fit(code):
                return code
            self.put_back()
            try:
                os.write(self.results, record(os.getpid(), script.exit_status(code)))
            except BrokenPipeError:  # the server has ended
                return code
            edits = self.next()

    def fit(self, code: object) -> bool:
        """May this process go on? Not with something to say at its end, or where the program has left something."""
        return (
            (code is None or isinstance(code, int))
            and (sys.stdin, sys.stdout, sys.stderr) == self.streams
            and streams.flush()
            and not _ncallbacks()
            and not _thread._count()
            and not children()
            and not sigpending()
            and identity() == self.identity != ()
            and bool(self.descriptors)
            and script.open_descriptors() == self.descriptors
        )

    def put_back(self) -> None:
        """Leave the client, and be as before it."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        for number in launch.CATCHABLE:
            wanted = SIG_IGN if number in chain.PYTHON_IGNORES else SIG_DFL
            if getsignal(number) != wanted:
                signal(number, wanted)
        alarm(0)
        pthread_sigmask(SIG_SETMASK, ())
        os.fchdir(self.directory)
        os.umask(self.umask)
        sys.argv[:] = self.words
        sys.excepthook = sys.__excepthook__

    def next(self) -> environ.Edits:
        """Wait for a client, put it on descriptors 0 and 1, and return the edits. Ends where none is to come."""
        text, extra, _, _ = self.job.recvmsg(MOST_EDITS, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
        if not extra:
            os._exit(0)
        connection = int.from_bytes(extra[0][2], sys.byteorder)
        for descriptor in (0, 1):
            os.dup2(connection, descriptor)
        os.close(connection)
        signal(SIGINT, default_int_handler)  # not while nobody is served: the death of a process is no error
        streams.fresh_streams()  # the old ones may hold what the client before has sent
        self.streams = sys.stdin, sys.stdout, sys.stderr
        return environ.edits_of(text)


def identity() -> tuple[object, ...]:
    """Who this process is, and where its log goes."""
    try:
        log = os.fstat(2)
    except OSError:
        return ()
    return os.getresuid(), os.getresgid(), log.st_dev, log.st_ino


def children() -> bool:
    """Has this process any, alive or not waited for?"""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True
