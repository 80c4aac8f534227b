"""PARENT: who is being served: the table of children, the counts that the limits need, the lines about both.

Forks nothing and judges nobody (admit.py); does not know when to look (serve.py).
"""

import os
import time

from tcpserver.environ import Facts
from tcpserver.limits import Limits, group
from tcpserver.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.journal import Journal
    from tcpserver.log import Lines
    from tcpserver.settings import Settings


class Client:
    """Who came, since when (time.monotonic()), and with whom it counts."""

    __slots__ = ("facts", "group", "started")

    def __init__(self, facts: Facts, started: float) -> None:
        self.facts, self.started = facts, started
        self.group = group(facts.remote_ip)


class Children:
    """The children of one server, by pid."""

    __slots__ = ("by_pid", "coming", "journal", "limits", "lines", "most", "pool", "verbose")

    def __init__(self, settings: "Settings", journal: "Journal", lines: "Lines") -> None:
        self.by_pid: dict[int, Client] = {}
        self.coming = 0  # clients that are let in, and have no process yet
        self.limits = Limits(settings.address_limit, settings.rate, settings.rate_period)
        self.most = settings.limit
        self.pool = Pool(settings.reuse)
        self.journal, self.lines, self.verbose = journal, lines, settings.verbosity == 2

    def full(self) -> bool:
        """Is -c reached?"""
        return len(self.by_pid) + self.coming >= self.most

    def expect(self, client: Client) -> None:
        """One more client is let in."""
        self.coming += 1
        self.limits.accept(client.group, client.started)

    def add(self, pid: int, client: Client) -> None:
        """An expected client has its process."""
        self.coming -= 1
        self.by_pid[pid] = client

    def missed(self, client: Client) -> None:
        """An expected client gets none."""
        self.coming -= 1
        self.limits.release(client.group)

    def others(self, client: Client) -> int:
        """How many are connected already from where this client comes."""
        return self.limits.connected.get(client.group, 0)

    def reap(self) -> None:
        """Collect every child that has ended, also those that somebody else left us."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if not self.pool.lost(pid):
                self.gone(pid, wait_status)

    def served(self) -> None:
        """Note whose client is gone where the process goes on."""
        for pid, status in self.pool.ended():
            self.gone(pid, status << 8)

    def gone(self, pid: int, wait_status: int) -> None:
        """Forget a client, and say how its child ended."""
        client = self.by_pid.pop(pid, None)
        if client:
            self.limits.release(client.group)
        if self.verbose:
            facts, seconds = (client.facts, time.monotonic() - client.started) if client else (None, None)
            self.journal.write(self.lines.end(pid, wait_status, facts, seconds) + self.status())

    def kill(self, number: int) -> None:
        """Send everybody a signal. Who is not reaped yet still has its pid, but may have become another user's."""
        for pid in self.by_pid:
            try:
                os.kill(pid, number)
            except PermissionError:
                continue

    def status(self, coming: int = 0) -> bytes:
        """The status line; `coming` is how many are let in, and count already."""
        return self.lines.status(len(self.by_pid) + coming, self.most)

    def tell(self, line: bytes) -> None:
        """A line that only -v wants."""
        if self.verbose:
            self.journal.write(line)

    def tell_connected(self) -> None:
        """SIGUSR1: who is connected, and for how long."""
        now = time.monotonic()
        for pid, client in self.by_pid.items():
            self.journal.write(self.lines.connected(pid, client.facts, now - client.started))
