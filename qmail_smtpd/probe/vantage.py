"""The position of a client: inside, where relaying may be intended, or outside. Pure."""

import ipaddress
from collections.abc import Sequence

# Addresses that cannot come from the Internet. 100.64.0.0/10 is missing, because providers share it among customers.
LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadInside(ValueError):
    """The text is neither a network nor =NAME."""


class Inside:
    """The networks and names (`=host`, `=.suffix`) that --inside names."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.names = [word[1:].lower() for word in words if word.startswith("=")]
        try:
            self.networks = [ipaddress.ip_network(word) for word in words if not word.startswith("=")]
        except ValueError as error:
            raise BadInside(str(error)) from error

    def includes(self, ip: str, host: str = "") -> bool:
        """Whether relaying by the client may be intended: it is loopback, private, or named by --inside."""
        own = any(contains(network, ip) for network in self.networks)
        named = any(host == name or (name.startswith(".") and host.endswith(name)) for name in self.names)
        return own or bool(host and named) or address_class(ip) != ""


def address_class(ip: str) -> str:
    """Return `loopback`, `private`, or ""."""
    for word, networks in (("loopback", LOOPBACK), ("private", PRIVATE)):
        if any(contains(ipaddress.ip_network(network), ip) for network in networks):
            return word
    return ""


def contains(network: Network, ip: str) -> bool:
    """Whether the network contains the address, given as text with or without a zone.

    An IPv4-mapped address counts as the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address in network


def describe(ip: str) -> str:
    """Return the address, with its class if it has one."""
    word = address_class(ip)
    return f"{ip} ({word})" if word else ip
