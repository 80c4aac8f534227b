"""The clients that are being served: the table of children, the counts that the limits need, the log lines about both.

Forks nothing and judges nobody (admission.py); does not know when to reap (serve.py).
"""

import os
import time

from tcpserver.environ import Facts
from tcpserver.parent.limits import Limits, group
from tcpserver.parent.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.log import Lines
    from tcpserver.parent.journal import Journal
    from tcpserver.settings import Settings


class Client:
    """Who is connected, since when (time.monotonic()), and the group with which it counts (limits.py)."""

    __slots__ = ("facts", "group", "started")

    def __init__(self, facts: Facts, started: float) -> None:
        self.facts, self.started = facts, started
        self.group = group(facts.remote_ip)


class Children:
    """The children of one server, by pid."""

    __slots__ = ("by_pid", "coming", "journal", "limits", "lines", "max_children", "pool", "verbose")

    def __init__(self, settings: "Settings", journal: "Journal", lines: "Lines") -> None:
        self.by_pid: dict[int, Client] = {}
        self.coming = 0  # admitted clients that have no process yet
        self.limits = Limits(settings.address_limit, settings.rate, settings.rate_period)
        self.max_children = settings.limit
        self.pool = Pool(settings.reuse)
        self.journal, self.lines, self.verbose = journal, lines, settings.verbosity == 2

    def full(self) -> bool:
        """Whether -c is reached."""
        return len(self.by_pid) + self.coming >= self.max_children

    def expect(self, client: Client) -> None:
        """Count an admitted client, which has no process yet."""
        self.coming += 1
        self.limits.accept(client.group, client.started)

    def add(self, pid: int, client: Client) -> None:
        """Record the process of an expected client."""
        self.coming -= 1
        self.by_pid[pid] = client

    def forget(self, client: Client) -> None:
        """Remove an expected client that gets no process."""
        self.coming -= 1
        self.limits.release(client.group)

    def others(self, client: Client) -> int:
        """How many clients of the same group are connected already."""
        return self.limits.connected.get(client.group, 0)

    def reap(self) -> None:
        """Collect every child that has ended, also those of the process that exec'd us."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if not self.pool.remove(pid):
                self.remove(pid, wait_status)

    def collect_results(self) -> None:
        """Remove the clients that their workers have served."""
        for pid, status in self.pool.finished_clients():
            self.remove(pid, status << 8)

    def remove(self, pid: int, wait_status: int) -> None:
        """Remove a client from the table, and log how its child ended."""
        client = self.by_pid.pop(pid, None)
        if client:
            self.limits.release(client.group)
        if self.verbose:
            facts, seconds = (client.facts, time.monotonic() - client.started) if client else (None, None)
            self.journal.write(self.lines.end(pid, wait_status, facts, seconds) + self.status())

    def kill(self, number: int) -> None:
        """Send every child a signal. A pid is valid until it is reaped, but the process may have changed its user."""
        for pid in self.by_pid:
            try:
                os.kill(pid, number)
            except PermissionError:
                continue

    def status(self, coming: int = 0) -> bytes:
        """The status line. `coming` admitted clients have no process yet, and count already."""
        return self.lines.status(len(self.by_pid) + coming, self.max_children)

    def log_verbose(self, line: bytes) -> None:
        """Log a line that only -v asks for."""
        if self.verbose:
            self.journal.write(line)

    def log_connected(self) -> None:
        """SIGUSR1: log who is connected, and for how long."""
        now = time.monotonic()
        for pid, client in self.by_pid.items():
            self.journal.write(self.lines.connected(pid, client.facts, now - client.started))
