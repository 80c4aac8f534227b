"""A client's address -> the one text that names it in every store; which networks it lies in. Pure.

The texts are tcpserver's own (tcprules/network.py): RFC 5952, an IPv4-mapped address as a dotted quad. The library's
`ipaddress` would say the same and costs 2.5 ms of imports, a third of a bare interpreter, in programs that run once a
connection.
"""

from tcprules.lookup import canonical, expand, ipv4, keys


def normalise(text: bytes) -> bytes | None:
    """The canonical text of an IPv4 or IPv6 address, without its zone. None for everything else."""
    if b":" not in text:
        return None if ipv4(text) is None else text
    address, percent, zone = text.partition(b"%")
    return None if percent and not zone else canonical(address)


def networks(text: bytes) -> frozenset[bytes]:
    """The keys of addresses and networks with blanks between. Raises ValueError, which names the one that is wrong."""
    found: set[bytes] = set()
    for network in text.split():
        try:
            found.update(expand(network))
        except ValueError as error:
            raise ValueError(f"{network.decode('ascii', 'backslashreplace')}: {error}") from None
    return frozenset(found)


def is_within(address: bytes, found: frozenset[bytes]) -> bool:
    """Whether the canonical address is one of these, or lies in one of these networks."""
    if b":" in address:
        return not found.isdisjoint(keys(address, None, None))
    while address:  # the same keys without a generator, whose pages each forked relay-check would copy
        if address in found:
            return True
        address = address[: address.rfind(b".", 0, -1) + 1]
    return b"" in found


# RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.2 and 2.7: no client has such an address.
NO_CLIENT = networks(b"0.0.0.0 :: 224.0.0.0/4 ff00::/8")
