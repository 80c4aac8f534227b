"""The networks of --proxy-from: from their text, and whether an address is in one of them. Pure."""

from tcprules.network import ipv4, ipv6

MAPPED = 0xFFFF  # the upper 96 bits of an IPv4-mapped address, RFC 4291 section 2.5.5.2
MAPPED_BITS = 96
WIDTH4, WIDTH6 = 32, 128
LENGTHS = {b"%d" % bits: bits for bits in range(WIDTH6 + 1)}
Network = tuple[int, int, int]  # width of the family in bits, number of the first address, bits of the prefix


def parse(text: bytes) -> Network:
    """The network in `192.0.2.0/24` or `2001:db8::/32`, or the one address in a text without a slash.

    For IPv4-mapped addresses it is the IPv4 network. Raises ValueError, with the reason as its text.
    """
    address, slash, length = text.partition(b"/")
    width, first = numbered(address)
    if first is None:
        raise ValueError("not an address")
    bits = LENGTHS.get(length, width + 1) if slash else width
    if bits > width:
        raise ValueError(f"the slash must be followed by a number from 0 to {width}")
    if width == WIDTH6 and first >> WIDTH4 == MAPPED and bits >= MAPPED_BITS:
        width, first, bits = WIDTH4, first & (1 << WIDTH4) - 1, bits - MAPPED_BITS
    if first & (1 << width - bits) - 1:
        raise ValueError(f"bits are set after the first {bits}")
    return width, first, bits


def numbered(address: bytes) -> tuple[int, int | None]:
    """The width of the family, and the number of an address; None where the text is not one."""
    return (WIDTH6, ipv6(address)) if b":" in address else (WIDTH4, ipv4(address))


class Networks:
    """Some networks, each for one family."""

    __slots__ = ("found",)

    def __init__(self, texts: list[bytes]) -> None:
        self.found = [parse(text) for text in texts]

    def contain(self, address: bytes) -> bool:
        """Whether an address, as in TCPREMOTEIP, is in one of them."""
        width, number = numbered(address)
        if number is None:
            return False
        return any(
            family == width and number >> width - bits == first >> width - bits for family, first, bits in self.found
        )


def is_whole_family(text: bytes) -> bool:
    """Whether a network is every address of its family."""
    return parse(text)[2] == 0
