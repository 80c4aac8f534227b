"""Records -> the text of rules that compile to them. Pure."""

from collections.abc import Iterator

from tcprules.network import HEX, compressed
from tcprules.rules import DENY, BadLine, parse

BLANKS = b" \t"  # as the last byte of a line they are stripped
PRINTABLE = b"'/|!#$%&()*+-.:;<>?@[]^_`{}~,=\\"
QUOTES = b'"' + PRINTABLE + bytes(byte for byte in range(256) if byte not in b'"\n' + PRINTABLE + BLANKS) + BLANKS
NIBBLES = 32  # of an IPv6 address


def rule_text(key: bytes, data: bytes) -> bytes | None:
    """A line that makes this record alone. None where there is none: a cdb can hold what no rule makes."""
    what = _instructions(data)
    if what is None:
        return None
    for address in _addresses(key):
        line = address + b":" + what
        if _makes(line, key, data):
            return line
    return None


def comment(key: bytes, data: bytes) -> bytes:
    """A line that shows a record which no rule makes."""
    return b"# no rule makes this record: +%d,%d:%a->%a" % (len(key), len(data), key, data)


def quoted(value: bytes, last: bool = True) -> bytes | None:
    """The value between the first quotes that it does not contain. None if it contains all that can be used here."""
    for quote in QUOTES[: -len(BLANKS)] if last else QUOTES:
        if quote not in value:
            return b"%c%b%c" % (quote, value, quote)
    return None


def _makes(line: bytes, key: bytes, data: bytes) -> bool:
    if b"\n" in line:
        return False
    try:
        rule = parse(line)
    except BadLine:
        return False
    return rule is not None and rule.keys == [key] and rule.data == data


def _addresses(key: bytes) -> Iterator[bytes]:
    """The ways in which a key may be written, right or not: as it is, as an IPv6 network, as a range of one number."""
    yield key
    digits = key[:-1].replace(b":", b"")
    if key[-1:] == b"/" and 0 < len(digits) < NIBBLES and not digits.strip(HEX):
        yield b"%b/%d" % (compressed(int(digits.ljust(NIBBLES, b"0"), 16)), 4 * len(digits))
    # Out of 1.2.3-4.5-6 came 1.2.3.5-6, which by itself is a bad range; 1-1.2.3.5-6 makes it again.
    parts = key.split(b".")
    for place, part in enumerate(parts):
        yield b".".join([*parts[:place], part + b"-" + part, *parts[place + 1 :]])


def _instructions(data: bytes) -> bytes | None:
    """allow or deny, and the variables. None if tcprules writes no such data."""
    text, rest = (b"deny", data[len(DENY) :]) if data.startswith(DENY) else (b"allow", data)
    if not rest:
        return text
    if rest[:1] != b"+" or rest[-1:] != b"\0":
        return None
    pairs = _variables(rest[1:-1])
    for number, (name, value) in enumerate(pairs, 1):
        quotation = quoted(value, last=number == len(pairs))
        if quotation is None:
            return None
        text += b",%b=%b" % (name, quotation)
    return text if pairs else None


def _variables(text: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values in NAME=VALUE\\0+NAME=VALUE..., with the shortest values that are possible.

    Names and values may hold NULs. A piece without = belongs to the name of the next, for a name needs no quotes that
    it does not contain; the last such pieces can only belong to the value before them.
    """
    pairs = []
    held = b""
    for piece in text.split(b"\0+"):
        name, equals, value = (held + piece).partition(b"=")
        held = b"" if equals else name + b"\0+"
        if equals:
            pairs.append((name, value))
    if held and pairs:
        name, value = pairs.pop()
        pairs.append((name, value + b"\0+" + held[: -len(b"\0+")]))
    return pairs
