"""Find this host's addresses: those of the interfaces that are up, like notqmail's ipme.c, and the IPv6 ones.

Uses Linux ioctls and /proc.

Used only when a client gives an address literal: the socket module costs 5 ms.
"""

from qmail_smtpd.smtp.replies import ADDRESSES_UNKNOWN
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

ANY = b"\0\0\0\0"  # ipme.c: 0.0.0.0 is this host, too
ANY6 = bytes(16)
INET6 = "/proc/net/if_inet6"  # a line for each address of an interface that is up: 32 hexadecimal digits and more
SIOCGIFCONF, SIOCGIFFLAGS = 0x8912, 0x8913  # linux/sockios.h
IFF_UP = 1  # linux/if.h
NAME_SIZE = 16  # linux/if.h IFNAMSIZ: the first field of struct ifreq
IFMAP = "LLHBBB3x"  # linux/if.h struct ifmap: the largest member of struct ifreq's union
ADDRESS = slice(NAME_SIZE + 4, NAME_SIZE + 8)  # after sockaddr_in's family and port
FIRST_CAPACITY = 64  # addresses; doubled until the kernel leaves some of the buffer unused


def own_addresses() -> frozenset[bytes]:
    """Return the addresses as four or sixteen octets each. Raises Unreadable."""
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            requests = interface_requests(udp)
            addresses = {request[ADDRESS] for request in requests if is_up(udp, request)}
            return frozenset({ANY, ANY6, *addresses, *ipv6_addresses()})
    except OSError as error:
        raise Unreadable(ADDRESSES_UNKNOWN, b"unable to read the addresses of the interfaces") from error


def ipv6_addresses() -> set[bytes]:
    """Return the IPv6 addresses: none where the kernel has no IPv6."""
    try:
        with open(INET6, encoding="ascii") as lines:
            return {bytes.fromhex(line[:32]) for line in lines}
    except FileNotFoundError:
        return set()


def interface_requests(udp: "socket.socket") -> list[bytes]:
    """Return the kernel's list of IPv4 addresses, one struct ifreq each."""
    from array import array
    from fcntl import ioctl
    from struct import calcsize, pack, unpack

    size = NAME_SIZE + calcsize(IFMAP)
    capacity = FIRST_CAPACITY * size
    while True:
        buffer = array("B", bytes(capacity))
        answer = ioctl(udp, SIOCGIFCONF, pack("iP", capacity, buffer.buffer_info()[0]))
        used = unpack("iP", answer)[0]
        if used <= capacity - size:
            content = buffer.tobytes()
            return [content[start : start + size] for start in range(0, used, size)]
        capacity *= 2


def is_up(udp: "socket.socket", request: bytes) -> bool:
    """Whether the interface of this request is up."""
    from fcntl import ioctl
    from struct import unpack_from

    (flags,) = unpack_from("h", ioctl(udp, SIOCGIFFLAGS, request), NAME_SIZE)
    return bool(flags & IFF_UP)
