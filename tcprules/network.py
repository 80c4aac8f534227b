"""IPv4 and IPv6 networks: the keys that represent them in a cdb, and the canonical text of addresses.

Pure, imports nothing.

IPv4 networks become the dotted prefixes and addresses that ucspi-tcp 0.88 looks up. IPv6 networks become written-out
nibbles and a slash (`2001:0db8:/`), which cannot equal any address, dotted prefix or range.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = {b"%d" % number: number for number in range(256)}  # octets and lengths, without leading zeros
OCTETS = list(NUMBERS)
ZERO_RUNS = [b":0" * groups + b":" for groups in range(8, 1, -1)]  # the longest first
HEX = b"0123456789abcdefABCDEF"
HIGHEST_OCTET = 255
MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96, RFC 4291 section 2.5.5.2


class Refused(ValueError):
    """The text is no address or network that a rule can have. The message says why, and what to write instead."""


def ipv4(text: bytes) -> int | None:
    """Return the number of a dotted quad: four decimal octets without leading zeros, as the kernel writes it.

    Else None.
    """
    parts = text.split(b".")
    if len(parts) != 4:
        return None
    number = 0
    for part in parts:
        octet = NUMBERS.get(part)
        if octet is None:
            return None
        number = number << 8 | octet
    return number


def ipv6(text: bytes) -> int | None:
    """Return the number of an IPv6 address without a zone, in any spelling of RFC 4291 section 2.2. Else None."""
    if b"." in text:
        front, _, quad = text.rpartition(b":")
        tail = ipv4(quad)
        if tail is None:
            return None
        text = b"%b:%x:%x" % (front, tail >> 16, tail & 0xFFFF)
    head, gap, rest = text.partition(b"::")
    left = head.split(b":") if head else []
    right = rest.split(b":") if rest else []
    missing = 8 - len(left) - len(right)
    if (missing < 1) if gap else (missing != 0):
        return None
    groups = left + [b"0"] * missing + right
    digits = b"".join([group.rjust(4, b"0") for group in groups])
    if b"" in groups or len(digits) != 32 or digits.translate(None, HEX):
        return None  # int() alone would accept +1 and 1_0
    return int(digits, 16)


def dotted_quad(number: int, octets: int = 4) -> bytes:
    """Return the lowest `octets` octets of the number, separated by dots."""
    return b".".join([OCTETS[octet] for octet in number.to_bytes(16, "big")[-octets:]])


def compress(number: int) -> bytes:
    """Return the text of RFC 5952 section 4.

    It is in lower case, without leading zeros, with `::` for the longest run of two or more zeros.
    """
    text = b":" + written_out(number)
    for _ in range(3):  # one of the four nibbles of a group stays
        text = text.replace(b":0", b":")
    if b":0:0:" in text:
        for zeros in ZERO_RUNS:
            left, run, right = text.partition(zeros)
            if run:
                return b"%b::%b" % (left[1:], right[:-1])
    return text[1:-1]


def canonical(text: bytes) -> bytes | None:
    """Return an IPv6 address as in TCPREMOTEIP and in rules: RFC 5952, but IPv4-mapped as a dotted quad. Else None.

    RFC 5952 section 5 would write some other addresses with dots. Here they have none, so that 0.88's dotted prefixes
    never apply to an IPv6 client.
    """
    number = ipv6(text)
    if number is None:
        return None
    return dotted_quad(number) if number >> 32 == MAPPED else compress(number)


def written_out(number: int) -> bytes:
    """Return all nibbles, with a colon after each group of four: `2001:0db8:...:0001:`."""
    return number.to_bytes(16, "big").hex(":", 2).encode() + b":"


def containing_networks(text: bytes) -> "Iterator[bytes]":
    """Yield the keys of the networks that contain an IPv6 address, from /124 to /4. Yield nothing for other texts."""
    number = ipv6(text)
    if number is None:
        return
    whole = written_out(number)
    for nibbles in range(31, 0, -1):
        yield whole[: nibbles + nibbles // 4] + b"/"


def ipv4_keys(number: int, bits: int) -> list[bytes]:
    """Return the keys of a network: dotted prefixes up to /24, addresses from /25 on, the default key for /0.

    At most 128.
    """
    if not bits:
        return [b""]
    octets = (bits + 7) // 8
    first = number >> 32 - 8 * octets
    end = b"." if octets < 4 else b""
    return [dotted_quad(n, octets) + end for n in range(first, first + (1 << 8 * octets - bits))]


def ipv6_keys(number: int, bits: int) -> list[bytes]:
    """Return the keys of a network: nibbles and a slash up to /124, canonical addresses from /125 on. At most 8."""
    nibbles = (bits + 3) // 4
    shift = 128 - 4 * nibbles
    first = number >> shift
    numbers = range(first, first + (1 << 4 * nibbles - bits))
    if not shift:
        return [compress(n) for n in numbers]
    return [written_out(n << shift)[: nibbles + nibbles // 4] + b"/" for n in numbers]


def expand(text: bytes) -> list[bytes]:
    """Return the keys for `ADDRESS` or `ADDRESS/BITS` of either family. Raise Refused."""
    address, slash, length = text.partition(b"/")
    width, number = (128, ipv6(address)) if b":" in address else (32, ipv4(address))
    if number is None:
        raise Refused("not an IPv6 address" if width == 128 else "a network is written like 10.0.0.0/8")
    bits = width
    if slash:
        bits = NUMBERS.get(length, width + 1)
        if bits > width:
            raise Refused(f"the slash must be followed by a number from 0 to {width}")
    if width == 128 and bits == 0:
        raise Refused(
            "no key stands for IPv6 alone: use the default rule (no address) for all clients, 2000::/3 for the Internet"
        )
    _refuse_host_bits(number, bits, width)
    if width == 32:
        return ipv4_keys(number, bits)
    if number >> 32 == MAPPED and bits > 96:
        return ipv4_keys(number & 0xFFFFFFFF, bits - 96)
    if number >> 32 == MAPPED and bits == 96:
        raise Refused("this is every IPv4 address: write 0.0.0.0/0, which is the default rule for all clients")
    return ipv6_keys(number, bits)


def _refuse_host_bits(number: int, bits: int, width: int) -> None:
    host = width - bits
    network = number >> host << host
    if network == number:
        return
    if number >> 32 == MAPPED and bits >= 96:
        text, bits = dotted_quad(network), bits - 96
    else:
        text = dotted_quad(network) if width == 32 else compress(network)
    raise Refused(f"bits are set after the first {bits}: {text.decode()}/{bits} is probably meant")


def network_keys(text: bytes) -> list[bytes]:
    """Return the keys of an address or network in one of tcprules' forms, but not of all clients. Raise ValueError."""
    found = expand(text) if b"/" in text or b":" in text else prefix_keys(text)
    if b"" in found:
        raise ValueError("this is every client")
    return found


