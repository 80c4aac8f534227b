"""Convert records into rules that compile to them. Pure."""

from collections.abc import Iterator

from tcprules.network import HEX, compress
from tcprules.rules import DENY, BadLine, parse

BLANKS = b" \t"  # stripped from the end of a line
PRINTABLE = b"'/|!#$%&()*+-.:;<>?@[]^_`{}~,=\\"
QUOTES = b'"' + PRINTABLE + bytes(byte for byte in range(256) if byte not in b'"\n' + PRINTABLE + BLANKS) + BLANKS
ADDRESS_NIBBLES = 32  # of an IPv6 address


def rule_text(key: bytes, data: bytes) -> bytes | None:
    """Return a line that compiles to exactly this record, or None: a cdb can contain records that no rule makes."""
    what = _instructions(data)
    if what is None:
        return None
    for address in _addresses(key):
        line = address + b":" + what
        if _makes(line, key, data):
            return line
    return None


def comment(key: bytes, data: bytes) -> bytes:
    """Return a comment line for a record that no rule makes."""
    return b"# no rule makes this record: +%d,%d:%a->%a" % (len(key), len(data), key, data)


def quote_value(value: bytes, last: bool = True) -> bytes | None:
    """Return the value between quotes that it does not contain, or None if it contains all that are possible here."""
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
    """Yield candidates for the address: the key itself, an IPv6 network, ranges of one number."""
    yield key
    digits = key[:-1].replace(b":", b"")
    if key[-1:] == b"/" and 0 < len(digits) < ADDRESS_NIBBLES and not digits.strip(HEX):
        yield b"%b/%d" % (compress(int(digits.ljust(ADDRESS_NIBBLES, b"0"), 16)), 4 * len(digits))
    # 1.2.3-4.5-6 makes the key 1.2.3.5-6, which by itself is a bad range; 1-1.2.3.5-6 makes it again.
    parts = key.split(b".")
    for place, part in enumerate(parts):
        yield b".".join([*parts[:place], part + b"-" + part, *parts[place + 1 :]])


def _instructions(data: bytes) -> bytes | None:
    """Return allow or deny and the variables, or None if tcprules does not write such data."""
    text, rest = (b"deny", data[len(DENY) :]) if data.startswith(DENY) else (b"allow", data)
    if not rest:
        return text
    if rest[:1] != b"+" or rest[-1:] != b"\0":
        return None
    pairs = _variables(rest[1:-1])
    for number, (name, value) in enumerate(pairs, 1):
        quotation = quote_value(value, last=number == len(pairs))
        if quotation is None:
            return None
        text += b",%b=%b" % (name, quotation)
    return text if pairs else None


def _variables(text: bytes) -> list[tuple[bytes, bytes]]:
    r"""Return the names and values in NAME=VALUE\0+NAME=VALUE..., with the shortest possible values.

    Names and values may contain NULs. A piece without = belongs to the next name, because a name needs no quotes. If no
    name follows, it belongs to the last value.
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
