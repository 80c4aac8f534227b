"""PARENT: one accepted client -> refused, or running. Limits, then the rules where nothing slow has to be asked first.

Knows neither the loop nor the signals (serve.py), nor what a child does before the program runs (connection.py).
"""

import errno
import os
import sys
import time

from tcprules import strerr
from tcprules.lookup import Verdict, canonical
from tcpserver import chain, environ, hooks, launch, script
from tcpserver.children import Children, Client
from tcpserver.connection import Child
from tcpserver.environ import Facts
from tcpserver.limits import LIMIT_ADDRESS, over_own_limit
from tcpserver.rulesfile import RulesFile
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import NoReturn

    Run = Callable[[int, list[int], launch.Start], NoReturn]

    from tcpserver.linger import Linger

ALLOWED = Verdict(None, b"", [])  # what no rules at all say
NONE: environ.Edits = []
NOTHING: list[int] = []
MAPPED = "::ffff:"  # how an IPv6 socket shows an IPv4 client


class Waiting:
    """A client that is let in, and its connection; whoever is to have a forked child waits for start_waiting()."""

    __slots__ = ("client", "connection", "edits", "key", "others")

    def __init__(
        self, client: Client, connection: int, key: bytes | None = None, edits: environ.Edits = NONE, others: int = 0
    ) -> None:
        self.client, self.connection = client, connection
        self.key, self.edits = key, edits  # the rule that let it in, and what becomes of the environment
        self.others = others  # how many more are connected from where this client comes, for a child that has to judge


