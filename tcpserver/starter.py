"""PARENT: a client that is let in -> its process. Spawned at once, or forked with all who have come by now.

Refuses nobody (admit.py); how a program is run stands in launch.py, what a child asks first in connection.py.
"""

import os
import sys

from tcprules import strerr
from tcpserver import chain, environ, hooks, launch, script
from tcpserver.children import Children, Client
from tcpserver.connection import Child
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import NoReturn

    from tcprules.lookup import Verdict

    Run = Callable[[int, list[int], launch.Start], NoReturn]

Ends = tuple[int, int]  # of a socket: ours, and a process's
NONE: environ.Edits = []
NOTHING: list[int] = []


class Waiting:
    """A client that is let in, and its connection; whoever is to have a forked child waits."""

    __slots__ = ("client", "connection", "edits", "key", "others")

    def __init__(
        self, client: Client, connection: int, key: bytes | None = None, edits: environ.Edits = NONE, others: int = 0
    ) -> None:
        self.client, self.connection = client, connection
        self.key, self.edits = key, edits  # the rule that let it in, and what becomes of the environment
        self.others = others  # how many more are connected from where this client comes, for a child that has to judge


class Starter:
    """How the clients of one server get their processes. `base` is the environment that all have in common."""

    def __init__(self, settings: Settings, children: Children, base: dict[bytes, bytes]) -> None:
        self.settings, self.children, self.base = settings, children, base
        self.program = [octets(word) for word in settings.program]
        self.paths = chain.candidates(self.program[0])  # now: a rule's PATH is the program's alone
        self.asks = bool(settings.ask_host or settings.ask_info or settings.banner or settings.local_name is None)
        self.signals = launch.Signals()
        self.stage = script.Stage(base)
        self.waiting: list[Waiting] = []
        self.mine: list[int] = []

    def start(self, client: Client, connection: "socket.socket", verdict: "Verdict") -> None:
        """Run the program for a client about whom everything is known."""
        self.children.expect(client)
        edits = environ.variables(client.facts) + list(verdict.environment)
        if chain.preloaded:
            self.waiting.append(Waiting(client, connection.detach(), verdict.key, edits))
        else:
            self.spawn(client, connection.fileno(), verdict.key, edits)

    def let_ask(self, client: Client, connection: "socket.socket") -> None:
        """Let a child ask what has to be asked."""
        others = self.children.others(client)
        self.children.expect(client)
        self.waiting.append(Waiting(client, connection.detach(), others=others))

    def start_waiting(self, mine: list[int]) -> None:
        """Fork for those who wait. `mine` are the parent's own descriptors, which no child must keep."""
        batch, self.waiting = self.waiting, []
        self.mine = mine
        found = None if self.asks else script.preloaded(self.paths)
        if self.asks:
            hooks.before_fork(self.base)
            self.fork(self.run_child, [(one,) for one in batch], batch, self.signals.for_exec)
        elif found and found[0].serve and self.children.pool.most > 1:
            self.reuse(batch, *found)
        elif found:
            self.call(batch, *found)
        else:
            for one in batch:
                self.spawn(one.client, one.connection, one.key, one.edits)
                os.close(one.connection)

    def run_child(self, connection: int, closing: list[int], start: "launch.Start") -> "NoReturn":
        """CHILD: all there is to do for this client."""
        one = start[0]
        launch.enter(closing)
        facts, lines = one.client.facts, self.children.lines
        Child(self.settings, connection, facts, self.base, lines, one.others, self.signals).run()

    def call(self, batch: list[Waiting], program: script.Script, path: bytes) -> None:
        """Fork: the children call the preloaded program."""
        self.prepare(path)
        self.stage.set(batch[0].edits)
        starts = [(self.told(one), program.main, self.stage.left(one.edits)) for one in batch]
        self.fork(launch.call, starts, batch, self.signals.for_a_call)

    def reuse(self, batch: list[Waiting], program: script.Script, path: bytes) -> None:
        """Give the clients to processes of the preloaded program that wait for one, and fork more where none does."""
        pool = self.children.pool
        new: list[tuple[Waiting, Ends]] = []
        without: list[Waiting] = []
        for one in batch:
            pid = pool.hand_over(one.connection, one.edits)
            if pid is not None:
                self.started(pid, one.client, one.key)
                os.close(one.connection)
            elif (ends := pool.hire(len(new))) is not None:
                new.append((one, ends))
            else:
                without.append(one)
        if new:
            self.hire(new, program.serve, path, [one.connection for one in without])
        if without:
            self.call(without, program, path)

    def hire(
        self,
        new: "list[tuple[Waiting, Ends]]",
        serve: "Callable[[], object] | None",
        path: bytes,
        others: list[int],
    ) -> None:
        """Fork: the children serve these clients first, and then others. `others` are connections not of these."""
        from tcpserver import worker  # start.py has loaded it

        self.prepare(path)
        pool, batch = self.children.pool, [one for one, _ in new]
        ours, theirs = [ends[0] for _, ends in new], [ends[1] for _, ends in new]
        starts = [
            (self.told(one), serve, self.base, one.edits, its, theirs, pool.results[1], pool.most)
            for one, its in zip(batch, theirs, strict=True)
        ]
        pids = self.fork(worker.serve, starts, batch, self.signals.for_a_call, ours + others, keep=pool.results[1])
        for (our, its), pid in zip((ends for _, ends in new), pids, strict=True):
            os.close(its)
            if pid is None:
                os.close(our)
            else:
                pool.jobs[pid] = our

    def prepare(self, path: bytes) -> None:
        """Before forks that call a preloaded program: what its children need not do one by one."""
        hooks.before_fork(self.base)
        sys.argv[:] = [os.fsdecode(word) for word in (path, *self.program[1:])]

    def told(self, one: Waiting) -> "Callable[[int], bytes] | None":
        """What a child says of its client before the program can say anything, once it knows its pid."""
        if not self.children.verbose:
            return None
        lines, facts, key = self.children.lines, one.client.facts, one.key
        return lambda pid: lines.arrival(pid, facts) + lines.verdict(b"ok", pid, facts, key)

    def fork(
        self,
        run: "Run",
        starts: "list[launch.Start]",
        batch: list[Waiting],
        actions: "list[launch.Action]",
        more: list[int] = NOTHING,
        keep: int = -1,
    ) -> list[int | None]:
        """Fork for the batch, and close its connections; the pids, None where there is no process.

        The children close what is the parent's own as it is now, and `more`, but for `keep`.
        """
        for number in range(len(batch)):
            self.children.tell(self.children.status(number + 1))
        connections = [one.connection for one in batch]
        mine = self.mine + self.children.pool.descriptors() + more
        said = launch.fork_each(run, starts, connections, [number for number in mine if number != keep], actions)
        for one, pid in zip(batch, said, strict=True):
            if isinstance(pid, int):
                self.children.add(pid, one.client)
            else:
                self.not_started(one.client, pid)
                self.children.tell(self.children.status(self.children.coming))
        return [pid if isinstance(pid, int) else None for pid in said]

    def spawn(self, client: Client, connection: int, key: bytes | None, edits: environ.Edits) -> None:
        """Start the program by exec."""
        environment = dict(self.base)
        environ.edit(environment, edits)
        try:
            pid = launch.spawn(self.paths, self.program, environment, connection, self.signals.ignored)
        except OSError as error:
            self.not_started(client, error)
        else:
            self.started(pid, client, key)

    def started(self, pid: int, client: Client, key: bytes | None) -> None:
        """A client about whom everything is known has its process."""
        self.children.add(pid, client)
        if self.children.verbose:
            lines = self.children.lines
            self.children.tell(
                self.children.status() + lines.arrival(pid, client.facts) + lines.verdict(b"ok", pid, client.facts, key)
            )

    def not_started(self, client: Client, error: OSError) -> None:
        """The system gives us no process, or the program cannot be run: this client is given up."""
        self.children.missed(client)
        what = b"fork" if error.errno in launch.NO_PROCESS else b"run " + self.program[0]
        self.drop(what, strerr.reason(error), client)

    def drop(self, what: bytes, why: str, client: Client | None) -> None:
        """Give a connection up, with 0.88's warning."""
        if self.settings.verbosity:
            facts = client.facts if client else None
            self.children.journal.write(self.children.lines.dropping(what, why, os.getpid(), facts))
