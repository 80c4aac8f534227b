"""An entry: who logged in from an address, when, and until when the login counts. Pure.

As text it is one line of six words, `1 ADDRESS SERVICE SEEN EXPIRES USER`. It contains only bytes that are safe in a
log, a mail header and the environment.
"""

VERSION = b"1"
CLOCK_SKEW = 120  # seconds that an entry may lie in the future: the clocks of hosts that share a store differ by less
DIGITS = 15  # digits of a time: enough for 30 million years
LONGEST = 4096  # bytes of a line; an escaped user has up to 1024
PRINTABLE = bytes(range(0x21, 0x7F))
SEPARATORS = b" " * 5 + b"\n"  # the other bytes of the line


class Entry:
    """One login. Times are whole seconds since 1970. `user` and `service` are empty if the store does not keep them."""

    __slots__ = ("address", "expires", "seen", "service", "user")

    def __init__(self, address: bytes, user: bytes, service: bytes, seen: int, expires: int) -> None:
        self.address = address
        self.user = user
        self.service = service
        self.seen = seen
        self.expires = expires

    def is_live(self, now: int, seconds: int | None) -> bool:
        """Whether the client may relay at `now`. `seconds` is the window of the program that asks, or None.

        An entry whose times come from a wrong clock must not be valid later, or for longer.
        """
        return self.seen <= now + CLOCK_SKEW and now < self.expires and (seconds is None or now < self.seen + seconds)

    def end(self, seconds: int | None) -> int:
        """Return the time when the entry ceases to be valid, under this window."""
        return self.expires if seconds is None else min(self.expires, self.seen + seconds)


def compose(entry: Entry) -> bytes:
    """Return the line for an entry."""
    return b"%b %b %b %d %d %b\n" % (VERSION, entry.address, entry.service, entry.seen, entry.expires, entry.user)


def parse(line: bytes, address: bytes) -> Entry | None:
    """Return the entry in the line if it is complete and for this address.

    Return None for anything else: a copy under another name, a torn file, a foreign file.
    """
    if (
        len(line) > LONGEST
        or line.translate(None, PRINTABLE) != SEPARATORS
        or not line.startswith(b"%b %b " % (VERSION, address))
    ):
        return None
    _, _, service, seen, expires, user = line.split(b" ")
    if not (service and seen.isdigit() and expires.isdigit() and len(user) > 1 and user.endswith(b"\n")):
        return None
    if len(seen) > DIGITS or len(expires) > DIGITS:
        return None
    return Entry(address, user[:-1], service, int(seen), int(expires))


def parse_seconds(digits: bytes) -> int | None:
    """Return a time or a number of seconds, or None if the text is not one."""
    return int(digits) if digits.isdigit() and len(digits) <= DIGITS else None
