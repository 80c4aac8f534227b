"""Host and port -> a listening socket; then gid and uid: root is needed, and given up, only here.

Resolves names for the command line (cli.py) so that the serving process never loads the resolver for it.
"""

import _socket as socket  # its Python half loads enum and selectors, which every fork would copy
import os

from tcprules import strerr
from tcpserver.address.operands import Unable, addresses
from tcpserver.settings import Settings

EVERY_IPV4 = "0.0.0.0"  # noqa: S104 (what host 0 means)
LISTEN_FDS_START = 3  # sd_listen_fds(3)


def address(host: str) -> str:
    """The numeric address to listen on. IPv4 is preferred where a name has both. Raises Unable."""
    if host in ("", "0"):
        return EVERY_IPV4
    return min(addresses(host), key=lambda address: ":" in address)


def listener(settings: Settings, environ: dict[bytes, bytes]) -> socket.socket:
    """The socket to accept on, set up as the settings say; begin() makes it listen. Raises Unable."""
    if settings.address is None:
        found = inherited_listener(environ)
    else:
        found = bound(settings.address, settings.port)
    if settings.nodelay:  # on Linux an accepted socket has it from its listener
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def begin(found: socket.socket, settings: Settings) -> None:
    """Listen, unless the socket was passed on: that one listens already. Raises Unable."""
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
        raise Unable("unable to use fd: $LISTEN_PID names another process")
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

    A process that is not root may ask for its own ids, as with 0.88. It keeps its groups: only root can change them.
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
    """Notify the service manager (sd_notify(3)). If that fails, the server goes on all the same."""
    where = b"\0" + target[1:] if target.startswith(b"@") else target
    try:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        channel.sendto(text, where)
        channel.close()
    except OSError:
        return
