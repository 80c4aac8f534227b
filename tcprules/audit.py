"""Who may relay according to a rules file: the networks, how many addresses, and which of them are this host's. Pure.

A rule counts for the addresses that no narrower rule covers, as tcpserver looks them up for a client without a name.
"""

from collections.abc import Callable, Iterable, Iterator

from tcprules import hostnet
from tcprules.exposure import RELAYCLIENT, WIDEST, is_nat64
from tcprules.lookup import Verdict
from tcprules.ranges import PUBLIC, SHARED, TABLES, range_text, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcprules.hostnet import Place, Route

    Found = tuple[list[Place], list[Route]] | None

HEADINGS = (b"networks", b"addresses", b"class", b"rules", b"of this host")
COUNTED_MAX = 1 << 32  # addresses that are written as a number; more are a power of two
BEHIND_NAT = b"behind NAT or a published port every client has such an address"
UNKNOWN = b"note: the networks of this host are not known: there is no %b/route\n"
NOBODY = b"nobody may relay by address\n"

Entry = tuple[int, int, bytes, bool]  # the first and last address of a rule, its key, whether it lets them relay


class Row:
    """Neighbouring addresses that may relay and have the same class."""

    __slots__ = ("bits", "first", "last", "others", "rule", "word")

    def __init__(self, first: int, last: int, bits: int, word: str, rule: bytes) -> None:
        self.first, self.last, self.bits, self.word = first, last, bits, word
        self.rule = rule  # the key of the first rule
        self.others = 0  # how many more rules follow

    def size(self) -> int:
        return self.last - self.first + 1

    def client_bits(self) -> int:
        """Return the bits of the clients' family: those behind NAT64 have IPv4."""
        return 32 if is_nat64(self.first, self.last, self.bits) else self.bits


class Audit:
    """The records of a rules file, sorted by what they say about relaying."""

    def __init__(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        self.open_relays: list[bytes] = []  # warnings about rules for all clients
        self.names: list[bytes] = []  # keys with a name or an ident answer whose clients may relay
        entries: dict[int, list[Entry]] = {32: [], 128: []}
        for key, relays in first_records(records):
            found = span(key)
            if found:
                first, last, bits = found
                entries[bits].append((first, last, key, relays))
            elif relays and not key:
                self.open_relays.append(b"every client that has no other rule may relay: an open relay")
            elif relays and key == b"=":
                self.open_relays.append(b"every client that has a name and no other rule may relay: an open relay")
            elif relays and (key[:1] == b"=" or b"@" in key):
                self.names.append(key)
        self.rows = [row for bits, found in entries.items() for row in rows(found, bits)]

    def warnings(self, places: "list[Place]", judge: Callable[[bytes], Verdict]) -> Iterator[bytes]:
        """Yield warnings: more clients may relay than may be meant. `judge` returns the verdict about an address."""
        yield from self.open_relays
        for bits, family in ((32, b"IPv4"), (128, b"IPv6")):
            size = sum(row.size() for row in self.rows if row.client_bits() == bits and row.word in (PUBLIC, SHARED))
            if size > WIDEST[bits]:
                yield b"%b public %b addresses may relay" % (number(size), family)
        for place in places:
            if may_relay(judge(place[0])):
                yield b"%b may relay: %b" % (hostnet.text(place), BEHIND_NAT)

    def table(self, places: "list[Place]", networks: "list[Route]") -> Iterator[bytes]:
        """Yield the lines of the table: one for each row, the columns aligned."""
        lines = [HEADINGS] + [cells(row, places, networks) for row in self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS) - 1)]
        for line in lines if self.rows else ():
            padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
            padded[1] = line[1].rjust(widths[1])
            yield b"  ".join([*padded, line[-1]]).rstrip() + b"\n"
        if not self.rows:
            yield NOBODY
        for key in self.names:
            yield b"by name or ident: %b\n" % key


def report(
    records: Iterable[tuple[bytes, bytes]], judge: Callable[[bytes], Verdict], found: "Found"
) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of the audit, each with whether it is a warning. `found` is what hostnet.read() returned."""
    audit = Audit(records)
    places, networks = found or ([], [])
    for line in audit.table(places, networks):
        yield line, False
    for text in audit.warnings(places, judge):
        yield b"warning: " + text + b"\n", True
    if not found:
        yield UNKNOWN % hostnet.NET.encode(), False


def first_records(records: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bool]]:
    """Yield each key once, and whether its first record lets clients relay: a lookup finds only the first one."""
    seen: set[bytes] = set()
    for key, data in records:
        if key not in seen:
            seen.add(key)
            yield key, RELAYCLIENT in data and may_relay(Verdict(key, data))


def may_relay(verdict: Verdict) -> bool:
    """Whether the verdict lets a client relay."""
    return not verdict.deny and any(name == RELAYCLIENT for name, _ in verdict.environment)


def rows(entries: list[Entry], bits: int) -> Iterator[Row]:
    """Yield the rows for the rules of one family, in the order of their addresses."""
    pending: Row | None = None
    for first, last, key in effective(entries):
        for start, end, word in TABLES[bits].split(first, last):
            if pending and pending.last + 1 == start and pending.word == word:
                pending.last = end
                pending.others += pending.rule != key
                continue
            if pending:
                yield pending
            pending = Row(start, end, bits, word, key)
    if pending:
        yield pending


def effective(entries: list[Entry]) -> Iterator[tuple[int, int, bytes]]:
    """Yield first address, last address and key for each range whose narrowest rule lets clients relay.

    Of two rules, one contains the other or they are disjoint: all are prefixes.
    """
    enclosing: list[Entry] = []
    position = 0
    for entry in [*sorted(entries, key=lambda entry: (entry[0], -entry[1])), None]:
        while enclosing and (entry is None or enclosing[-1][1] < entry[0]):
            _, last, key, relays = enclosing.pop()
            if relays and position <= last:
                yield position, last, key
            position = last + 1
        if entry is None:
            return
        if enclosing and enclosing[-1][3] and position < entry[0]:
            yield position, entry[0] - 1, enclosing[-1][2]
        enclosing.append(entry)
        position = entry[0]


def cells(row: Row, places: "list[Place]", networks: "list[Route]") -> tuple[bytes, ...]:
    """Return a line of the table."""
    of_host = [hostnet.text(place) for place in places if contains(row, place[0])]
    for first, length, bits, _, device in networks:
        last = first + (1 << bits - length) - 1
        if bits == row.bits and first <= row.last and row.first <= last:
            of_host.append(b"%b behind %b" % (range_text(first, last, bits), device.encode()))
    rule = row.rule + (b" and %d more" % row.others if row.others else b"")
    network = range_text(row.first, row.last, row.bits)
    return network, number(row.size()), row.word.encode(), rule, b", ".join(of_host)


def contains(row: Row, ip: bytes) -> bool:
    """Whether an address is in the row."""
    found = span(ip)
    return found is not None and found[2] == row.bits and row.first <= found[0] <= row.last


def number(size: int) -> bytes:
    """Return a number of addresses as text."""
    if size < COUNTED_MAX:
        return b"%d" % size
    power = size.bit_length() - 1
    return b"2^%d" % power if size == 1 << power else b"over 2^%d" % power
