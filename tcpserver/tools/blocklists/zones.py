"""A list as the command line names it: its zone, and the answers that count. Pure.

    zen.example.org                     every answer in 127.0.0.0/8
    zen.example.org=127.0.0.[2..11;20]  these alone (Postfix's syntax)

127.255.255.0/24 never counts: it means that the list does not serve this resolver (Spamhaus and others). Nor does
an answer outside 127.0.0.0/8, as an abandoned zone may give it (RFC 5782, 2.1).
"""

LONGEST_ZONE = 189  # a name has at most 253 bytes (RFC 1035), an IPv6 client's nibbles take 64
LONGEST_LABEL = 63
OCTETS = 4
HIGHEST = 255
ERRORS = bytes([127, 255, 255])
LOOPBACK = 127

Pattern = tuple[frozenset[int], ...]


class Zone:
    """A list of the command line. `allows`: -a, otherwise -r; `bounces` and `fails_closed`: -b and -c precede it."""

    __slots__ = ("allows", "bounces", "fails_closed", "name", "pattern")

    def __init__(self, text: str, allows: bool, bounces: bool, fails_closed: bool) -> None:
        """Raises ValueError."""
        name, equals, pattern = text.partition("=")
        self.name = zone_name(name)
        self.pattern = parse_pattern(pattern) if equals else None
        self.allows, self.bounces, self.fails_closed = allows, bounces, fails_closed

    def counts(self, address: bytes) -> bool:
        """Whether this answer, four bytes, lists a client."""
        if address[0] != LOOPBACK or is_error(address):
            return False
        return not self.pattern or all(byte in octet for byte, octet in zip(address, self.pattern, strict=True))


def is_error(address: bytes) -> bool:
    """Whether this answer means that the list does not serve this resolver."""
    return address.startswith(ERRORS)


def zone_name(text: str) -> str:
    """The zone's name without a final dot. Raises ValueError."""
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if not name.isascii() or len(name) > LONGEST_ZONE or not all(0 < len(label) <= LONGEST_LABEL for label in labels):
        raise ValueError("no name of a zone")
    if not all(character.isalnum() or character in "-_" for character in name.replace(".", "")):
        raise ValueError("no name of a zone")
    return name


def parse_pattern(text: str) -> Pattern:
    """Four octets, each a number or a list in brackets of numbers and ranges. Raises ValueError."""
    octets: list[frozenset[int]] = []
    rest = text
    while rest or not octets:
        octet, rest = first_octet(rest)
        octets.append(octet)
    if len(octets) != OCTETS or text.endswith("."):
        raise ValueError("no pattern of four octets")
    return tuple(octets)


def first_octet(text: str) -> tuple[frozenset[int], str]:
    """The first octet of a pattern, and what follows its dot. Raises ValueError."""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(".")):
            raise ValueError("no pattern of four octets")
        items = [part.partition("..") for part in inner.split(";")]
        found = frozenset(value for low, dots, high in items for value in span(low, high if dots else low))
        return found, rest[1:]
    number, _, rest = text.partition(".")
    return frozenset(span(number, number)), rest


def span(low: str, high: str) -> range:
    """The numbers of a range, which has some. Raises ValueError."""
    if not all(text.isascii() and text.isdigit() and len(text) <= len(str(HIGHEST)) for text in (low, high)):
        raise ValueError("no number from 0 to 255")
    if not int(low) <= int(high) <= HIGHEST:
        raise ValueError("no range within 0 to 255")
    return range(int(low), int(high) + 1)


def reversed_ipv4(address: bytes) -> str:
    """The labels of a client, four bytes, before a list's name: 192.0.2.1 is 1.2.0.192."""
    return ".".join(str(byte) for byte in reversed(address))


def reversed_ipv6(address: bytes) -> str:
    """The labels of a client, sixteen bytes: its nibbles (RFC 5782, 2.4)."""
    return ".".join(f"{byte & 15:x}.{byte >> 4:x}" for byte in reversed(address))
