"""PARENT: the processes of a preloaded program that serve one client after the other (--reuse), and their next clients.

Each has a socket of its own, by which it is given a client: the connection, and the edits of the environment. All tell
by one pipe how their clients ended. A process that ends instead is waited for as any other (children.py).
"""

import _socket as socket
import os
import sys
from struct import Struct

from tcpserver.environ import Edits, words_of

MOST_IDLE = 50  # processes that may wait for a client; one more is sent home
FIRST = 10  # no descriptor below: programs of djb's kind give each other 3 to 7
SPARE = 256  # of the descriptors that the system allows, those that are not for this: a batch of clients needs 192
MOST_EDITS = 65536  # bytes; a client for whom the rules set more gets a process of its own
RECORD = Struct("=II")  # pid and exit status, as a process writes them into the pipe
NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Pool:
    """The processes of one server. `most` clients for each, one after the other; 1: there is no pool."""

    __slots__ = ("dismissed", "idle", "jobs", "most", "places", "results")

    def __init__(self, most: int) -> None:
        self.most = most
        self.jobs: dict[int, int] = {}  # pid -> the descriptor by which it gets a client
        self.idle: list[int] = []  # pids; the one that has worked last stands last, and is taken first
        self.dismissed: set[int] = set()  # pids that have yet to end
        self.places = os.sysconf("SC_OPEN_MAX") - SPARE  # each process costs the server a descriptor
        self.results = (-1, -1)
        if most > 1:
            self.results = high(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            os.set_blocking(self.results[1], True)

    def descriptors(self) -> list[int]:
        """What a forked child must not keep."""
        return [*self.results, *self.jobs.values()] if self.most > 1 else []

    def hire(self, taken: int) -> tuple[int, int] | None:
        """The ends of the socket of a process that is about to be forked, ours and its own.

        None where there is no place for one more, beside those that are `taken` just now: its client gets a process
        that serves nobody else.
        """
        if len(self.jobs) + taken >= self.places:
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return high((ours.detach(), theirs.detach()))
        except OSError:
            return None

    def hand_over(self, connection: int, edits: Edits) -> int | None:
        """Give a process that waits this client, and return its pid; None where nobody waits, or can take so much."""
        words = words_of(edits)
        while self.idle and len(words) <= MOST_EDITS:
            pid = self.idle.pop()
            if send(self.jobs[pid], connection, words):
                return pid
            self.dismiss(pid)
        return None

    def dismiss(self, pid: int) -> None:
        """A process that is not needed any more ends when its socket closes."""
        os.close(self.jobs.pop(pid))
        self.dismissed.add(pid)

    def ended(self) -> list[tuple[int, int]]:
        """Whose client is gone by now, and with which exit status. They wait for the next one."""
        if self.most == 1:
            return []
        found = []
        for pid, status in RECORD.iter_unpack(self.said()):
            if pid in self.jobs and pid not in self.idle:
                found.append((pid, status))
                self.idle.append(pid)
                if len(self.idle) > MOST_IDLE:
                    self.dismiss(self.idle.pop(0))
        return found

    def said(self) -> bytes:
        """All that stands in the pipe."""
        text = b""
        try:
            while part := os.read(self.results[0], 65536):
                text += part
        except BlockingIOError:
            pass
        return text

    def lost(self, pid: int) -> bool:
        """A process has ended. Was it one of these, without a client?"""
        waited = pid in self.idle
        if waited:
            self.idle.remove(pid)
        if pid in self.jobs:
            os.close(self.jobs.pop(pid))
        elif pid in self.dismissed:
            self.dismissed.remove(pid)
            waited = True
        return waited


def record(pid: int, status: int) -> bytes:
    """What a process says of a client that is gone."""
    return RECORD.pack(pid, status)


def high(ends: tuple[int, int]) -> tuple[int, int]:
    """Both ends of a pipe or of a pair of sockets, out of the way."""
    first = -1
    try:
        first = out_of_the_way(ends[0])
        return first, out_of_the_way(ends[1])
    except OSError:
        for descriptor in (first, ends[1]):
            close(descriptor)
        raise


def close(descriptor: int) -> None:
    """Close what may be closed already."""
    try:
        os.close(descriptor)
    except OSError:
        return


def out_of_the_way(descriptor: int) -> int:
    """The same file under a number that no program gives to another."""
    import fcntl  # start.py has loaded it, while it still could

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(descriptor)


def send(job: int, connection: int, edits: bytes) -> bool:
    """Hand a client over. False if the process has gone, or takes nothing."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, job)
    try:
        end.sendmsg([edits], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, connection.to_bytes(4, sys.byteorder))], NOW)
    except OSError:
        return False
    finally:
        end.detach()
    return True
