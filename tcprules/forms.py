"""The right form of an address that is written as in another program: Postfix, sendmail, hosts.allow. Pure."""

import re

from tcprules.network import Refused, dotted_quad, expand, ipv4
from tcprules.rules import OCTET_MAX

OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
ALL_WORDS = (b"all", b"any", b"default", b"everyone", b".", b"*")  # hosts.allow, access lists
LOCALHOST = b"127.0.0.1, and on a line of its own ::1"
ONE_A_LINE = b"one network a line, such as 10.0.0.0/8"

match_wildcard = re.compile(rb"((?:%b\.){1,3})[*xX%%?](?:\.[*xX%%?])*" % OCTET).fullmatch
match_long_range = re.compile(rb"(%b(?:\.%b){3}) ?- ?(%b(?:\.%b){3})" % ((OCTET,) * 4)).fullmatch
match_prefix_range = re.compile(rb"((?:%b\.){0,2})(%b)\.-\1(%b)\." % ((OCTET,) * 3)).fullmatch
match_two_octets = re.compile(rb"((?:%b\.){1,2})(%b)-\1(%b)\." % ((OCTET,) * 3)).fullmatch
match_short = re.compile(rb"(%b(?:\.%b){0,3})\.?/(\d+)" % (OCTET, OCTET)).fullmatch
match_mask = re.compile(rb"(%b(?:\.%b){3})/(%b(?:\.%b){3})" % ((OCTET,) * 4)).fullmatch
match_groups = re.compile(rb"([0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6}):(?::?\*)?").fullmatch
match_decorated = re.compile(rb"(?:IPv6:)?(?:\[([0-9A-Fa-f.:]+)\]|([0-9A-Fa-f.:]+))(?:%[^/]+)?(/\d+)?", re.I).fullmatch
match_port = re.compile(rb"(%b(?:\.%b){3}):\d+" % (OCTET, OCTET)).fullmatch
is_list = re.compile(rb"!?[0-9A-Fa-f.:/]+(?:[, \t]+[0-9A-Fa-f.:/]+)+").fullmatch


def means_all(address: bytes) -> bool:
    """Whether the text is another program's word for all clients."""
    return address.lower() in ALL_WORDS


def right_form(address: bytes) -> bytes:
    """Return the right form of an address, or advice; empty if its form is not known here."""
    if len(address) > LONGEST:
        return b""
    if address.lower() == b"localhost":
        return LOCALHOST
    for match, form in FORMS:
        found = match(address)
        text = form(found) if found else b""
        if text:
            return text
    return ONE_A_LINE if is_list(address) else b""


def _wildcard(found: re.Match[bytes]) -> bytes:
    return found[1]


def _long_range(found: re.Match[bytes]) -> bytes:
    low, high = ipv4(found[1]) or 0, ipv4(found[2]) or 0
    if low >> 8 == high >> 8 and low <= high:
        return b"%b-%d" % (found[1], high & OCTET_MAX)
    size = high - low + 1
    if size > 0 and not size & (size - 1) and not low % size:  # a power of two, at a multiple of it
        return b"%b/%d" % (dotted_quad(low), 33 - size.bit_length())
    return ONE_A_LINE


def _prefix_range(found: re.Match[bytes]) -> bytes:
    """`172.16.-172.31.`"""
    return b"%b%b-%b." % found.groups() if int(found[2]) <= int(found[3]) else ONE_A_LINE


def _short(found: re.Match[bytes]) -> bytes:
    """`10/8`, `192.168./16`"""
    return _network(found[1] + b".0" * (3 - found[1].count(b".")), found[2])


def _mask(found: re.Match[bytes]) -> bytes:
    """`192.168.1.0/255.255.255.0`, and the inverted mask of routers."""
    mask = ipv4(found[2]) or 0
    if mask >> 31 == 0:
        mask ^= 0xFFFFFFFF
    length = mask.bit_count()
    return _network(found[1], b"%d" % length) if mask == (1 << 32) - (1 << 32 - length) else b""


def _network(address: bytes, length: bytes) -> bytes:
    """Return a network without the bits after its length; empty if the length is invalid."""
    bits = int(length[:4])
    if bits > 32:
        return b""
    number = (ipv4(address) or 0) >> 32 - bits << 32 - bits
    return b"%b/%d" % (dotted_quad(number), bits)


def _groups(found: re.Match[bytes]) -> bytes:
    """`2001:db8:`, `2001:db8:1:2::*`"""
    return b"%b::/%d" % (found[1], 16 * (found[1].count(b":") + 1))


def _decorated(found: re.Match[bytes]) -> bytes:
    """`[::1]`, `IPv6:2001:db8::1`, `fe80::1%eth0`"""
    text = (found[1] or found[2]) + (found[3] or b"")
    try:
        return text if expand(text) and text != found[0] else b""
    except Refused:
        return b""


def _port(found: re.Match[bytes]) -> bytes:
    return found[1]


LONGEST = 200  # bytes. A longer address is not examined: no form is so long
FORMS = (
    (match_wildcard, _wildcard),
    (match_long_range, _long_range),
    (match_prefix_range, _prefix_range),
    (match_two_octets, _prefix_range),
    (match_mask, _mask),
    (match_short, _short),
    (match_groups, _groups),
    (match_decorated, _decorated),
    (match_port, _port),
)
