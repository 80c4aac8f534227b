"""Client addresses: their canonical text, which names them in every store, and the networks they belong to. Pure.

The canonical text is tcpserver's (tcprules/network.py): RFC 5952, and a dotted quad for an IPv4-mapped address. The
standard library's `ipaddress` gives the same result, but its import takes 2.5 ms, a third of a bare interpreter's
start, in programs that run once per connection.
"""

from tcprules.lookup import canonical, expand, ipv4, keys


def normalise(text: bytes) -> bytes | None:
    """Return the canonical text of an IPv4 or IPv6 address, without its zone. Return None for any other text."""
    if b":" not in text:
        return None if ipv4(text) is None else text
    address, percent, zone = text.partition(b"%")
    return None if percent and not zone else canonical(address)


def parse_networks(text: bytes) -> frozenset[bytes]:
    """Return the rule keys of the addresses and networks in a blank-separated list.

    Raise ValueError, which names the invalid entry.
    """
    networks: set[bytes] = set()
    for network in text.split():
        try:
            networks.update(expand(network))
        except ValueError as error:
            raise ValueError(f"{network.decode('ascii', 'backslashreplace')}: {error}") from None
    return frozenset(networks)


def is_within(address: bytes, networks: frozenset[bytes]) -> bool:
    """Whether the canonical address is one of the networks' keys or lies in one of the networks."""
    if b":" in address:
        return not networks.isdisjoint(keys(address, None, None))
    while address:  # as `keys`, without the memory pages that a generator would cost each forked relay-check
        if address in networks:
            return True
        address = address[: address.rfind(b".", 0, -1) + 1]
    return b"" in networks


# RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.2 and 2.7: addresses that no client can have.
NEVER_CLIENTS = parse_networks(b"0.0.0.0 :: 224.0.0.0/4 ff00::/8")
