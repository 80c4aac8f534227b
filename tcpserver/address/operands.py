"""Host and port of a command line -> addresses and a port number. The system's resolver looks names up."""

import _socket as socket  # its Python half loads enum and selectors
import errno

from tcprules import strerr

SERVICES = {"smtp": 25, "smtps": 465, "submission": 587, "pop3": 110, "pop3s": 995}  # where /etc/services is missing
MAX_PORT = 65535
LITERAL = frozenset("0123456789.[]")  # dns_ip4_qualify() takes a host of these as an address, never as a name


class Unable(Exception):
    """A step that a program needs has failed; the text is 0.88's fatal line without its prefix."""


def port_number(text: str) -> int:
    """The port for a number or a TCP service name. Raises Unable, or ValueError for a number over 65535."""
    if text.isascii() and (text.isdigit() or not text):
        port = int(text or "0")
        if port > MAX_PORT:
            raise ValueError(text)
        return port
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, UnicodeError, ValueError):
        if text in SERVICES:
            return SERVICES[text]
    raise Unable(f"unable to figure out port number for {text}")


def addresses(host: str) -> list[str]:
    """The numeric addresses of a host, in the resolver's order, at least one. Raises Unable."""
    if LITERAL.issuperset(host):
        return [literal(host)]
    if ":" in host:
        return [ipv6_literal(host)]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Unable(
                f"temporarily unable to figure out IP address for {host}: {strerr.WORDS[errno.EAGAIN]}"
            ) from error
        raise Unable(f"no IP address for {host}") from error
    except (OSError, UnicodeError, ValueError) as error:
        raise Unable(f"no IP address for {host}") from error
    return [str(entry[4][0]) for entry in found]


def literal(host: str) -> str:
    """The dotted quad at the start of a host, as dns_ip4() reads it: an octet without digits is 0.

    What follows the fourth octet and a dot is ignored. Octets over 255 are refused; 0.88 takes them modulo 256. Raises
    Unable.
    """
    octets = [octet.lstrip("0") or "0" for octet in brackets_off(host.removesuffix(".")).split(".")]
    if len(octets) < 4 or any(len(octet) > 3 or int(octet) > 255 for octet in octets):
        raise Unable(f"no IP address for {host}")
    return ".".join(octets[:4])


def brackets_off(host: str) -> str:
    """The text without brackets, which dns_ip4() ignores anywhere."""
    return host.replace("[", "").replace("]", "")


def ipv6_literal(host: str) -> str:
    """The numeric address for an IPv6 address, bare or in brackets, with or without a zone. Raises Unable."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(bare, None, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError) as error:
        raise Unable(f"no IP address for {host}") from error
    return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
