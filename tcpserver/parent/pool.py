"""The workers: processes of a loaded program that serve one client after the other (--reuse), and their dispatch.

Each worker has a socket of its own, by which it gets a client. All report by one pipe how their clients ended. A worker
that ends is reaped as any other child (children.py).
"""

import _socket as socket
import os

from tcpserver.handover import MAX_MESSAGE, Job, encode, receive_results, send_client
from tcpserver.process import move_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_IDLE = 50  # workers that may wait for a client; one more is retired
MIN_WAITING, MAX_WAITING = 16, 20_000  # bounds of how many connections wait for a PROXY header; upper: memory
RESERVED = 256  # of the descriptors that the system allows, those that are not for workers: a batch needs 192


class Pool:
    """The workers of one server. Each serves `max_clients` at most, one after the other; 1: there is no pool."""

    __slots__ = ("capacity", "channels", "idle", "max_clients", "results", "retired")

    def __init__(self, max_clients: int) -> None:
        self.max_clients = max_clients
        self.channels: dict[int, int] = {}  # pid -> the descriptor by which it gets a client
        self.idle: list[int] = []  # pids; the one that has worked last is at the end, and is taken first
        self.retired: set[int] = set()  # pids that have yet to end
        self.capacity = os.sysconf("SC_OPEN_MAX") - RESERVED  # each worker costs the server a descriptor
        self.results = (-1, -1)
        if max_clients > 1:
            self.results = move_both_up(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            os.set_blocking(self.results[1], True)

    def share(self, clients: int) -> int:
        """Reserve descriptors for connections that wait for a PROXY header, and return for how many.

        The workers keep enough for `clients` at once, at most half of all.
        """
        available = max(0, self.capacity)
        self.capacity = min(clients + MAX_IDLE, available // 2) if self.max_clients > 1 else 0
        return min(max(available - self.capacity, MIN_WAITING), MAX_WAITING)

    def descriptors(self) -> list[int]:
        """The descriptors that a forked child must close."""
        return [*self.results, *self.channels.values()] if self.max_clients > 1 else []

    def new_channel(self, taken: int) -> tuple[int, int] | None:
        """A socket pair for a worker that is about to be forked: the parent's end, and the worker's.

        None if there is no descriptor for one more, beside the `taken` that are being made. The client then gets a
        process that serves no other client.
        """
        if len(self.channels) + taken >= self.capacity:
            return None
        try:
            parent_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return move_both_up((parent_end.detach(), worker_end.detach()))
        except OSError:
            return None

    def dispatch(self, connection: int, job: Job, announce: "Callable[[int], bytes] | None") -> int | None:
        """Give an idle worker this client, and return its pid. None if no worker is idle, or the job is too large.

        `announce` makes the lines that the worker logs first from its pid.
        """
        while self.idle:
            pid = self.idle[-1]
            job.announcement = announce(pid) if announce else b""
            message = encode(job)
            if len(message) > MAX_MESSAGE:
                return None
            self.idle.pop()
            if send_client(self.channels[pid], connection, message):
                return pid
            self.retire(pid)
        return None

    def retire(self, pid: int) -> None:
        """Close the socket of a worker that is no longer needed, which ends it."""
        os.close(self.channels.pop(pid))
        self.retired.add(pid)

    def finished_clients(self) -> list[tuple[int, int]]:
        """The workers whose client is gone by now, with the exit status. They are idle from now on."""
        if self.max_clients == 1:
            return []
        found = []
        for pid, status in receive_results(self.results[0]):
            if pid in self.channels and pid not in self.idle:
                found.append((pid, status))
                self.idle.append(pid)
                if len(self.idle) > MAX_IDLE:
                    self.retire(self.idle.pop(0))
        return found

    def remove(self, pid: int) -> bool:
        """Forget a process that has ended. Return whether it was a worker without a client."""
        was_idle = pid in self.idle
        if was_idle:
            self.idle.remove(pid)
        if pid in self.channels:
            os.close(self.channels.pop(pid))
        elif pid in self.retired:
            self.retired.remove(pid)
            was_idle = True
        return was_idle


def move_both_up(ends: tuple[int, int]) -> tuple[int, int]:
    """Give both ends of a pipe or socket pair higher numbers (process.move_up). Raises OSError."""
    first = -1
    try:
        first = move_up(ends[0])
        return first, move_up(ends[1])
    except OSError:
        for descriptor in (first, ends[1]):
            close_if_open(descriptor)
        raise


def close_if_open(descriptor: int) -> None:
    """Close a descriptor that may be closed already."""
    try:
        os.close(descriptor)
    except OSError:
        return
