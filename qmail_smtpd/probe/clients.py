"""Which clients to ask about for a rules file: a stranger of each family, loopback, one for each rule. Pure.

For a network it is an address that no narrower rule has: the client finds exactly that rule, as tcpserver looks it up.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qmail_smtpd.probe.text import shown
from tcprules.lookup import Rules, canonical, judge

STRANGERS = (b"192.0.2.1", b"198.51.100.1", b"203.0.113.1")  # RFC 5737: for documentation, nobody's
STRANGERS6 = (b"2001:db8::1", b"2001:db8:ffff::1", b"3fff::1")  # RFC 3849, RFC 9637
LOOPBACK = b"127.0.0.1"
OCTETS = [b"1", b"0", *(b"%d" % number for number in range(2, 256))]  # the likeliest host first
NIBBLES = [b"%x" % number for number in range(16)]
HEX = b"0123456789abcdef"
NIBBLES_IN_ALL = 32


class Client(NamedTuple):
    """Whom to ask about, and why."""

    ip: bytes
    host: bytes | None = None
    info: bytes | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """As --client takes it."""
        info = b"" if self.info is None else self.info + b"@"
        host = b"" if self.host is None else b"=" + self.host
        return shown(info + self.ip + host)


class BadClient(ValueError):
    """Not [INFO@]ADDRESS[=HOST]."""


def parse(text: str) -> Client:
    """A client of the command line."""
    info, at, rest = text.rpartition("@")
    ip, equals, host = rest.partition("=")
    address = ip.encode("ascii", "replace")
    known = canonical(address) if b":" in address else dotted(address)
    if known is None or "\0" in text:
        raise BadClient(f"not a client's address: {text}")
    return Client(
        known,
        host.encode("utf-8", "surrogateescape") if equals else None,
        info.encode("utf-8", "surrogateescape") if at else None,
        "asked for",
    )


def dotted(text: bytes) -> bytes | None:
    """A dotted quad as the kernel writes it, else None."""
    parts = text.split(b".")
    return text if len(parts) == 4 and all(part in OCTETS for part in parts) else None


def default_clients(rules: Rules) -> list[Client]:
    """Who is asked about unless somebody says else, each once."""
    stranger = outsider(rules, STRANGERS) or below(b"", 4, rules) or STRANGERS[0]
    stranger6 = outsider(rules, STRANGERS6) or STRANGERS6[0]
    found = [
        Client(stranger, reason="a stranger"),
        Client(stranger6, reason="a stranger, IPv6"),
        Client(LOOPBACK, reason="this host"),
    ]
    for key in dict.fromkeys(key for key, _ in rules.records()):
        found += clients_of(key, stranger, rules)
    distinct: dict[tuple[bytes, bytes | None, bytes | None], Client] = {}
    for client in found:
        distinct.setdefault(client[:3], client)
    return list(distinct.values())


def outsider(rules: Rules, addresses: Iterable[bytes]) -> bytes | None:
    """The first address that only the default rule is for, or none."""
    for ip in addresses:
        if judge(rules, ip, None, None).key in (None, b""):
            return ip
    return None


def clients_of(key: bytes, stranger: bytes, rules: Rules) -> Iterator[Client]:
    """A client for whom this very rule counts; none where there can be none."""
    info, at, place = key.rpartition(b"@")
    reason = f"rule {shown(key) or '(default)'}"
    ip, host = (stranger, named(place)) if place[:1] == b"=" else (address_of(place, rules), None)
    if ip is None or (place[:1] == b"=" and host is None):
        return
    client = Client(ip, host, info if at else None, reason)
    if judge(rules, client.ip, client.host, client.info).key == key:
        yield client


def named(place: bytes) -> bytes | None:
    """A name for `=host`, `=.suffix` or `=`, as tcpserver has names: in lower case, of no other characters."""
    host = place[1:]
    if host[:1] == b".":
        host = b"relaytest" + host
    host = host or b"relaytest.example.net"
    return host if host == host.lower() and not any(byte <= 0x20 or byte >= 0x7F for byte in host) else None


def address_of(place: bytes, rules: Rules) -> bytes | None:
    """An address for the key of one, or of a network of either family."""
    if place[-1:] == b"/":
        digits = place[:-1].replace(b":", b"")
        return below6(digits, rules) if 0 < len(digits) < NIBBLES_IN_ALL and not digits.strip(HEX) else None
    if b":" in place:
        return place if canonical(place) == place else None
    octets = place.split(b".")
    if place[-1:] == b"." and len(octets) <= 4 and all(octet in OCTETS for octet in octets[:-1]):
        return below(place, 5 - len(octets), rules)
    return dotted(place)


def below(prefix: bytes, octets: int, rules: Rules) -> bytes | None:
    """An IPv4 address with so many octets behind the prefix, and no rule for anything narrower. None: all have one."""
    for octet in OCTETS:
        key = prefix + octet + (b"." if octets > 1 else b"")
        if rules.get(key) is None:
            found = key if octets == 1 else below(key, octets - 1, rules)
            if found is not None:
                return found
    return None


def below6(digits: bytes, rules: Rules) -> bytes | None:
    """An IPv6 address that begins with these hexadecimal digits, and has no rule for anything narrower."""
    if len(digits) == NIBBLES_IN_ALL:
        return key6(digits)
    last = len(digits) == NIBBLES_IN_ALL - 1
    for nibble in [*NIBBLES[1:], NIBBLES[0]] if last else NIBBLES:
        if rules.get(key6(digits + nibble)) is None:
            found = below6(digits + nibble, rules)
            if found is not None:
                return found
    return None


def key6(digits: bytes) -> bytes:
    """The key for these digits: of a network (tcprules.network, written_out), or of the one address that they are."""
    groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    if len(digits) == NIBBLES_IN_ALL:
        return canonical(b":".join(groups)) or b""
    return b"".join(group + (b":" if len(group) == 4 else b"") for group in groups) + b"/"
