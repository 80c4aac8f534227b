"""Connect to a host that may have several addresses. The next address is tried while the earlier ones are slow.

RFC 8305 (happy eyeballs): IPv6 and IPv4 addresses in turns, a quarter of a second apart. 0.88 waits for the first
address before it tries the second one, and so does this module if a local port is given.
"""

import _socket as socket  # see address/operands
import errno
import os
import select
import time

from tcprules import strerr
from tcpserver.tools.options import LONGEST_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[str, int, OSError], None]

STAGGER = 0.25  # seconds. RFC 8305, 8: Connection Attempt Delay
ONE_AT_A_TIME = float("inf")
WAYS_TO_WAIT = (errno.EINPROGRESS, errno.EWOULDBLOCK)


class BindError(Exception):
    """The local end cannot be bound, or there is no socket for the last address; the text is the message."""


class Attempt:
    """A connection that is being made."""

    __slots__ = ("address", "deadline", "link")

    def __init__(self, address: str, link: socket.socket, deadline: float) -> None:
        self.address, self.link, self.deadline = address, link, deadline


class Dialler:
    """Makes one connection to a port. `report` is called for each address that fails, with the error.

    `patience` and `more_patience` are seconds: the x and y of tcpclient's -T x+y.
    """

    def __init__(
        self, port: int, patience: int, more_patience: int, report: "Report", local_ip: str = "", local_port: int = 0
    ) -> None:
        self.port, self.report = port, report
        self.patience, self.more_patience = patience, more_patience
        self.local_ip, self.local_port = local_ip, local_port
        self.late: list[str] = []  # addresses for which more patience is left
        self.running: dict[int, Attempt] = {}

    def connect(self, addresses: list[str]) -> "socket.socket | None":
        """Connect to one of these addresses; None if none can be reached. Raises BindError."""
        if len(addresses) == 1 or not self.local_port:
            limit = self.patience + self.more_patience
            return self.race(in_turns(addresses), limit, min(self.patience, STAGGER), False)
        found = self.race(addresses, self.patience, ONE_AT_A_TIME, bool(self.more_patience))
        if found or not self.late:
            return found
        late, self.late = self.late, []
        return self.race(late, self.more_patience, ONE_AT_A_TIME, False)

    def race(self, addresses: list[str], limit: float, stagger: float, retried: bool) -> "socket.socket | None":
        """Try the addresses, each for `limit` seconds, the next one `stagger` seconds after the one before.

        With `retried`, an address that is late is kept in `late`, and not reported.
        """
        waiting, next_start = list(addresses), 0.0
        try:
            while waiting or self.running:
                now = time.monotonic()
                if waiting and (not self.running or now >= next_start):
                    has_begun = self.start(waiting.pop(0), now + limit, bool(waiting or self.running or self.late))
                    next_start = now + stagger if has_begun else 0.0
                    continue
                until = min(attempt.deadline for attempt in self.running.values())
                connected, someone_failed = self.wait(min(until, next_start) if waiting else until, retried)
                if connected:
                    return connected
                if someone_failed:
                    next_start = 0.0
            return None
        finally:
            for attempt in self.running.values():
                attempt.link.close()
            self.running.clear()

    def start(self, address: str, deadline: float, has_others: bool) -> bool:
        """Begin to connect, and return whether that was possible. Raises BindError.

        A kernel without IPv6 makes no socket for an IPv6 address. So a missing socket is only reported for this address
        as long as it `has_others` beside it, running or to be tried.
        """
        try:
            link = socket.socket(family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            if not has_others:
                raise BindError(f"unable to create socket: {strerr.reason(error)}") from error
            self.report(address, self.port, error)
            return False
        if self.local_ip or self.local_port:
            try:
                link.bind((self.local_ip, self.local_port))
            except OSError as error:
                link.close()
                raise BindError(f"unable to bind socket: {strerr.reason(error)}") from error
        failure = link.connect_ex((address, self.port))
        if failure and failure not in WAYS_TO_WAIT:
            link.close()
            self.report(address, self.port, OSError(failure, os.strerror(failure)))
            return False
        self.running[link.fileno()] = Attempt(address, link, deadline)
        return True

    def wait(self, until: float, retried: bool) -> "tuple[socket.socket | None, bool]":
        """Wait until an attempt ends, or the time comes. Return the connection, and whether an attempt has failed."""
        poller = select.poll()
        for descriptor in self.running:
            poller.register(descriptor, select.POLLOUT)
        remaining = min(max(0.0, until - time.monotonic()), LONGEST_WAIT)
        ended = [descriptor for descriptor, _ in poller.poll(remaining * 1000 + 1)]
        for descriptor in ended:
            attempt = self.running.pop(descriptor)
            failure = attempt.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not failure:
                attempt.link.setblocking(True)
                return attempt.link, False
            self.fail(attempt, failure)
        now = time.monotonic()
        for descriptor, attempt in list(self.running.items()):
            if attempt.deadline <= now:
                del self.running[descriptor]
                ended.append(descriptor)
                if retried:
                    attempt.link.close()
                    self.late.append(attempt.address)
                else:
                    self.fail(attempt, errno.ETIMEDOUT)
        return None, bool(ended)

    def fail(self, attempt: Attempt, failure: int) -> None:
        """Give an attempt up."""
        attempt.link.close()
        self.report(attempt.address, self.port, OSError(failure, os.strerror(failure)))


def family(address: str) -> int:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def in_turns(addresses: list[str]) -> list[str]:
    """The addresses, those of the two families in turns, beginning with the first one's (RFC 8305, 4). Pure."""
    first = [address for address in addresses if family(address) == family(addresses[0])]
    second = [address for address in addresses if address not in first]
    found = []
    for at in range(max(len(first), len(second))):
        found += first[at : at + 1] + second[at : at + 1]
    return found
