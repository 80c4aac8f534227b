"""Give each admitted client its process: spawned at once, an idle worker, or forked with the clients of a batch.

Refuses nobody (admission.py). child/launch.py has how a child starts the program, child/connection.py what it asks
before.
"""

import os
import sys

from tcprules import strerr
from tcpserver import chain, environ, registry
from tcpserver.child import launch
from tcpserver.child.connection import Connection
from tcpserver.handover import Job
from tcpserver.parent import forking, hooks
from tcpserver.parent.children import Children, Client
from tcpserver.parent.staging import Staging
from tcpserver.process import SignalActions
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import NoReturn

    from tcprules.lookup import Verdict
    from tcpserver.process import Action

Channel = tuple[int, int]  # a socket pair: the parent's end, and the worker's
NO_EDITS: environ.Edits = []
NO_DESCRIPTORS: list[int] = []


class Pending:
    """An admitted client that is to have a forked child or a worker, with its connection."""

    __slots__ = ("client", "connection", "edits", "key", "others", "status_logged")

    def __init__(
        self,
        client: Client,
        connection: int,
        key: bytes | None = None,
        edits: environ.Edits = NO_EDITS,
        others: int = 0,
    ) -> None:
        self.client, self.connection = client, connection
        self.key, self.edits = key, edits  # the key of its rule, and the edits of the environment
        self.others = others  # how many more are connected from the same address, for a child that has to judge
        self.status_logged = False


