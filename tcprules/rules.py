"""Parse one line of rules into records: the grammar of tcprules 0.88, plus networks and IPv6. Pure.

Takes and returns bytes. Whatever 0.88 stores is stored, however useless (lint.py warns); whatever it refuses is
refused.
"""

from collections.abc import Iterator
from functools import lru_cache

from tcprules.network import HEX, Refused, expand

BLANKS = b" \t\n"  # tcprules.c strips only these from the end of a line: a CR stays
WORD = 1 << 64  # scan_ulong wraps around
OCTET_MAX = 255  # tcprules.c: the upper end of a range
DIGITS_AT_ONCE = 18  # any such number fits into a word; int() refuses only far longer ones
VERDICTS = (b"deny", b"allow")
ENDS = tuple(b":" + verdict for verdict in VERDICTS)
DENY = b"D\0"
PLAIN = b"0123456789."
NETWORK_BYTES = HEX + b"."
INSTRUCTION_CACHE_SIZE = 4096  # rules files repeat a few instructions many times


class BadLine(Exception):
    """A line that is no valid rule: the column (bytes, from 1) and the reason.

    When a file is read, also the line and its number.
    """

    def __init__(self, column: int, why: str) -> None:
        super().__init__(why)
        self.column = column
        self.why = why
        self.number = 0
        self.line = b""

    def locate(self, number: int, line: bytes) -> None:
        """Set the position. The line is kept as 0.88 prints it, a C string."""
        self.number = number
        self.line = line.rstrip(BLANKS).partition(b"\0")[0]


class Rule:
    """The rule of a line: address and instructions as written, and its records: `data` under each of `keys`."""

    __slots__ = ("address", "data", "instructions", "keys")

    def __init__(self, address: bytes, instructions: bytes, data: bytes, keys: list[bytes]) -> None:
        self.address = address
        self.instructions = instructions
        self.data = data
        self.keys = keys


def parse(line: bytes) -> Rule | None:
    """Return the rule of a line, or None for a comment or a line without a colon. Raise BadLine."""
    if line[:1] == b"#":
        return None
    text = line.rstrip(BLANKS)
    address, colon, instructions = text.partition(b":")
    if not colon:
        return None
    if not instructions.startswith(VERDICTS):
        address, instructions = _split_ipv6(text, len(address) + 2)
    try:
        data = encode(instructions)
    except BadLine as bad:
        raise BadLine(len(address) + 1 + bad.column, bad.why) from None
    # Nearly every address of a long file is plain: save the call.
    return Rule(address, instructions, data, expand_address(address) if address.strip(PLAIN) else [address])


def _split_ipv6(text: bytes, column: int) -> tuple[bytes, bytes]:
    """Split at the first colon before allow or deny. 0.88, which splits at the first colon, refuses such lines."""
    ends = [end for end in map(text.find, ENDS) if end >= 0]
    if not ends:
        raise BadLine(column, "neither allow nor deny follows the address")
    return text[: min(ends)], text[min(ends) + 1 :]


@lru_cache(INSTRUCTION_CACHE_SIZE)
def encode(instructions: bytes) -> bytes:
    """Return the data of a record. Raise BadLine, whose column is within the instructions."""
    data = DENY if instructions.startswith(b"deny") else b""
    return data + b"".join(b"+%b=%b\0" % (name, value) for _, name, value in variables(instructions))


def variables(instructions: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield column (from 1), name and value of each variable after allow or deny. Raise BadLine."""
    at = len(b"deny") if instructions.startswith(b"deny") else len(b"allow")
    while at < len(instructions):
        if instructions[at : at + 1] != b",":
            why = (
                "a line must end with LF, not CRLF"
                if instructions[at:] == b"\r"
                else "a comma or the end of the line must follow"
            )
            raise BadLine(at + 1, why)
        start = at + 1
        equals = instructions.find(b"=", at)
        if equals < 0:
            raise BadLine(start + 1, "a variable without =")
        quote = instructions[equals + 1 : equals + 2]
        end = instructions.find(quote, equals + 2) if quote else -1
        if end < 0:
            raise BadLine(equals + 2, "a value without its second quote")
        yield start + 1, instructions[start:equals], instructions[equals + 2 : end]
        at = end + 1


def expand_address(address: bytes) -> list[bytes]:
    """Return the keys of an address, in order. Raise BadLine."""
    if b":" in address or looks_like_network(address):
        return _network_keys(address)
    try:
        span = split_range(address)
    except ValueError:
        raise BadLine(1, "a range is two numbers with a dash between") from None
    if span is None:
        return [address]
    before, low, high, after = span
    return [b"%b%d%b" % (before, number, after) for number in range(low, min(high, OCTET_MAX) + 1)]


def split_range(address: bytes) -> tuple[bytes, int, int, bytes] | None:
    """Return the parts of a range: text before it, first and last number, text after it.

    Return None if there is no range.

    As in tcprules.c, only the first dash counts, and none if there is an = or @. Raise ValueError for invalid numbers.
    """
    dash = address.find(b"-")
    if dash < 0 or b"=" in address or b"@" in address:
        return None
    left = address.rfind(b".", 0, dash) + 1
    right = address.find(b".", dash)
    if right < 0:
        right = len(address)
    return address[:left], _number(address[left:dash]), _number(address[dash + 1 : right]), address[right:]


def _number(text: bytes) -> int:
    """Parse as scan_ulong does: decimal digits up to a NUL, modulo 2**64; no digits are 0. Raise ValueError."""
    digits = text.partition(b"\0")[0]
    if digits and not digits.isdigit():
        raise ValueError(text)
    number = 0
    for start in range(0, len(digits), DIGITS_AT_ONCE):
        part = digits[start : start + DIGITS_AT_ONCE]
        number = (number * 10 ** len(part) + int(part)) % WORD
    return number


def looks_like_network(address: bytes) -> bool:
    """Whether the address is meant as a network.

    Then it is expanded or refused; 0.88 stores it as a key that never matches.

    Hexadecimal digits count: as a literal key, `2/` would be the IPv6 network 2000::/4.
    """
    if b"/" not in address or b"=" in address:
        return False
    network, slash, length = address.rpartition(b"@")[2].partition(b"/")
    return bool(network and slash) and not network.strip(NETWORK_BYTES) and not length.strip(PLAIN)


def _network_keys(address: bytes) -> list[bytes]:
    """Return the keys of a network or an IPv6 address, or of a single address after `info@`. Raise BadLine."""
    info, at, place = address.rpartition(b"@")
    column = len(info) + len(at) + 1
    if b":" in info:
        raise BadLine(info.index(b":") + 2, "neither allow nor deny follows the address")
    if at and b"/" in place:
        raise BadLine(column, "info@ must be followed by one address, not a network")
    try:
        return [info + at + key for key in expand(place)]
    except Refused as refused:
        raise BadLine(column, str(refused)) from None