def prefix_keys(text: bytes) -> list[bytes]:
    """Return the keys of `10.0.0.1`, of a prefix `10.0.`, or of either with a range in one place: `10.0.0.1-9`."""
    prefix = text.endswith(b".")
    octets = text.removesuffix(b".").split(b".")
    if len(octets) not in ((1, 2, 3) if prefix else (4,)) or text.count(b"-") > 1:
        raise ValueError("not an address or a network")
    found = [b""]
    for place, octet in enumerate(octets):
        dot = b"." if prefix or place < len(octets) - 1 else b""
        found = [start + b"%d" % number + dot for start in found for number in octet_range(octet)]
    return found


def octet_range(text: bytes) -> range:
    """Return the numbers of `7` or `7-9`. Raise ValueError."""
    low, dash, high = text.partition(b"-")
    first = octet_number(low)
    last = octet_number(high) if dash else first
    if last < first:
        raise ValueError("a range goes from the lower number to the higher one")
    return range(first, last + 1)


def octet_number(text: bytes) -> int:
    """Return the number of an octet without leading zeros. Raise ValueError."""
    number = int(text) if text.isdigit() and len(text) <= len(b"%d" % HIGHEST_OCTET) else HIGHEST_OCTET + 1
    if number > HIGHEST_OCTET or b"%d" % number != text:
        raise ValueError("not an address or a network")
    return number