class Starter:
    """How the clients of one server get their processes. `base` is the environment that all have in common."""

    def __init__(self, settings: Settings, children: Children, base: dict[bytes, bytes]) -> None:
        self.settings, self.children, self.base = settings, children, base
        self.program = [octets(word) for word in settings.program]
        self.paths = chain.candidates(self.program[0])  # searched now: a rule's PATH is only for the program
        self.asks = bool(settings.ask_host or settings.ask_info or settings.banner or settings.local_name is None)
        self.signals = SignalActions()
        self.staging = Staging(base)
        self.pending: list[Pending] = []
        self.own_descriptors: list[int] = []

    def start(self, client: Client, connection: "socket.socket", verdict: "Verdict") -> None:
        """Run the program for a client about whom everything is known."""
        self.children.expect(client)
        edits = environ.with_rule(client.facts, verdict.environment)
        if registry.programs:
            self.pending.append(Pending(client, connection.detach(), verdict.key, edits))
        else:
            self.spawn(client, connection.fileno(), verdict.key, edits)

    def start_asking(self, client: Client, connection: "socket.socket") -> None:
        """Have a child ask for names first, and judge."""
        others = self.children.others(client)
        self.children.expect(client)
        self.pending.append(Pending(client, connection.detach(), others=others))

    def start_pending(self, own_descriptors: list[int]) -> None:
        """Start processes for the pending clients. No child keeps the parent's own descriptors."""
        batch, self.pending = self.pending, []
        self.own_descriptors = own_descriptors
        found = registry.find_loaded(self.paths)
        if found and found[0].is_reusable and self.children.pool.max_clients > 1:
            self.dispatch(batch, *found)
        elif self.asks:
            self.fork_asking(batch)
        elif found:
            self.call(batch, *found)
        else:
            for pending in batch:
                self.spawn(pending.client, pending.connection, pending.key, pending.edits)
                os.close(pending.connection)

    def fork_asking(self, batch: list[Pending]) -> None:
        """Fork children that ask and judge, and then become the program."""
        hooks.before_fork(self.base)
        self.fork(self.run_connection, [(pending,) for pending in batch], batch, self.signals.for_exec)

    def run_connection(self, connection: int, closing: list[int], start: "forking.Start") -> "NoReturn":
        """In the child: all there is to do for this client."""
        pending: Pending = start[0]
        launch.enter(closing)
        facts, lines = pending.client.facts, self.children.lines
        Connection(self.settings, connection, facts, self.base, lines, pending.others, self.signals).run()

    def call(self, batch: list[Pending], program: "registry.Program", path: bytes) -> None:
        """Fork children that call the loaded program."""
        self.prepare(path)
        if program.serve_connection:
            environments = [self.environment(pending.edits) for pending in batch]
            starts: list[forking.Start] = [
                (self.announcement(pending), program.serve_connection, environment)
                for pending, environment in zip(batch, environments, strict=True)
            ]
            self.fork(launch.serve, starts, batch, self.signals.for_call)
            return
        self.staging.set(batch[0].edits)
        starts = [
            (self.announcement(pending), program.main, self.staging.remaining(pending.edits)) for pending in batch
        ]
        self.fork(launch.call, starts, batch, self.signals.for_call)

    def dispatch(self, batch: list[Pending], program: "registry.Program", path: bytes) -> None:
        """Give the clients to idle workers of the loaded program, and fork more workers for the rest."""
        pool = self.children.pool
        new: list[tuple[Pending, Channel]] = []
        without_worker: list[Pending] = []
        for pending in batch:
            if pool.idle:
                self.log_status(pending)
            pid = pool.dispatch(pending.connection, self.job(pending), self.announcement(pending))
            if pid is not None:
                self.children.add(pid, pending.client)
                os.close(pending.connection)
            elif (channel := pool.new_channel(len(new))) is not None:
                new.append((pending, channel))
            else:
                without_worker.append(pending)
        if new:
            self.fork_workers(new, program, path, [pending.connection for pending in without_worker])
        if without_worker and self.asks:
            self.fork_asking(without_worker)
        elif without_worker:
            self.call(without_worker, program, path)

    def job(self, pending: Pending) -> Job:
        """What a worker is to do for this client."""
        return Job(b"", pending.edits, pending.client.facts if self.asks else None, pending.others)

    def fork_workers(
        self,
        new: "list[tuple[Pending, Channel]]",
        program: "registry.Program",
        path: bytes,
        others: list[int],
    ) -> None:
        """Fork workers that serve these clients first. `others` are connections of further clients."""
        from tcpserver.child import worker  # start.py has loaded it

        self.prepare(path)
        pool, batch = self.children.pool, [pending for pending, _ in new]
        parent_ends, worker_ends = [channel[0] for _, channel in new], [channel[1] for _, channel in new]
        plan = worker.Plan(self.settings, program, self.base, self.children.lines, self.signals, pool.results[1])
        starts = [
            (self.job(pending), self.announcement(pending), plan, worker_end, worker_ends)
            for pending, worker_end in zip(batch, worker_ends, strict=True)
        ]
        pids = self.fork(worker.serve, starts, batch, self.signals.for_call, parent_ends + others, keep=pool.results[1])
        for (parent_end, worker_end), pid in zip((channel for _, channel in new), pids, strict=True):
            os.close(worker_end)
            if pid is None:
                os.close(parent_end)
            else:
                pool.channels[pid] = parent_end

    def prepare(self, path: bytes) -> None:
        """Do before the forks what the children would do one by one."""
        hooks.before_fork(self.base)
        sys.argv[:] = [os.fsdecode(word) for word in (path, *self.program[1:])]

    def announcement(self, pending: Pending) -> "Callable[[int], bytes] | None":
        """The lines that a child logs, given its pid, before the program can log anything.

        None without -v, or if the child asks first: it then logs each line when it has the facts.
        """
        if not self.children.verbose or self.asks:
            return None
        lines, facts, key = self.children.lines, pending.client.facts, pending.key
        return lambda pid: lines.arrival(pid, facts) + lines.verdict(b"ok", pid, facts, key)

    def fork(
        self,
        run: "forking.Run",
        starts: "list[forking.Start]",
        batch: list[Pending],
        actions: "list[Action]",
        more: list[int] = NO_DESCRIPTORS,
        keep: int = -1,
    ) -> list[int | None]:
        """Fork for the batch, and close its connections. Returns the pids, None where there is no process.

        The children close the parent's own descriptors and `more`, except `keep`.
        """
        for number, pending in enumerate(batch):
            self.log_status(pending, number)
        connections = [pending.connection for pending in batch]
        closing = [
            number for number in self.own_descriptors + self.children.pool.descriptors() + more if number != keep
        ]
        results = forking.fork_each(run, starts, connections, closing, actions)
        for pending, pid in zip(batch, results, strict=True):
            if isinstance(pid, int):
                self.children.add(pid, pending.client)
            else:
                self.not_started(pending.client, pid)
                self.children.log_verbose(self.children.status(self.children.coming))
        return [pid if isinstance(pid, int) else None for pid in results]

    def log_status(self, pending: Pending, before: int = 0) -> None:
        """Log the status line of a client, once. `before`: how many other clients without a process count already."""
        if not pending.status_logged:
            pending.status_logged = True
            self.children.log_verbose(self.children.status(before + 1))

    def environment(self, edits: environ.Edits) -> dict[bytes, bytes]:
        """The environment of one client's program."""
        environment = dict(self.base)
        environ.edit(environment, edits)
        return environment

    def spawn(self, client: Client, connection: int, key: bytes | None, edits: environ.Edits) -> None:
        """Start the program by exec."""
        environment = self.environment(edits)
        try:
            pid = forking.spawn(self.paths, self.program, environment, connection, self.signals.ignored)
        except OSError as error:
            self.not_started(client, error)
        else:
            self.started(pid, client, key)

    def started(self, pid: int, client: Client, key: bytes | None) -> None:
        """Count a client that has its process, and log it."""
        self.children.add(pid, client)
        if self.children.verbose:
            lines = self.children.lines
            self.children.log_verbose(
                self.children.status() + lines.arrival(pid, client.facts) + lines.verdict(b"ok", pid, client.facts, key)
            )

    def not_started(self, client: Client, error: OSError) -> None:
        """Drop a client for whom there is no process, or whose program cannot be run."""
        self.children.forget(client)
        what = b"fork" if error.errno in forking.NO_PROCESS else b"run " + self.program[0]
        self.drop(what, strerr.reason(error), client)

    def drop(self, what: bytes, why: str, client: Client | None) -> None:
        """Log 0.88's warning for a connection that is given up."""
        if self.settings.verbosity:
            facts = client.facts if client else None
            self.children.journal.write(self.children.lines.dropping(what, why, os.getpid(), facts))
