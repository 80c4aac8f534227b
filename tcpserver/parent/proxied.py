"""Connections from the proxies of --proxy-from until their PROXY header is whole, beside the accept loop.

Judges no client (admission.py), and does not know the format (proxy_header.py). A header stays in the kernel until it
is whole, and then only its own bytes are read. An epoll descriptor of its own is in the loop's poll set, so that
silent connections cost the loop nothing. Bounded in time and in number, and in the lines that it logs.
"""

import _socket as socket  # see serve
import select
from _collections import deque  # type: ignore[import-not-found]  # see limits

from tcprules import strerr
from tcpserver.environ import Facts
from tcpserver.parent import proxy_header
from tcpserver.parent.proxy_networks import Networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 64  # connections that are checked before the loop does anything else
CLOSED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET  # edge-triggered: unread input wakes only once
PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT
MAX_LINES = 20  # about dropped connections in a second; further ones are only counted


class Dropped(Exception):
    """A connection is closed; the text says why.

    `is_fault` is False if the server stops, or the other end has closed, as a balancer does that only checks the port.
    """

    def __init__(self, why: str, is_fault: bool) -> None:
        super().__init__(why)
        self.is_fault = is_fault


class Proxied:
    """The connections whose header is not whole, and those that wait for a free place (-c), each in their order.

    `log(facts, why)` logs that a connection is dropped, `log_more(count)` how many were not logged. With `only_faults`
    drops without `is_fault` are neither logged nor counted. `timeout` is in seconds, moments are those of
    time.monotonic().
    """

    __slots__ = (
        "epoll",
        "lines_in_second",
        "log",
        "log_more",
        "most",
        "networks",
        "only_faults",
        "ready",
        "second_ends",
        "timeout",
        "unlogged",
        "waiting",
    )

    def __init__(
        self,
        networks: list[bytes],
        timeout: int,
        most: int,
        log: "Callable[[Facts, str], None]",
        log_more: "Callable[[int], None]",
        only_faults: bool = False,
    ) -> None:
        self.networks, self.timeout, self.most = Networks(networks), timeout, most
        self.log, self.log_more, self.only_faults = log, log_more, only_faults
        self.epoll = select.epoll()
        self.waiting: dict[int, tuple[socket.socket, Facts, float]] = {}  # by descriptor, with the deadline
        self.ready: deque[tuple[socket.socket, Facts]] = deque()
        self.lines_in_second, self.second_ends, self.unlogged = 0, 0.0, 0

    def expects(self, facts: Facts) -> bool:
        """Whether a connection with these ends has to begin with a header."""
        return self.networks.contain(facts.remote_ip)

    def add(self, connection: socket.socket, own: Facts, now: float) -> None:
        """Take a connection with these ends, which may be ready at once. The oldest of too many is dropped."""
        try:
            facts = read_header(connection, own, ended=False)
            if facts:
                self.ready.append((connection, facts))
                return
            if len(self.waiting) + len(self.ready) >= self.most and self.waiting:
                self.drop(next(iter(self.waiting)), Dropped("too many connections wait", is_fault=True), now)
            self.epoll.register(connection, EVENTS)
        except Dropped as dropped:
            self.log_drop(own, dropped, now)
            connection.close()
        except OSError as error:  # no memory for one more
            self.log_drop(own, Dropped(strerr.reason(error), is_fault=True), now)
            connection.close()
        else:
            self.waiting[connection.fileno()] = connection, own, now + self.timeout

    def serve(self, now: float) -> None:
        """Look at connections that have sent something, or have ended."""
        for descriptor, events in self.epoll.poll(0, BATCH):
            connection, own, _ = self.waiting[descriptor]
            try:
                facts = read_header(connection, own, ended=bool(events & CLOSED))
            except Dropped as dropped:
                self.drop(descriptor, dropped, now)
                continue
            if facts:
                self.forget(descriptor)
                self.ready.append((connection, facts))

    def forget(self, descriptor: int) -> None:
        """Stop watching a connection."""
        del self.waiting[descriptor]
        self.epoll.unregister(descriptor)

    def drop(self, descriptor: int, dropped: "Dropped", now: float) -> None:
        """Close a connection."""
        connection, own, _ = self.waiting[descriptor]
        self.forget(descriptor)
        self.log_drop(own, dropped, now)
        connection.close()

    def log_drop(self, own: Facts, dropped: "Dropped", now: float) -> None:
        """Log a dropped connection, or count it."""
        if self.only_faults and not dropped.is_fault:
            return
        if now >= self.second_ends:
            self.log_unlogged()
            self.lines_in_second, self.second_ends = 0, now + 1
        if self.lines_in_second < MAX_LINES:
            self.lines_in_second += 1
            self.log(own, str(dropped))
        else:
            self.unlogged += 1

    def log_unlogged(self) -> None:
        """Log how many were dropped without a line."""
        if self.unlogged:
            self.log_more(self.unlogged)
            self.unlogged = 0

    def on_clock(self, now: float) -> None:
        """Drop those whose time is over, a batch at most."""
        late: list[int] = []
        for descriptor, (_, _, deadline) in self.waiting.items():
            if deadline > now or len(late) == BATCH:
                break
            late.append(descriptor)
        for descriptor in late:
            self.drop(descriptor, Dropped("timed out", is_fault=True), now)
        if self.unlogged and now >= self.second_ends:
            self.log_unlogged()

    def is_waiting(self) -> bool:
        """Whether anything is due, now or later."""
        return bool(self.waiting or self.unlogged)

    def next_deadline(self) -> float | None:
        """When something is due; None if nothing is. All have the same time limit: the oldest is due first."""
        due = [next(iter(self.waiting.values()))[2]] if self.waiting else []
        if self.unlogged:
            due.append(self.second_ends)
        return min(due, default=None)

    def descriptors(self) -> list[int]:
        """The descriptors that a forked child must close."""
        return [self.epoll.fileno(), *self.waiting, *(connection.fileno() for connection, _ in self.ready)]

    def stop(self, now: float) -> None:
        """Drop all of them: the server accepts no more clients."""
        stopping = Dropped("the server is stopping", is_fault=False)
        for descriptor in list(self.waiting):
            self.drop(descriptor, stopping, now)
        for connection, facts in self.ready:
            self.log_drop(facts, stopping, now)
            connection.close()
        self.ready.clear()
        self.log_unlogged()


def read_header(connection: socket.socket, own: Facts, ended: bool) -> Facts | None:
    """Read the header from a connection, and return the facts about the client. None: it is not whole.

    Until it is whole, nothing is taken from the socket. `ended`: nothing more will come. Raises Dropped.
    """
    try:
        seen = connection.recv(proxy_header.MAX_V2, PEEK)
        length = proxy_header.header_length(seen)
        if not length or length > len(seen):
            if ended or not seen:
                raise Dropped("connection closed", is_fault=False)
            return None
        return from_header(proxy_header.parse(connection.recv(length, socket.MSG_DONTWAIT)), own)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Dropped(strerr.reason(error), is_fault=False) from None
    except proxy_header.Invalid as error:
        raise Dropped(str(error), is_fault=True) from None


def from_header(named: Facts | None, own: Facts) -> Facts:
    """The facts about a client: the ends that the header names. If it names none: the connection's; no relaying."""
    facts = own if named is None else named
    facts.never_relays = named is None
    facts.proxy_ip, facts.proxy_port = own.remote_ip, own.remote_port
    return facts
