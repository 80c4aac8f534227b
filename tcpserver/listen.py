"""Host and port -> a listening socket; then gid and uid. The only room that has root, and where it ends.

Resolves names for the command line (cli.py) so that the serving process never loads the resolver for it.
"""

import errno
import os
import socket

from tcprules import strerr

SERVICES = {"smtp": 25, "smtps": 465, "submission": 587, "pop3": 110, "pop3s": 995}  # where /etc/services is missing
MAX_PORT = 65535
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 (what host 0 means)
LISTEN_FDS_START = 3  # sd_listen_fds(3)
LITERAL = frozenset("0123456789.[]")  # dns_ip4_qualify() takes a host of these as an address, never as a name


class Unresolved(Exception):
    """There is no address or port for a name; the text is 0.88's fatal line without its prefix."""


def port_number(text: str) -> int:
    """The port for a number or a TCP service name. Raises Unresolved, or ValueError for a number over 65535."""
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
    raise Unresolved(f"unable to figure out port number for {text}")


def address(host: str) -> str:
    """The numeric address to listen on. IPv4 is preferred where a name has both. Raises Unresolved."""
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
            raise Unresolved(
                f"temporarily unable to figure out IP address for {host}: {strerr.WORDS[errno.EAGAIN]}"
            ) from error
        raise Unresolved(f"no IP address for {host}") from error
    except (OSError, UnicodeError, ValueError) as error:
        raise Unresolved(f"no IP address for {host}") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def literal(host: str) -> str:
    """A dotted quad, or several in a row, of which dns_ip4_qualify() takes the first. Octets over 255 are refused."""
    octets = host.replace("[", "").replace("]", "").split(".")
    if len(octets) % 4 or not all(octet.isdigit() and int(octet) <= 255 for octet in octets):
        raise Unresolved(f"no IP address for {host}")
    return ".".join(str(int(octet)) for octet in octets[:4])


def ipv6_literal(host: str) -> str:
    """An IPv6 address, bare or in brackets, a zone allowed."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(bare, None, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError) as error:
        raise Unresolved(f"no IP address for {host}") from error
    return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def open_listener(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens on a numeric address. `::` takes both families; `0.0.0.0` IPv4 alone, as 0.88."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to create socket: ", strerr.reason(error))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)[0][4])
    except OSError as error:
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to bind: ", strerr.reason(error))
    try:
        listener.listen(backlog)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to listen: ", strerr.reason(error))
    return listener


def inherited_listener(environ: dict[bytes, bytes]) -> socket.socket:
    """The one listening socket that a service manager passed on (sd_listen_fds(3))."""
    count, pid = environ.get(b"LISTEN_FDS"), environ.get(b"LISTEN_PID")
    if count != b"1" or pid not in (None, b"%d" % os.getpid()):
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to use fd: LISTEN_FDS is not 1 or LISTEN_PID not mine")
    try:
        listener = socket.socket(fileno=LISTEN_FDS_START)
        accepting = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to use fd: ", strerr.reason(error))
    if not accepting or listener.family not in (socket.AF_INET, socket.AF_INET6):
        strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to use fd: descriptor 3 is not a listening TCP socket")
    os.set_inheritable(LISTEN_FDS_START, False)
    return listener


def become_user(uid: int | None, gid: int | None, groups: list[int]) -> None:
    """Give up root for good: groups, then gid, then uid. None means that it was not asked for."""
    if gid is not None:
        try:
            os.setgroups(groups)
            os.setgid(gid)
        except OSError as error:
            strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to set gid: ", strerr.reason(error))
    if uid is not None:
        try:
            os.setuid(uid)
        except OSError as error:
            strerr.die(strerr.TEMPORARY, "tcpserver: fatal: unable to set uid: ", strerr.reason(error))


def notify(target: bytes, text: bytes) -> None:
    """Tell the service manager (sd_notify(3)). One that does not listen is not our trouble."""
    where = b"\0" + target[1:] if target.startswith(b"@") else target
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(text, where)
    except OSError:
        return
