"""The clients to test for a set of rules: an outside one of each family, loopback, and one for each rule. Pure.

For a network it is an address that no narrower rule covers, so that tcpserver finds exactly this rule.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qmail_smtpd.probe.text import printable
from tcprules.lookup import Rules, canonical, judge

OUTSIDE_IPS = (b"192.0.2.1", b"198.51.100.1", b"203.0.113.1")  # RFC 5737: for documentation
OUTSIDE_IPS6 = (b"2001:db8::1", b"2001:db8:ffff::1", b"3fff::1")  # RFC 3849, RFC 9637
LOOPBACK = b"127.0.0.1"
ANY_HOST = (b"relaytest.example.net", b"relaytest")  # for the rule `=`; the second if there is a rule `=.net`
OCTETS = [b"1", b"0", *(b"%d" % number for number in range(2, 256))]  # the most likely host number first
NIBBLES = [b"%x" % number for number in range(16)]
HEX = b"0123456789abcdef"
ADDRESS_NIBBLES = 32


class Client(NamedTuple):
    """A client to test, and the reason."""

    ip: bytes
    host: bytes | None = None
    info: bytes | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The client in the notation of --client."""
        info = b"" if self.info is None else self.info + b"@"
        host = b"" if self.host is None else b"=" + self.host
        return printable(info + self.ip + host)


class BadClient(ValueError):
    """The text is not [INFO@]ADDRESS[=HOST]."""


def parse(text: str) -> Client:
    """Return the client for a word of the command line. Raise BadClient."""
    info, at, rest = text.rpartition("@")
    ip, equals, host = rest.partition("=")
    address = ip.encode("ascii", "replace")
    known = canonical(address) if b":" in address else parse_quad(address)
    if known is None or "\0" in text:
        raise BadClient(f"not a client address: {text}")
    return Client(
        known,
        host.encode("utf-8", "surrogateescape") if equals else None,
        info.encode("utf-8", "surrogateescape") if at else None,
        "named by --client",
    )


def parse_quad(text: bytes) -> bytes | None:
    """Return the text if it is a dotted quad as the kernel writes it, else None."""
    parts = text.split(b".")
    return text if len(parts) == 4 and all(part in OCTETS for part in parts) else None


def default_clients(rules: Rules, of_host: Iterable[Client] = ()) -> list[Client]:
    """Return the clients to test if none is named, without repetitions. `of_host` are further ones."""
    outside_ip = first_by_default_rule(rules, OUTSIDE_IPS) or unruled_ipv4(b"", 4, rules) or OUTSIDE_IPS[0]
    outside_ip6 = first_by_default_rule(rules, OUTSIDE_IPS6) or OUTSIDE_IPS6[0]
    found = [
        Client(outside_ip, reason="an outside client"),
        Client(outside_ip6, reason="an outside client, IPv6"),
        Client(LOOPBACK, reason="this host"),
        *of_host,
    ]
    for key in dict.fromkeys(key for key, _ in rules.records()):
        found += clients_of(key, outside_ip, rules)
    distinct: dict[tuple[bytes, bytes | None, bytes | None], Client] = {}
    for client in found:
        distinct.setdefault(client[:3], client)
    return list(distinct.values())


def first_by_default_rule(rules: Rules, addresses: Iterable[bytes]) -> bytes | None:
    """Return the first address that only the default rule covers, or None."""
    for ip in addresses:
        if judge(rules, ip, None, None).key in (None, b""):
            return ip
    return None


def clients_of(key: bytes, outside_ip: bytes, rules: Rules) -> Iterator[Client]:
    """Yield a client that this very rule applies to, if there can be one."""
    info, at, place = key.rpartition(b"@")
    reason = f"rule {printable(key) or '(default)'}"
    if place[:1] == b"=":
        found = [Client(outside_ip, host) for host in hosts_for(place)]
    else:
        ip = address_of(place, rules)
        found = [] if ip is None else [Client(ip)]
    for client in found:
        client = client._replace(info=info if at else None, reason=reason)
        if judge(rules, client.ip, client.host, client.info).key == key:
            yield client
            return


def hosts_for(key: bytes) -> tuple[bytes, ...]:
    """Return names for `=host`, `=.suffix` or `=`, none if tcpserver cannot know such a name.

    tcpserver knows names in lower case, without blanks, control characters and bytes above 127.
    """
    host = key[1:]
    if not host:
        return ANY_HOST
    if host[:1] == b".":
        host = b"relaytest" + host
    return (host,) if host == host.lower() and not any(byte <= 0x20 or byte >= 0x7F for byte in host) else ()


def address_of(place: bytes, rules: Rules) -> bytes | None:
    """Return an address for the key of an address or a network, or None."""
    if place[-1:] == b"/":
        digits = place[:-1].replace(b":", b"")
        return unruled_ipv6(digits, rules) if 0 < len(digits) < ADDRESS_NIBBLES and not digits.strip(HEX) else None
    if b":" in place:
        return place if canonical(place) == place else None
    octets = place.split(b".")
    if place[-1:] == b"." and len(octets) <= 4 and all(octet in OCTETS for octet in octets[:-1]):
        return unruled_ipv4(place, 5 - len(octets), rules)
    return parse_quad(place)


def unruled_ipv4(prefix: bytes, octets: int, rules: Rules) -> bytes | None:
    """Return an IPv4 address that begins with the prefix and that no narrower rule covers, or None.

    `octets` is the number of octets after the prefix.
    """
    for octet in OCTETS:
        key = prefix + octet + (b"." if octets > 1 else b"")
        if rules.get(key) is None:
            address = key if octets == 1 else unruled_ipv4(key, octets - 1, rules)
            if address is not None:
                return address
    return None


def unruled_ipv6(digits: bytes, rules: Rules) -> bytes | None:
    """Return an IPv6 address that begins with these hexadecimal digits and that no narrower rule covers, or None."""
    if len(digits) == ADDRESS_NIBBLES:
        return ipv6_key(digits)
    last = len(digits) == ADDRESS_NIBBLES - 1
    for nibble in [*NIBBLES[1:], NIBBLES[0]] if last else NIBBLES:
        if rules.get(ipv6_key(digits + nibble)) is None:
            address = unruled_ipv6(digits + nibble, rules)
            if address is not None:
                return address
    return None


def ipv6_key(digits: bytes) -> bytes:
    """Return the key for these digits: of a network (written_out in tcprules.network), or of a single address."""
    groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    if len(digits) == ADDRESS_NIBBLES:
        return canonical(b":".join(groups)) or b""
    return b"".join(group + (b":" if len(group) == 4 else b"") for group in groups) + b"/"
