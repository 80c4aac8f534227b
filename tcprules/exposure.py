"""Find the rules that let far more clients relay than an organisation has, or addresses that no client has. Pure.

A rule counts for the clients that no narrower rule covers. So `172.:allow,RELAYCLIENT=""` is judged when all lines
are known, without the /16 networks that have a rule of their own.
"""

import re
from collections.abc import Iterator, Mapping

from tcprules.ranges import IPV4, IPV6, NO_CLIENTS, PUBLIC, SHARED, TABLES, Piece, Range, Table, range_text, span
from tcprules.rules import Rule, variables

RELAYCLIENT = b"RELAYCLIENT"
WIDEST = {32: 1 << 16, 128: 1 << 96}  # addresses: an IPv4 /16, an IPv6 /32. An organisation seldom has more
UNIT = {32: 16, 128: 32}  # the networks that a warning counts
SHOWN = 4  # ranges that a warning names
NAT64 = span(b"0064:ff9b:0000:0000:0000:0000:/") or (0, 0, 128)  # RFC 6052: the IPv4 Internet, translated

# Networks smaller than a unit are left out: in 192. only 192.168. is not public; 192.0.2. is too small to be counted.
COARSE = {
    32: Table(entry for entry in IPV4 if int(entry[0].partition("/")[2]) <= 16),
    128: Table(entry for entry in IPV6 if int(entry[0].partition("/")[2]) <= 20),
}
# The keys of nearly all IPv4 rules: a /24 or an address that can be a client's, and needs no closer look.
is_ordinary = re.compile(
    rb"(?!0\.|2[2-5]\d\.|192\.0\.[02]\.|198\.(?:1[89]|51\.100)\.|203\.0\.113\.)(?:\d+\.){3}(?:[1-9]\d*)?"
).fullmatch
SUSPECT_STARTS6 = (b"ff", b"2001:db8:", b"2001:2:", b"3fff:")  # of IPv6 addresses
CLASS_SOURCES = {
    "documentation": b"documentation addresses (RFC 5737, RFC 3849)",
    "benchmark": b"benchmark addresses (RFC 2544)",
    "multicast": b"multicast addresses (RFC 5771, RFC 4291)",
    "unspecified": b"addresses of no network (RFC 791)",
    "reserved": b"reserved addresses (RFC 6890)",
}

Keys = Mapping[bytes, int]  # key -> the number of the line that sets it


def is_suspect(rule: Rule) -> bool:
    """Whether a rule with RELAYCLIENT needs a closer look. This costs little, and most rules need none."""
    key = rule.keys[0] if rule.keys else b""
    if is_ordinary(key) or key[:1] in (b"", b"="):
        return False
    return b":" not in key or key[-1:] == b"/" or key.startswith(SUSPECT_STARTS6)


def is_network_address(rule: Rule) -> bool:
    """Whether the rule is for one IPv4 address that ends with .0, and probably meant for its network."""
    return rule.address[-2:] == b".0" and rule.keys == [rule.address]


def fault(number: int, rule: Rule, keys: Keys) -> tuple[int, bytes] | None:
    """Return column and text of the warning about a rule with RELAYCLIENT, or None."""
    own = [key for key in rule.keys if keys.get(key) == number]
    ranges = [found for found in map(span, own) if found]
    column = relayclient_column(rule)
    if not ranges or not column:
        return None
    words = {word for first, last, bits in ranges for _, _, word in TABLES[bits].split(first, last)}
    if words <= set(NO_CLIENTS):
        return column, b"RELAYCLIENT for " + CLASS_SOURCES[min(words)] + b": no client has one"
    if is_network_address(rule) and ranges[0][0] == ranges[0][1]:
        prefix = rule.address.removesuffix(b".0").removesuffix(b".0").removesuffix(b".0")
        return 1, b"only this address may relay: its network is written %b." % prefix
    text = _width_fault(own, ranges, keys)
    return (column, text) if text else None


def relayclient_column(rule: Rule) -> int:
    """Return the column of RELAYCLIENT in the line, from 1; 0 if the rule does not set it."""
    if not rule.instructions.startswith(b"allow"):
        return 0
    for column, name, _ in variables(rule.instructions):
        if name == RELAYCLIENT:
            return len(rule.address) + 1 + column
    return 0


def is_nat64(first: int, last: int, bits: int) -> bool:
    """Whether these are addresses that stand for IPv4 clients behind NAT64."""
    return bits == 128 and NAT64[0] <= first and last <= NAT64[1]


def _width_fault(own: list[bytes], ranges: list[Range], keys: Keys) -> bytes:
    """Return the warning about a rule that is wider than WIDEST and has public addresses; else nothing."""
    bits = ranges[0][2]
    pieces = list(_join(_uncovered(own, ranges, keys)))
    size = sum(last - first + 1 for first, last in pieces)
    strangers = [piece for piece in _classified(pieces, bits) if piece[2] in (PUBLIC, SHARED)]
    if size <= WIDEST[bits] or not strangers:
        return b"RELAYCLIENT for the public IPv4 addresses behind NAT64 (RFC 6052)" if _has_nat64(pieces, bits) else b""
    unit = 1 << bits - UNIT[bits]
    shared_only = all(word == SHARED for _, _, word in strangers)
    what = b"carrier NAT addresses (RFC 6598), which strangers share" if shared_only else b"public addresses"
    joined = list(_join((first, last) for first, last, _ in strangers))
    count, total = (sum((last - first + 1) // unit for first, last in found) for found in (joined, pieces))
    names = [range_text(first, last, bits) for first, last in joined]
    more = b" and %d more" % (len(names) - SHOWN) if len(names) > SHOWN else b""
    where = b" ".join(names[:SHOWN]) + more
    return b"RELAYCLIENT for %b: %b (%d of %d /%d networks)" % (what, where, count, total, UNIT[bits])


def _uncovered(own: list[bytes], ranges: list[Range], keys: Keys) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a rule without the IPv4 /16 networks that have a rule of their own."""
    for key, (first, last, _) in zip(own, ranges, strict=True):
        narrower = [b"%b%d." % (key, octet) for octet in range(256)] if key.count(b".") == 1 else []
        if any(map(keys.__contains__, narrower)):
            for octet, covering in enumerate(narrower):
                if covering not in keys:
                    yield first + (octet << 16), first + (octet + 1 << 16) - 1
        else:
            yield first, last


def _has_nat64(pieces: list[tuple[int, int]], bits: int) -> bool:
    """Whether the addresses include more IPv4 clients behind NAT64 than an organisation has."""
    common = [min(last, NAT64[1]) - max(first, NAT64[0]) + 1 for first, last in pieces if bits == 128]
    return sum(count for count in common if count > 0) > WIDEST[32]


def _classified(pieces: list[tuple[int, int]], bits: int) -> Iterator[Piece]:
    for first, last in pieces:
        yield from COARSE[bits].split(first, last)


def _join(pieces: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join neighbouring ranges."""
    pending: tuple[int, int] | None = None
    for first, last in pieces:
        if pending and pending[1] + 1 == first:
            pending = pending[0], last
            continue
        if pending:
            yield pending
        pending = first, last
    if pending:
        yield pending
