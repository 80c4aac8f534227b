"""Host and port -> a listening socket; then gid and uid. The only room that has root, and where it ends.

Resolves names for the command line (cli.py) so that the serving process never loads the resolver for it.
"""

import _socket as socket  # its Python half loads enum and selectors, which every fork would copy
import errno
import os

from tcprules import strerr
from tcpserver.settings import Settings

SERVICES = {"smtp": 25, "smtps": 465, "submission": 587, "pop3": 110, "pop3s": 995}  # where /etc/services is missing
MAX_PORT = 65535
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 (what host 0 means)
LISTEN_FDS_START = 3  # sd_listen_fds(3)
LITERAL = frozenset("0123456789.[]")  # dns_ip4_qualify() takes a host of these as an address, never as a name


class Unable(Exception):
    """Something that a server cannot do without did not work; the text is 0.88's fatal line without its prefix."""


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


def address(host: str) -> str:
    """The numeric address to listen on. IPv4 is preferred where a name has both. Raises Unable."""
    if host in ("", "0"):
        return EVERY_IPV4
    if LITERAL.issuperset(host):
        return literal(host)
    if ":" in host:
        return ipv6_literal(host)
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
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def literal(host: str) -> str:
    """A dotted quad and whatever follows it, as dns_ip4() reads it: an octet without digits is 0.

    One dot at the end does not count. Octets over 255 are refused; 0.88 takes them modulo 256.
    """
    octets = [octet.lstrip("0") or "0" for octet in brackets_off(host.removesuffix(".")).split(".")]
    if len(octets) < 4 or any(len(octet) > 3 or int(octet) > 255 for octet in octets):
        raise Unable(f"no IP address for {host}")
    return ".".join(octets[:4])


def brackets_off(host: str) -> str:
    """dns_ip4() overlooks brackets wherever they stand."""
    return host.replace("[", "").replace("]", "")


def ipv6_literal(host: str) -> str:
    """An IPv6 address, bare or in brackets, a zone allowed."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(bare, None, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError) as error:
        raise Unable(f"no IP address for {host}") from error
    return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def listener(settings: Settings, environ: dict[bytes, bytes]) -> socket.socket:
    """The socket to accept on, set up as the settings say, but for begin(). Raises Unable."""
    if settings.address is None:
        found = inherited_listener(environ)
    else:
        found = bound(settings.address, settings.port)
    if settings.nodelay:  # on Linux an accepted socket has it from its listener
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def begin(found: socket.socket, settings: Settings) -> None:
    """Let clients come; where the socket was passed on, they do already. Raises Unable."""
    if settings.address is None:
        return
    try:
        found.listen(settings.backlog)
    except OSError as error:
        raise Unable(f"unable to listen: {strerr.reason(error)}") from error


def bound(host: str, port: int) -> socket.socket:
    """A socket with a numeric address. `::` takes both families; `0.0.0.0` IPv4 alone, as 0.88."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    step = "create socket"
    try:
        found = socket.socket(family, socket.SOCK_STREAM)
        step = "bind"
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # bytes: for a str Python loads the idna codec, and re with it, into every child
        where = socket.getaddrinfo(os.fsencode(host), port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4]
        found.bind(where)
    except OSError as error:
        raise Unable(f"unable to {step}: {strerr.reason(error)}") from error
    return found


def inherited_listener(environ: dict[bytes, bytes]) -> socket.socket:
    """The one listening socket that a service manager passed on (sd_listen_fds(3))."""
    if environ.get(b"LISTEN_FDS") != b"1":
        raise Unable("unable to use fd: $LISTEN_FDS is not 1")
    if environ.get(b"LISTEN_PID") not in (None, b"%d" % os.getpid()):
        raise Unable("unable to use fd: $LISTEN_PID is another process")
    try:
        found = socket.socket(fileno=LISTEN_FDS_START)
        accepting = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise Unable(f"unable to use fd: {strerr.reason(error)}") from error
    if not accepting or found.family not in (socket.AF_INET, socket.AF_INET6):
        raise Unable("unable to use fd: descriptor 3 is not a listening TCP socket")
    os.set_inheritable(LISTEN_FDS_START, False)
    return found


def become_user(uid: int | None, gid: int | None, groups: list[int]) -> None:
    """Give up root for good: groups, then gid, then uid. None means that it was not asked for. Raises Unable.

    Who is not root may ask for itself, as with 0.88: it has no groups to give up that it could not have back.
    """
    if os.geteuid() and (uid, gid) == (os.getuid(), os.getgid()):
        return
    step = "gid"
    try:
        if gid is not None:
            os.setgroups(groups)
            os.setgid(gid)
        step = "uid"
        if uid is not None:
            os.setuid(uid)
    except OSError as error:
        raise Unable(f"unable to set {step}: {strerr.reason(error)}") from error


def notify(target: bytes, text: bytes) -> None:
    """Tell the service manager (sd_notify(3)). One that does not listen is not our trouble."""
    where = b"\0" + target[1:] if target.startswith(b"@") else target
    try:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        channel.sendto(text, where)
        channel.close()
    except OSError:
        return
