"""The faults of a rule's address: why the rule matches no client, or other ones than it seems to. Pure."""

import re

from tcprules.forms import OCTET, means_all, right_form
from tcprules.rules import OCTET_MAX, PLAIN, looks_like_network, split_range

BOM = b"\xef\xbb\xbf"
NO_CLIENTS = (b"0.0.0.0", b"::")  # addresses that are meant as every client

is_address = re.compile(rb"(?:%b\.){3}%b" % (OCTET, OCTET)).fullmatch
is_address_or_prefix = re.compile(rb"%b\.(?:%b\.(?:%b\.(?:%b)?)?)?" % (OCTET, OCTET, OCTET, OCTET)).fullmatch
is_host = re.compile(rb"=[^.].*", re.DOTALL).fullmatch

# Faults, and why they make a rule dead. The first match counts; its group 1 gives the column.
ADDRESS_FAULTS = (
    (re.compile(rb"()\*(?:\.\*)*\Z"), "a rule for all clients has no address"),
    (re.compile(rb"()\*\.[A-Za-z0-9_-]"), "all names below a domain are written =.example.com"),
    (re.compile(rb".*?([ \t])", re.DOTALL), "an address contains no blank"),
    (re.compile(rb"%b(?:\.%b){0,2}()\Z" % (OCTET, OCTET)), "a prefix ends with a dot"),
    (re.compile(rb"()(?=[\w.-]*\Z)[^A-Za-z]*[A-Za-z]"), "a host name must begin with ="),
    (re.compile(rb"()"), "no client has such an address"),
)
HOST_FAULTS = (
    (re.compile(rb"=()\*\.[a-z0-9_-]"), "all names below a domain are written =.example.com"),
    (re.compile(rb"=.*?([A-Z])", re.DOTALL), "client names are in lower case"),
    (re.compile(rb"=.*?([^a-z0-9._\\-])", re.DOTALL), "no client's name has this character"),
    (re.compile(rb"=.*?(\.)\Z"), "client names have no dot at the end"),
    (re.compile(rb"=.*?\.(\.)"), "client names have no two dots in sequence"),
    (re.compile(rb"=()\d[\d.]*\Z"), "no client's name is a number"),
    (re.compile(rb".+?(=)", re.DOTALL), "only a host name begins with ="),
)


def address_faults(number: int, address: bytes) -> list[tuple[int, str]]:
    """Return the faults as columns (from 1) and texts."""
    if number == 1 and address.startswith(BOM):
        return [(1, "a byte order mark: the rule matches no client")]
    if not address or looks_like_network(address):
        return []
    if means_all(address):
        return [(1, _dead_rule("a rule for all clients has no address"))]
    span = _range(address)
    form = right_form(address)
    if form:
        is_alive = span and is_address_or_prefix(b"%b%d%b" % (span[0], span[1], span[3]))  # `172.16-172.31.`
        text = f"write {form.decode()}"
        return [(1, f"a range counts within one octet: {text}" if is_alive else _dead_rule(text))]
    if span:
        return _range_faults(*span)
    info, at, place = address.rpartition(b"@")
    if not at:
        return _place_faults(address)
    faults = [(len(info) + 1, "info@ counts only if tcpserver uses ident (-r)")]
    offset = len(info) + 1
    if not (is_host(place) or is_address(place) or b":" in place):
        return faults + [(offset + 1, _dead_rule("info@ must be followed by a whole address or =host"))]
    return faults + [(offset + column, text) for column, text in _place_faults(place)]


def _range(address: bytes) -> tuple[bytes, int, int, bytes] | None:
    """Return the parts of a range, or None if the address is not a range."""
    try:
        return split_range(address)
    except ValueError:
        return None


def _range_faults(before: bytes, low: int, high: int, after: bytes) -> list[tuple[int, str]]:
    if low > min(high, OCTET_MAX):
        return [(1, "an empty range: the rule matches no client")]
    faults = [(1, f"the range ends at {OCTET_MAX}")] if high > OCTET_MAX else []
    return faults + [(1, text) for _, text in _place_faults(b"%b%d%b" % (before, low, after))]


def _place_faults(place: bytes) -> list[tuple[int, str]]:
    """Return why an address, prefix or =host cannot match. An IPv6 address has already been parsed."""
    if place in NO_CLIENTS:
        return [(1, _dead_rule("a rule for all clients has no address"))]
    if b":" in place or is_address_or_prefix(place):
        return []
    if not place.strip(PLAIN):
        faults = _octet_faults(place)
        if faults:
            return faults
    for pattern, text in HOST_FAULTS if b"=" in place else ADDRESS_FAULTS:
        match = pattern.match(place)
        if match:
            return [(match.start(1) + 1, _dead_rule(text))]
    return []


def _octet_faults(place: bytes) -> list[tuple[int, str]]:
    column = 1
    for octet in place.split(b"."):
        if octet[:1] == b"0" and octet != b"0":
            return [(column, _dead_rule("no address has leading zeros"))]
        if len(octet) > 3 or int(octet or b"0") > OCTET_MAX:
            return [(column, _dead_rule(f"no octet is over {OCTET_MAX}"))]
        column += len(octet) + 1
    return []


def _dead_rule(why: str) -> str:
    return f"the rule matches no client: {why}"
