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

from tcprules import strerr
from tcpserver import chain, environ, registry
from tcpserver.child import launch, script, streams
from tcpserver.child.connection import Connection, Refused
from tcpserver.handover import Job, decode, receive_client, send_result
from tcpserver.process import CATCHABLE, change_environment, move_up, open_descriptors
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from tcpserver.log import Lines
    from tcpserver.process import SignalActions


def serve(connection: int, closing: list[int], start: "tuple[Any, ...]") -> "NoReturn":
    """In a forked child: become a worker that serves this client, and those that the parent sends it."""
    job, announce, plan, channel, channels = start
    for descriptor in closing + [other for other in channels if other != channel]:
        os.close(descriptor)
    job.announcement = announce(os.getpid()) if announce else b""
    take(connection)
    script.perform(lambda: Worker(plan, channel).work(job), forked=True)


def take(connection: int) -> None:
    """Put the connection on descriptors 0 and 1."""
    for descriptor in (0, 1):
        os.dup2(connection, descriptor)
    os.close(connection)


class Plan:
    """What all workers of a server have in common. `program` serves one client, and returns what its main would."""

    __slots__ = ("base", "lines", "max_clients", "program", "results", "settings", "signals")

    def __init__(
        self,
        settings: Settings,
        program: "Callable[[], object]",
        base: dict[bytes, bytes],
        lines: "Lines",
        signals: "SignalActions",
        results: int,
    ) -> None:
        self.settings, self.program, self.base = settings, program, base
        self.lines, self.signals = lines, signals
        self.max_clients = settings.reuse
        self.results = results  # the pipe for what became of the clients


class Worker:
    """One process."""

    __slots__ = ("channel", "descriptors", "directory", "identity", "plan", "streams", "umask", "words")

    def __init__(self, plan: Plan, channel: int) -> None:
        self.plan = plan
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        self.words = list(sys.argv)
        self.streams = sys.stdin, sys.stdout, sys.stderr
        self.directory = move_up(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self.identity = identity()
        self.umask = os.umask(0)
        os.umask(self.umask)
        self.descriptors = open_descriptors()

    def work(self, job: Job) -> object:
        """Serve clients, and return what the program returned for the last one."""
        remaining = self.plan.max_clients
        while True:
            code = self.serve(job)
            remaining -= 1
            if not remaining or not self.is_reusable(code):
                return code
            self.reset()
            try:
                send_result(self.plan.results, chain.exit_status(code))
            except BrokenPipeError:  # the server has ended
                return code
            job = self.next_client()

    def serve(self, job: Job) -> object:
        """Serve one client."""
        if job.announcement:
            launch.write_log(job.announcement)
        try:
            edits = job.edits if job.facts is None else self.ask(job.facts, job.others)
        except Refused as refused:
            return refused.status
        environment = dict(self.plan.base)
        environ.edit(environment, edits)
        change_environment(environment)
        if registry.programs:
            return self.plan.program()
        return self.execute(environment)  # a thread still waits in the resolver

    def ask(self, facts: environ.Facts, others: int) -> environ.Edits:
        """Ask for what has to be asked, and judge. Raises Refused."""
        plan = self.plan
        return Connection(plan.settings, 0, facts, plan.base, plan.lines, others, plan.signals).prepare()

    def execute(self, environment: dict[bytes, bytes]) -> int:
        """Become the program by exec. Returns only on failure, with the exit status."""
        words = [octets(word) for word in self.plan.settings.program]
        error = chain.become(words, environment)
        launch.write_log(self.plan.lines.dropping(b"run " + words[0], strerr.reason(error), os.getpid(), None))
        return strerr.TEMPORARY

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

    def next_client(self) -> Job:
        """Wait for a client, and put it on descriptors 0 and 1. Exits where none is to come."""
        client = receive_client(self.channel)
        if client is None:
            os._exit(0)
        connection, message = client
        take(connection)
        signal(SIGINT, default_int_handler)  # not while idle: the death of an idle worker is no error
        streams.make_streams()  # the old ones may hold what the client before has sent
        self.streams = sys.stdin, sys.stdout, sys.stderr
        return decode(message)


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
