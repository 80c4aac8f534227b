"""Which IPv4 addresses are this host's: those of the interfaces that are up, as notqmail's ipme.c finds them.

Asked only when a client names an address literal: the socket module costs 5 ms. Linux's ioctls.
"""

from qmail_smtpd.smtp.replies import ADDRESSES_UNKNOWN
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

ANY = b"\0\0\0\0"  # ipme.c: 0.0.0.0 means this host, too
SIOCGIFCONF, SIOCGIFFLAGS = 0x8912, 0x8913  # linux/sockios.h
IFF_UP = 1  # linux/if.h
NAME_SIZE = 16  # linux/if.h IFNAMSIZ: first in struct ifreq
IFMAP = "LLHBBB3x"  # linux/if.h struct ifmap: the largest member of struct ifreq's union
ADDRESS = slice(NAME_SIZE + 4, NAME_SIZE + 8)  # behind sockaddr_in's family and port
FIRST_ROOM = 64  # interfaces; doubled until the kernel leaves some of it unused


def own_addresses() -> frozenset[bytes]:
    """The addresses as four octets each. A system that does not tell is Unreadable."""
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            requests = interface_requests(asked)
            return frozenset({ANY, *(request[ADDRESS] for request in requests if is_up(asked, request))})
    except OSError as error:
        raise Unreadable(ADDRESSES_UNKNOWN, b"unable to read the addresses of the interfaces") from error


def interface_requests(asked: "socket.socket") -> list[bytes]:
    """The kernel's list of IPv4 addresses, one struct ifreq each."""
    from array import array
    from fcntl import ioctl
    from struct import calcsize, pack, unpack

    each = NAME_SIZE + calcsize(IFMAP)
    room = FIRST_ROOM * each
    while True:
        buffer = array("B", bytes(room))
        answer = ioctl(asked, SIOCGIFCONF, pack("iP", room, buffer.buffer_info()[0]))
        used = unpack("iP", answer)[0]
        if used <= room - each:
            content = buffer.tobytes()
            return [content[start : start + each] for start in range(0, used, each)]
        room *= 2


def is_up(asked: "socket.socket", request: bytes) -> bool:
    """Whether the interface of this request is up."""
    from fcntl import ioctl
    from struct import unpack_from

    (flags,) = unpack_from("h", ioctl(asked, SIOCGIFFLAGS, request), NAME_SIZE)
    return bool(flags & IFF_UP)
