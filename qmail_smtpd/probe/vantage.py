"""Where a client stands: inside, where relaying may be right, or outside. Pure."""

import ipaddress
from collections.abc import Sequence

# What cannot come from the Internet. 100.64.0.0/10 is not here: it is other people's, too.
LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadInside(ValueError):
    """Neither a network nor =NAME."""


class Inside:
    """The networks, and names (`=host`, `=.suffix`), that somebody has called his own."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.names = [word[1:].lower() for word in words if word.startswith("=")]
        try:
            self.networks = [ipaddress.ip_network(word) for word in words if not word.startswith("=")]
        except ValueError as error:
            raise BadInside(str(error)) from error

    def has(self, ip: str, host: str = "") -> bool:
        """Whether a client may well relay: loopback, private, or called one's own."""
        own = any(contains(network, ip) for network in self.networks)
        named = any(host == name or (name.startswith(".") and host.endswith(name)) for name in self.names)
        return own or bool(host and named) or kind(ip) != ""


def kind(ip: str) -> str:
    """`loopback`, `private`, or nothing."""
    for word, networks in (("loopback", LOOPBACK), ("private", PRIVATE)):
        if any(contains(ipaddress.ip_network(network), ip) for network in networks):
            return word
    return ""


def contains(network: Network, ip: str) -> bool:
    """Whether the address, as text with or without a zone, lies in the network; an IPv4-mapped one as the IPv4 one."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address in network


def described(ip: str) -> str:
    """The address, and what it is."""
    word = kind(ip)
    return f"{ip} ({word})" if word else ip
