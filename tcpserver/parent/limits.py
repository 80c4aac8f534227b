"""How many clients at once and how fast: per address (IPv4) or per /64 (IPv6). Pure: the clock is an argument.

The tables hold only who is connected, or came within the rate's period; what is older is forgotten.
"""

from _collections import deque  # type: ignore[import-not-found]  # the C half: the other loads four modules

from tcpserver.log import LIMIT_ADDRESS

LIMIT_RATE = b"rate"
MAX_RATED = 100_000  # addresses whose rate is remembered; beyond it the one that has been silent longest is forgotten


def group(ip: bytes) -> bytes:
    """The group that an address counts with: itself, or for IPv6 its /64 (one host may have all of it)."""
    if b":" not in ip:
        return ip
    left, _, right = ip.partition(b"%")[0].partition(b"::")
    head = left.split(b":") if left else []
    tail = right.split(b":") if right else []
    words = head + [b"0"] * (8 - len(head) - len(tail)) + tail
    return b":".join(words[:4])


class Limits:
    """The counts of one server, for each group: `max_connected` clients at once, `rate` accepted in `period` seconds.

    0 means no limit.
    """

    __slots__ = ("connected", "max_connected", "period", "rate", "recent")

    def __init__(self, max_connected: int = 0, rate: int = 0, period: int = 0) -> None:
        self.max_connected, self.rate, self.period = max_connected, rate, period
        self.connected: dict[bytes, int] = {}
        self.recent: dict[bytes, deque[float]] = {}

    def refusal(self, who: bytes, now: float) -> bytes | None:
        """Why one more client of this group is refused, or None. Counts nothing."""
        if self.max_connected and self.connected.get(who, 0) >= self.max_connected:
            return LIMIT_ADDRESS
        if self.rate:
            times = self.recent.get(who)
            if times and len(times) >= self.rate and now - times[0] < self.period:
                return LIMIT_RATE
        return None

    def accept(self, who: bytes, now: float) -> None:
        """Count one more accepted client of this group."""
        self.connected[who] = self.connected.get(who, 0) + 1
        if self.rate:
            times = self.recent.pop(who, None) or deque(maxlen=self.rate)
            times.append(now)
            while now - times[0] >= self.period:
                times.popleft()
            self.recent[who] = times  # the newest are at the end
            self.forget(now)

    def forget(self, now: float) -> None:
        """Drop the groups that have been silent for longer than the period, and the oldest ones over the bound."""
        while self.recent:
            who, times = next(iter(self.recent.items()))
            if now - times[-1] < self.period and len(self.recent) <= MAX_RATED:
                return
            del self.recent[who]

    def release(self, who: bytes) -> None:
        """Count one client of this group less."""
        left = self.connected.get(who, 0) - 1
        if left > 0:
            self.connected[who] = left
        else:
            self.connected.pop(who, None)
