"""The networks of addresses, as the report counts them. Pure."""

from ipaddress import AddressValueError, IPv6Address, IPv6Network


def network(address: bytes) -> bytes:
    """Return the network of a client: its IPv4 /24, its IPv6 /48. What is no address stays as it is."""
    if b":" in address:
        return of_ipv6(address, 48)
    return address.rpartition(b".")[0] + b".0/24" if b"." in address else address


def wide_network(address: bytes) -> bytes:
    """Return the network by which a login from elsewhere is recognised: the IPv4 /16, the IPv6 /32."""
    if b":" in address:
        return of_ipv6(address, 32)
    first, _, rest = address.partition(b".")
    return b"%b.%b.0.0/16" % (first, rest.partition(b".")[0]) if rest else address


def of_ipv6(address: bytes, bits: int) -> bytes:
    """Return the network of an IPv6 address."""
    try:
        whole = IPv6Address(address.decode("latin-1").partition("%")[0])
    except AddressValueError:
        return address
    return str(IPv6Network((int(whole), bits), strict=False)).encode()
