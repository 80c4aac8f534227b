"""Serve one client after the other in one process, for a loaded program that offers it (--reuse).

reset.py has what is done between two clients.
"""

import _socket as socket
import os
from _signal import SIG_DFL, SIGINT, signal  # type: ignore[import-not-found]  # see process

from tcprules import strerr
from tcpserver import chain, environ, registry
from tcpserver.child import launch, script
from tcpserver.child.connection import Connection, Refused
from tcpserver.child.reset import FullReset, LeanReset
from tcpserver.handover import Job, decode, receive_client, send_result
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tcpserver.log import Lines
    from tcpserver.process import SignalActions


class Plan:
    """What all workers of a server have in common."""

    __slots__ = ("base", "lines", "max_clients", "program", "results", "settings", "signals")

    def __init__(
        self,
        settings: Settings,
        program: "registry.Program",
        base: dict[bytes, bytes],
        lines: "Lines",
        signals: "SignalActions",
        results: int,
    ) -> None:
        self.settings, self.program, self.base = settings, program, base
        self.lines, self.signals = lines, signals
        self.max_clients = settings.reuse
        self.results = results  # the pipe in which workers report that a client is gone


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
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)


class Worker:
    """A worker process."""

    __slots__ = ("channel", "plan", "process")

    def __init__(self, plan: Plan, channel: int) -> None:
        self.plan = plan
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        program = plan.program
        if program.serve_connection:
            self.process: LeanReset | FullReset = LeanReset(program.serve_connection)
        else:
            assert program.serve_client
            self.process = FullReset(program.serve_client)

    def work(self, job: Job) -> object:
        """Serve clients, and return what the program returned for the last one."""
        process, remaining = self.process, self.plan.max_clients
        while True:
            code = self.serve(job)
            remaining -= 1
            try:
                if not remaining or not process.is_clean(code):
                    return code
                process.reset()
                send_result(self.plan.results, chain.exit_status(code))
                job = self.next_client()
            except BrokenPipeError:  # the server has ended
                return code
            except KeyboardInterrupt:  # the program has returned: it is not the one to be interrupted
                signal(SIGINT, SIG_DFL)
                os.kill(os.getpid(), SIGINT)

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
        if registry.programs:
            return self.process.call(environment)
        return self.execute(environment)  # a thread still waits in the resolver

    def ask(self, facts: environ.Facts, others: int) -> environ.Edits:
        """Ask for what has to be asked, and judge. Raises Refused."""
        plan = self.plan
        return Connection(plan.settings, 0, facts, plan.base, plan.lines, others, plan.signals).prepare()

    def execute(self, environment: dict[bytes, bytes]) -> int:
        """Become the program by exec. Returns only on failure, with the exit status."""
        words = [octets(word) for word in self.plan.settings.program]
        error = chain.become(words, environment, own=self.plan.base)
        if self.plan.settings.verbosity:
            launch.write_log(self.plan.lines.dropping(b"run " + words[0], strerr.reason(error), os.getpid(), None))
        return strerr.TEMPORARY

    def next_client(self) -> Job:
        """Wait for a client, and put it on descriptors 0 and 1. Exits if the parent has closed the channel."""
        client = receive_client(self.channel)
        if client is None:
            os._exit(0)
        connection, message = client
        take(connection)
        self.process.renew()
        return decode(message)
