"""The name servers to ask: of $DNSCACHEIP, or of /etc/resolv.conf."""

import _socket as socket  # see address/operands
import errno

RESOLV_CONF = "/etc/resolv.conf"
MOST = 16  # dns_rcip.c
LONGEST_FILE = 65536
DEFAULT = "127.0.0.1"
LASTING = (  # errors that count as a missing file, as in glibc's resolv_conf.c. Others mean a lack of resources
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
)


def servers(environ: dict[bytes, bytes]) -> list[str]:
    """The numeric addresses of the name servers, 1 to MOST. Raises OSError."""
    found = of_variable(environ.get(b"DNSCACHEIP", b"").decode("latin-1")) or of_file()
    return found[:MOST] or [DEFAULT]


def of_variable(text: str) -> list[str]:
    """IPv4 addresses one after the other, with a dot between (dns_rcip.c), or one IPv6 address."""
    if ":" in text:
        return [text] if is_address(text) else []
    octets = text.split(".")
    found = [".".join(octets[at : at + 4]) for at in range(0, len(octets), 4)]
    return found if all(map(is_address, found)) else []


def of_file() -> list[str]:
    """The nameserver lines of resolv.conf(5). Raises OSError."""
    try:
        with open(RESOLV_CONF, "rb") as file:
            lines = file.read(LONGEST_FILE).decode("latin-1").split("\n")
    except OSError as error:
        if error.errno not in LASTING:
            raise
        return []
    words = [line.split() for line in lines]
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver" and is_address(line[1])]


def is_address(text: str) -> bool:
    """Whether this is a numeric address, an IPv6 one with or without a zone."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True
