"""Who logged in from an address, when, and until when that counts. Pure.

As text it is one line of six words, `1 ADDRESS SERVICE SEEN EXPIRES USER`, which holds no byte that a log, a header or
an environment could not.
"""

VERSION = b"1"
AHEAD = 120  # seconds that an entry may lie in the future: clocks of hosts that share a store differ by less
DIGITS = 15  # of a time: enough for 30 million years
LONGEST = 4096  # bytes; a user, escaped, has 1024
PRINTABLE = bytes(range(0x21, 0x7F))
BETWEEN = b" " * 5 + b"\n"  # what the line has besides


class Entry:
    """One login. Times are whole seconds since 1970; `user` and `service` are empty where the store cannot say."""

    __slots__ = ("address", "expires", "seen", "service", "user")

    def __init__(self, address: bytes, user: bytes, service: bytes, seen: int, expires: int) -> None:
        self.address = address
        self.user = user
        self.service = service
        self.seen = seen
        self.expires = expires

    def is_live(self, now: int, seconds: int | None) -> bool:
        """Whether the client may relay at `now`; `seconds`: the asker's own window, None if it has none.

        A clock that was wrong for a while must not open the relay later, or for longer.
        """
        return self.seen <= now + AHEAD and now < self.expires and (seconds is None or now < self.seen + seconds)

    def end(self, seconds: int | None) -> int:
        """When the entry stops to count, for an asker with this window."""
        return self.expires if seconds is None else min(self.expires, self.seen + seconds)


def compose(entry: Entry) -> bytes:
    """The line."""
    return b"%b %b %b %d %d %b\n" % (VERSION, entry.address, entry.service, entry.seen, entry.expires, entry.user)


def parse(line: bytes, address: bytes) -> Entry | None:
    """The entry, if this is one, for this address and whole. Else None: a copy, a torn or a foreign file."""
    if (
        len(line) > LONGEST
        or line.translate(None, PRINTABLE) != BETWEEN
        or not line.startswith(b"%b %b " % (VERSION, address))
    ):
        return None
    _, _, service, seen, expires, user = line.split(b" ")
    if not (service and seen.isdigit() and expires.isdigit() and len(user) > 1 and user.endswith(b"\n")):
        return None
    if len(seen) > DIGITS or len(expires) > DIGITS:
        return None
    return Entry(address, user[:-1], service, int(seen), int(expires))


def moment(digits: bytes) -> int | None:
    """A time, or a number of seconds. None for what is none."""
    return int(digits) if digits.isdigit() and len(digits) <= DIGITS else None
