"""One connection until its program runs, where a name or ident must be asked for first, or a banner sent.

Banner, names, ident, rules, environment, in tcpserver.c's order. Where nothing has to be asked, the parent judges by
itself (parent/admission.py).
"""

import errno
import os
import select
import time

from tcprules import lookup, strerr
from tcpserver import environ, registry
from tcpserver.child import ident, names
from tcpserver.child.launch import replace, write_log
from tcpserver.environ import Facts
from tcpserver.log import LIMIT_ADDRESS
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from tcpserver.log import Lines
    from tcpserver.process import SignalActions

DENIED = 100  # tcpserver.c: _exit(100)
NAME_MARK, INFO_MARK = b"=", b"@"  # only rules for host names, and for ident's answers, have these in their keys
UNASKED = {NAME_MARK: b"name", INFO_MARK: b"user"}


class Refused(Exception):
    """The client is not served, and that is logged. `status` is the exit status for it."""

    def __init__(self, status: int) -> None:
        self.status = status


class Connection:
    """One connection in its forked child: the descriptor, what is known of the client, how to log."""

    __slots__ = ("base", "connection", "deadline", "facts", "lines", "others", "settings", "signals", "unasked")

    def __init__(
        self,
        settings: Settings,
        connection: int,
        facts: Facts,
        base: dict[bytes, bytes],
        lines: "Lines",
        others: int,
        signals: "SignalActions",
    ) -> None:
        self.settings, self.connection, self.facts = settings, connection, facts
        self.base, self.lines, self.signals = base, lines, signals
        self.others = others  # how many more are connected from the same address, as the parent counts
        self.deadline = time.monotonic() + settings.prepare_timeout
        self.unasked: list[bytes] = []  # NAME_MARK, INFO_MARK: this question could not be asked

    def run(self) -> "NoReturn":
        """Ask, judge, become the program."""
        program = [octets(word) for word in self.settings.program]
        try:
            environment = dict(self.base)
            environ.edit(environment, self.prepare())
            error = replace(program, environment, self.connection, self.signals)
            self.drop(b"run " + program[0], strerr.reason(error))
        except Refused as refused:
            os._exit(refused.status)

    def prepare(self) -> environ.Edits:
        """Ask and judge, and return the edits of the environment. Raises Refused."""
        if self.settings.verbosity == 2:
            write_log(self.lines.arrival(os.getpid(), self.facts))
        if self.settings.banner:
            self.write_banner(octets(self.settings.banner))
        self.ask()
        verdict = self.judge()
        return environ.with_rule(self.facts, verdict.environment)

    def write_banner(self, banner: bytes) -> None:
        """Send the banner before anything is asked. Raises Refused for a client that does not read it."""
        os.set_blocking(self.connection, False)
        poll = select.poll()
        poll.register(self.connection, select.POLLOUT)
        while banner:
            remaining = self.deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                self.drop(b"print banner", strerr.WORDS[errno.ETIMEDOUT])
            try:
                banner = banner[os.write(self.connection, banner) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self.drop(b"print banner", strerr.reason(error))
        os.set_blocking(self.connection, True)

    def ask(self) -> None:
        """Fill in the names and the ident answer, as far as they are wanted and come in time."""
        facts, settings = self.facts, self.settings
        local = facts.local_ip if settings.local_name is None else None
        remote = facts.remote_ip if settings.ask_host else None
        found = names.Names()
        if local is not None or remote is not None:
            found = self.ask_names(local, remote)
        if found.late:
            registry.programs.clear()  # a thread still waits in the resolver: exec, which ends it, in place of a call
        facts.local_host = found.local if settings.local_name is None else octets(settings.local_name)
        facts.remote_host = found.remote
        if settings.ask_info and facts.proxy_ip is None:  # behind a proxy, the client's host has no connection to us
            try:
                facts.remote_info = ident.ask(facts, settings.ident_timeout, self.deadline)
            except names.Unasked:
                self.unasked.append(INFO_MARK)

    def ask_names(self, local: bytes | None, remote: bytes | None) -> names.Names:
        """The names, or none where they cannot be asked for."""
        try:
            return names.ask(local, remote, bool(self.settings.paranoid), self.deadline)
        except names.Unasked:
            if remote is not None:
                self.unasked.append(NAME_MARK)
            return names.Names()

    def judge(self) -> lookup.Verdict:
        """The verdict of the rules. Raises Refused if they deny the client, or cannot be read."""
        verdict = self.look_up()
        word, reason = (b"deny", b"") if verdict.deny else (b"ok", b"")
        if not verdict.deny and verdict.is_full(self.others):
            word, reason = b"deny", LIMIT_ADDRESS
        if self.settings.verbosity == 2:
            write_log(self.lines.verdict(word, os.getpid(), self.facts, verdict.key, reason))
        if word == b"deny":
            raise Refused(DENIED)
        if verdict.unusable and self.settings.verbosity:
            write_log(self.lines.nameless(verdict.key))
        return verdict

    def look_up(self) -> lookup.Verdict:
        """The verdict of the rules file as it is now. Without -x every client is allowed."""
        if self.settings.rules is None:
            return lookup.ALLOWED
        facts = self.facts
        try:
            with lookup.open_rules(octets(self.settings.rules)) as rules:
                self.check_unasked(rules)
                return lookup.judge(rules, facts.remote_ip, facts.remote_host, facts.remote_info)
        except OSError as error:
            path = octets(self.settings.rules)
            if self.settings.rules_optional and lookup.is_missing(error, path):
                return lookup.ALLOWED
            self.drop(b"read " + path, strerr.reason(error))

    def check_unasked(self, rules: lookup.Rules) -> None:
        """Drop a client if a rule may depend on an answer that could not be asked for: it may have a name or user."""
        for mark in self.unasked:
            if any(mark in key for key, _ in rules.records()):
                self.drop(b"ask for the client's " + UNASKED[mark], strerr.WORDS[errno.EAGAIN])

    def drop(self, what: bytes, why: str) -> "NoReturn":
        """Log 0.88's warning for a connection that is dropped. Raises Refused."""
        if self.settings.verbosity:
            write_log(self.lines.dropping(what, why, os.getpid(), self.facts))
        raise Refused(strerr.TEMPORARY)