class Door:
    """Where clients are let in. `mine` are the descriptors of the loop."""

    def __init__(self, settings: Settings, children: Children, linger: "Linger", base: dict[bytes, bytes]) -> None:
        self.settings, self.children, self.linger, self.base = settings, children, linger, base
        self.program = [octets(word) for word in settings.program]
        self.message = octets(settings.address_message or "")
        self.rules = RulesFile(octets(settings.rules)) if settings.rules is not None else None
        self.local_host = None if settings.local_name is None else octets(settings.local_name)
        self.asks = bool(settings.ask_host or settings.ask_info or settings.banner or self.local_host is None)
        self.signals = launch.Signals()
        self.stage = script.Stage(base)
        self.waiting: list[Waiting] = []
        self.paths = chain.candidates(self.program[0])  # now: a rule's PATH is the program's alone
        self.mine: list[int] = []

    def admit(self, connection: "socket.socket", peer: tuple[str, int]) -> None:
        """Serve the client, or refuse it; the caller closes the connection unless it lingers.

        Who is to have a forked child waits for start_waiting().
        """
        try:
            name = connection.getsockname()
        except OSError as error:  # the client is gone already, and so is its address
            self.drop(b"get local address", strerr.reason(error), None)
            return
        client = Client(Facts(text(name[0]), name[1], text(peer[0]), peer[1]), time.monotonic())
        client.facts.local_host = self.local_host
        reason = self.children.limits.refusal(client.group, client.started)
        if reason:
            self.refuse(client, connection, reason)
        elif self.asks:
            self.start_child(client, connection)
        else:
            self.judge(client, connection)

    def judge(self, client: Client, connection: "socket.socket") -> None:
        """Ask the rules, and start the program if they allow it."""
        try:
            verdict = self.rules.judge(client.facts.remote_ip) if self.rules else ALLOWED
        except OSError as error:
            if not (error.errno == errno.ENOENT and self.settings.rules_optional):
                self.drop(b"read " + octets(self.settings.rules or ""), strerr.reason(error), client)
                return
            verdict = ALLOWED
        if verdict.deny:
            self.refuse(client, connection, b"", verdict.key)
        elif over_own_limit(verdict, self.children.others(client)):
            self.refuse(client, connection, LIMIT_ADDRESS, verdict.key)
        else:
            if verdict.unusable and self.settings.verbosity:
                self.children.journal.write(self.children.lines.nameless(verdict.key))
            self.start_program(client, connection, verdict)

    def start_program(self, client: Client, connection: "socket.socket", verdict: Verdict) -> None:
        """Run the program for a client about whom everything is known."""
        self.children.expect(client)
        edits = environ.variables(client.facts) + list(verdict.environment)
        if chain.preloaded:
            self.waiting.append(Waiting(client, connection.detach(), verdict.key, edits))
        else:
            self.spawn(client, connection.fileno(), verdict.key, edits)

    def start_child(self, client: Client, connection: "socket.socket") -> None:
        """Let a child ask what has to be asked."""
        others = self.children.others(client)
        self.children.expect(client)
        self.children.tell(self.children.status(self.children.coming))
        self.waiting.append(Waiting(client, connection.detach(), others=others))

    def start_waiting(self) -> None:
        """Begin with those who wait: everybody is known who has come by now."""
        batch, self.waiting = self.waiting, []
        if not batch:
            return
        found = None if self.asks else script.preloaded(self.paths)
        if self.asks:
            self.ask(batch)
        elif found and found[0].serve and self.children.pool.most > 1:
            self.reuse(batch, *found)
        elif found:
            self.call(batch, *found)
        else:
            for one in batch:
                self.spawn(one.client, one.connection, one.key, one.edits)
                os.close(one.connection)

    def ask(self, batch: list[Waiting]) -> None:
        """Fork: the children ask, judge, and run the program."""
        hooks.before_fork(self.base)
        said = self.fork(self.run_child, [(one,) for one in batch], batch)
        for one, pid in zip(batch, said, strict=True):
            if isinstance(pid, OSError):
                self.not_started(one.client, pid)
                self.children.tell(self.children.status(self.children.coming))
            else:
                self.children.add(pid, one.client)

    def run_child(self, connection: int, closing: list[int], start: "launch.Start") -> "NoReturn":
        """CHILD: all there is to do for this client."""
        one = start[0]
        launch.enter(closing, self.signals.caught)
        facts, lines = one.client.facts, self.children.lines
        Child(self.settings, connection, facts, self.base, lines, one.others, self.signals).run()

    def call(self, batch: list[Waiting], program: script.Script, path: bytes) -> None:
        """Fork: the children call the preloaded program."""
        hooks.before_fork(self.base)
        self.stage.set(batch[0].edits)
        sys.argv[:] = [os.fsdecode(word) for word in (path, *self.program[1:])]
        numbers = self.signals.caught + self.signals.for_a_call
        said = self.fork(launch.call, [(program.main, self.stage.left(one.edits), numbers) for one in batch], batch)
        for one, pid in zip(batch, said, strict=True):
            if isinstance(pid, OSError):
                self.not_started(one.client, pid)
            else:
                self.started(pid, one.client, one.key)

    def reuse(self, batch: list[Waiting], program: script.Script, path: bytes) -> None:
        """Give the clients to processes of the preloaded program that wait for one, and fork more where none does."""
        pool, new = self.children.pool, []
        for one in batch:
            pid = pool.hand_over(one.connection, one.edits)
            if pid is None:
                new.append(one)
            else:
                os.close(one.connection)
                self.started(pid, one.client, one.key)
        if new:
            hooks.before_fork(self.base)
            sys.argv[:] = [os.fsdecode(word) for word in (path, *self.program[1:])]
            self.hire(new, program.serve)

    def hire(self, batch: list[Waiting], serve: "Callable[[], object] | None") -> None:
        """Fork: the children serve these clients first, and then others."""
        from tcpserver import worker  # what is loaded each fork copies, and most servers have no pool

        pool = self.children.pool
        try:
            ends = pool.hire(len(batch))
        except OSError as error:  # too many open files, as for a fork that fails
            for one in batch:
                os.close(one.connection)
                self.not_started(one.client, error)
            return
        ours, theirs = [end[0] for end in ends], [end[1] for end in ends]
        starts = [
            (serve, self.base, one.edits, job, theirs, pool.results[1], pool.most, self.signals)
            for one, job in zip(batch, theirs, strict=True)
        ]
        said = self.fork(worker.serve, starts, batch, ours, keep=pool.results[1])
        for one, (mine, its), pid in zip(batch, ends, said, strict=True):
            os.close(its)
            if isinstance(pid, OSError):
                os.close(mine)
                self.not_started(one.client, pid)
            else:
                pool.jobs[pid] = mine
                self.started(pid, one.client, one.key)

    def fork(
        self, run: "Run", starts: "list[launch.Start]", batch: list[Waiting], more: list[int] = NOTHING, keep: int = -1
    ) -> list[int | OSError]:
        """Fork for the batch, and close its connections. The children close our own descriptors, but for `keep`."""
        connections = [one.connection for one in batch]
        mine = [descriptor for descriptor in self.own_descriptors() + more if descriptor != keep]
        return launch.fork_each(run, starts, connections, mine, self.signals.caught)

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

    def own_descriptors(self) -> list[int]:
        """What a forked child must not keep: the loop's, the rules file, clients that linger."""
        rules = [self.rules.descriptor] if self.rules and self.rules.descriptor >= 0 else []
        return self.mine + rules + list(self.linger.sockets) + self.children.pool.descriptors()

    def refuse(self, client: Client, connection: "socket.socket", reason: bytes, key: bytes | None = None) -> None:
        """One deny line with our own pid. A client over -C's limit gets the message of -C; no other gets a word."""
        self.children.tell(self.children.lines.verdict(b"deny", os.getpid(), client.facts, key, reason))
        if reason == LIMIT_ADDRESS and self.message:
            self.linger.refuse(connection, self.message + b"\r\n", client.started)

    def drop(self, what: bytes, why: str, client: Client | None) -> None:
        """Give a connection up, with 0.88's warning."""
        if self.settings.verbosity:
            facts = client.facts if client else None
            self.children.journal.write(self.children.lines.dropping(what, why, os.getpid(), facts))


def text(address: str) -> bytes:
    """TCPREMOTEIP's form of an address: an IPv4-mapped one is the dotted quad, an IPv6 one its canonical text."""
    if ":" not in address:
        return address.encode()
    if address.startswith(MAPPED) and "." in address:
        return address[len(MAPPED) :].encode()
    return canonical(address.encode()) or address.encode()
