"""Ranges of addresses: the range of a key, and its classes: public, private, or none that a client can have. Pure.

Sources: IANA's registries "IPv4 Special-Purpose Address Space" and "IPv6 Special-Purpose Address Space" (RFC 6890),
"IPv4 Multicast Address Space" (RFC 5771) and "IPv6 Address Space" (RFC 4291). What no registry names is public.
"""

from bisect import bisect_right

from tcprules.network import HEX, compress, dotted_quad, ipv4, ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PUBLIC, LOOPBACK, PRIVATE, LINK_LOCAL = "public", "loopback", "private", "link-local"
SHARED = "carrier NAT"  # customers of one provider, who are strangers to each other
DOCUMENTATION, BENCHMARK, MULTICAST = "documentation", "benchmark", "multicast"
UNSPECIFIED, RESERVED, UNASSIGNED = "unspecified", "reserved", "unassigned"
NO_CLIENTS = (DOCUMENTATION, BENCHMARK, MULTICAST, UNSPECIFIED, RESERVED)  # classes of addresses that no client has

# Networks within networks: the narrowest one that contains an address decides.
IPV4 = (
    ("0.0.0.0/0", PUBLIC),
    ("0.0.0.0/8", UNSPECIFIED),  # RFC 791 section 3.2: "this network"
    ("10.0.0.0/8", PRIVATE),  # RFC 1918
    ("100.64.0.0/10", SHARED),  # RFC 6598
    ("127.0.0.0/8", LOOPBACK),  # RFC 1122 section 3.2.1.3
    ("169.254.0.0/16", LINK_LOCAL),  # RFC 3927
    ("172.16.0.0/12", PRIVATE),  # RFC 1918
    ("192.0.0.0/24", RESERVED),  # RFC 6890: protocol assignments
    ("192.0.2.0/24", DOCUMENTATION),  # RFC 5737
    ("192.168.0.0/16", PRIVATE),  # RFC 1918
    ("198.18.0.0/15", BENCHMARK),  # RFC 2544
    ("198.51.100.0/24", DOCUMENTATION),  # RFC 5737
    ("203.0.113.0/24", DOCUMENTATION),  # RFC 5737
    ("224.0.0.0/4", MULTICAST),  # RFC 5771
    ("240.0.0.0/4", RESERVED),  # RFC 1112 section 4, and the limited broadcast address
)
IPV6 = (
    ("::/0", UNASSIGNED),  # RFC 4291 section 2.4: only 2000::/3 is in use; private overlays take parts of the rest
    ("::/128", UNSPECIFIED),
    ("::1/128", LOOPBACK),
    ("64:ff9b::/96", PUBLIC),  # RFC 6052: every IPv4 client, behind NAT64
    ("64:ff9b:1::/48", PRIVATE),  # RFC 8215
    ("2000::/3", PUBLIC),
    ("2001:2::/48", BENCHMARK),  # RFC 5180
    ("2001:db8::/32", DOCUMENTATION),  # RFC 3849
    ("3fff::/20", DOCUMENTATION),  # RFC 9637
    ("fc00::/7", PRIVATE),  # RFC 4193
    ("fe80::/10", LINK_LOCAL),  # RFC 4291 section 2.5.6
    ("fec0::/10", PRIVATE),  # RFC 3879: site-local, deprecated
    ("ff00::/8", MULTICAST),  # RFC 4291 section 2.7
)
ADDRESS_NIBBLES = 32  # of an IPv6 address

Range = tuple[int, int, int]  # the first address, the last one, and the bits of the family: 32 or 128
Piece = tuple[int, int, str]  # the first address, the last one, the class


def network(text: bytes) -> Range:
    """Return the range of `ADDRESS/BITS`, which must be valid."""
    address, _, length = text.partition(b"/")
    bits, number = (128, ipv6(address)) if b":" in address else (32, ipv4(address))
    return number or 0, (number or 0) + (1 << bits - int(length)) - 1, bits


def span(key: bytes) -> Range | None:
    """Return the range of a cdb key: an address, a dotted prefix, or the nibbles of an IPv6 network. Else None."""
    if key[-1:] == b"/":
        digits = key[:-1].replace(b":", b"")
        if not 0 < len(digits) < ADDRESS_NIBBLES or digits.strip(HEX):
            return None
        host = 128 - 4 * len(digits)
        first, bits = int(digits, 16) << host, 128
    elif b":" in key:
        number, host, bits = ipv6(key), 0, 128
        if number is None:
            return None
        first = number
    else:
        missing = 4 - key.count(b".") if key[-1:] == b"." else 0
        number = ipv4(key + b"0." * (missing - 1) + b"0" if key[-1:] == b"." and missing >= 0 else key)
        host, bits = 8 * missing, 32
        if number is None or missing < 0:
            return None
        first = number
    return first, first + (1 << host) - 1, bits


class Table:
    """The classes of all addresses of a family, in order and without gaps."""

    __slots__ = ("classes", "starts")

    def __init__(self, networks: "Iterable[tuple[str, str]]") -> None:
        ranges = [(network(text.encode()), word) for text, word in networks]
        self.starts: list[int] = []
        self.classes: list[str] = []
        for start in sorted({first for (first, _, _), _ in ranges} | {last + 1 for (_, last, _), _ in ranges}):
            containing = [(last - first, word) for (first, last, _), word in ranges if first <= start <= last]
            if containing:
                self.starts.append(start)
                self.classes.append(min(containing)[1])

    def split(self, first: int, last: int) -> "Iterator[Piece]":
        """Yield the parts of a range, each with its class."""
        place = bisect_right(self.starts, first) - 1
        while first <= last:
            end = self.starts[place + 1] - 1 if place + 1 < len(self.starts) else last
            yield first, min(end, last), self.classes[place]
            first, place = end + 1, place + 1


TABLES = {32: Table(IPV4), 128: Table(IPV6)}


def text(number: int, bits: int) -> bytes:
    """Return an address as in TCPREMOTEIP."""
    return dotted_quad(number) if bits == 32 else compress(number)


def range_text(first: int, last: int, bits: int) -> bytes:
    """Return `ADDRESS`, `ADDRESS/BITS`, or `ADDRESS-ADDRESS` for a range that is no network."""
    size = last - first + 1
    if size == 1:
        return text(first, bits)
    if size & (size - 1) or first % size:
        return text(first, bits) + b"-" + text(last, bits)
    return b"%b/%d" % (text(first, bits), bits + 1 - size.bit_length())
