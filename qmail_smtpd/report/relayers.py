"""Who relays, how much, and when: the history by which a report knows what is usual. Pure.

Bounded: the number of relayers, of addresses and names of each, and of hours of all of them together.
"""

MOST_RELAYERS = 5_000
MOST_VALUES = 64  # of the addresses, HELO names and senders' domains of one relayer
MOST_HOURS = 200_000  # of all relayers together
HOURS_KEPT = 48  # of each relayer, once there are MOST_HOURS


class Relayer:
    """A login, or an address that may relay (`how`: login, pop, address). `hours`: recipients by hour since 1970."""

    __slots__ = (
        "addresses",
        "bytes",
        "domains",
        "helos",
        "hours",
        "how",
        "last",
        "messages",
        "recipients",
        "rule",
        "via",
        "who",
    )

    def __init__(self, how: bytes, who: bytes) -> None:
        self.how, self.who = how, who
        self.messages = self.recipients = self.bytes = 0
        self.hours: dict[int, int] = {}
        self.addresses: set[bytes] = set()
        self.helos: set[bytes] = set()
        self.domains: set[bytes] = set()
        self.rule = self.via = b""
        self.last: float | None = None


class Relayers:
    """All relayers by (how, who)."""

    __slots__ = ("found", "hours", "pruned")

    def __init__(self) -> None:
        self.found: dict[tuple[bytes, bytes], Relayer] = {}
        self.hours = 0
        self.pruned = 0

    def queued(self, facts: "Facts", when: float | None, rule: bytes) -> int:
        """Count a message of a client that may relay. Return the number of its recipients."""
        address = facts.get(b"ip", b"")
        how, who = identity(facts, address)
        found = self.found.get((how, who)) or self.add(how, who)
        recipients = number(facts.get(b"recipients"))
        found.messages += 1
        found.recipients += recipients
        found.bytes += number(facts.get(b"bytes"))
        found.rule = rule or found.rule
        found.via = facts.get(b"via", found.via)
        found.last = when
        keep(found.addresses, address)
        keep(found.helos, facts.get(b"helo", b""))
        keep(found.domains, facts.get(b"sender", b"").rpartition(b"@")[2].lower())
        if when is not None:
            self.note(found, int(when) // 3600, recipients)
        return recipients

    def add(self, how: bytes, who: bytes) -> Relayer:
        """Return a new relayer. If there are too many, drop the half that has relayed least."""
        if len(self.found) >= MOST_RELAYERS:
            kept = sorted(self.found.items(), key=lambda item: -item[1].recipients)[: MOST_RELAYERS // 2]
            self.pruned += len(self.found) - len(kept)
            self.found = dict(kept)
            self.hours = sum(len(one.hours) for one in self.found.values())
        found = self.found[how, who] = Relayer(how, who)
        return found

    def note(self, relayer: Relayer, hour: int, recipients: int) -> None:
        """Note the recipients of an hour."""
        if hour not in relayer.hours:
            if self.hours >= MOST_HOURS:
                self.forget_old_hours()
            self.hours += 1
        relayer.hours[hour] = relayer.hours.get(hour, 0) + recipients

    def forget_old_hours(self) -> None:
        """Keep the latest hours of each relayer."""
        for relayer in self.found.values():
            relayer.hours = dict(sorted(relayer.hours.items())[-HOURS_KEPT:])
        self.hours = sum(len(relayer.hours) for relayer in self.found.values())


def identity(facts: "Facts", address: bytes) -> tuple[bytes, bytes]:
    """Return how the client may relay, and who it is."""
    if facts.get(b"relay") == b"login":
        return b"login", facts.get(b"user", b"")
    if b"relay_user" in facts:
        return b"pop", facts[b"relay_user"] or address
    return b"address", address


def keep(values: set[bytes], value: bytes) -> None:
    """Add a value, unless there are enough."""
    if value and len(values) < MOST_VALUES:
        values.add(value)


def number(text: bytes | None) -> int:
    """Return a number of a log line, 0 if it is none."""
    return int(text) if text and len(text) < 19 and text.isdigit() else 0


TYPE_CHECKING = False
if TYPE_CHECKING:
    Facts = dict[bytes, bytes]
