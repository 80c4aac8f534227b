"""Connect as tcpclient does, with its messages: for tcpclient, and for the clients that are built on it."""

import _socket as socket  # see address/operands
import os
import sys

from tcprules import strerr
from tcpserver import environ
from tcpserver.address.operands import MAX_PORT, Unable, addresses, port_number
from tcpserver.tools.dialling import BindError, Dialler, family

LOCAL = "127.0.0.1"  # tcpclient.c: what host 0 means
READ, WRITE = 6, 7  # the descriptors of a UCSPI client's program


class Settings:
    """What the options say, with 0.88's defaults."""

    __slots__ = (
        "asks_host",
        "asks_info",
        "ident_timeout",
        "is_verbose",
        "local_ip",
        "local_name",
        "local_port",
        "more_patience",
        "nodelay",
        "patience",
    )

    def __init__(self) -> None:
        self.asks_host = self.asks_info = True
        self.nodelay = self.is_verbose = False
        self.ident_timeout = 26  # tcpclient.c: itimeout
        self.patience, self.more_patience = 2, 58  # seconds. tcpclient.c: ctimeout
        self.local_ip, self.local_port = "", 0
        self.local_name: bytes | None = None


class Connected:
    """A connection, and what is known of its ends."""

    __slots__ = ("facts", "link")

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        local, remote = link.getsockname(), link.getpeername()
        self.facts = environ.Facts(os.fsencode(plain(local[0])), local[1], os.fsencode(plain(remote[0])), remote[1])


class Failed(Exception):
    """There is no connection, and that is reported. `status` is the exit status for it."""

    def __init__(self, status: int) -> None:
        self.status = status


def failed(text: str, status: int = strerr.TEMPORARY) -> Failed:
    """Report a fatal error, and return the exception for it."""
    strerr.say("tcpclient: fatal: ", text)
    return Failed(status)


def plain(address: str) -> str:
    """An address without the zone (`%eth0`) of a link-local one."""
    return address.partition("%")[0]


def checked_port(text: str) -> int:
    """The port's number. Raises Failed."""
    try:
        return port_number(text)
    except ValueError:
        raise failed(f"port is over {MAX_PORT}: {text}", strerr.PERMANENT) from None
    except Unable as error:
        raise failed(str(error)) from error


def connect(host: str, port: int, settings: Settings) -> Connected:
    """Connect to one of the host's addresses. Raises Failed."""
    try:
        found = addresses(LOCAL if host in ("", "0") else host)
        if settings.local_ip:
            found = [address for address in found if family(address) == family(settings.local_ip)]
        if not found:
            raise Unable(f"no IP address for {host}")
        dialler = Dialler(
            port, settings.patience, settings.more_patience, report, settings.local_ip, settings.local_port
        )
        link = dialler.connect(found)
        if not link:
            raise Failed(strerr.TEMPORARY)
        if settings.nodelay:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected = Connected(link)
    except (Unable, BindError) as error:
        raise failed(str(error)) from error
    except OSError as error:
        raise failed(f"unable to get local address: {strerr.reason(error)}") from error
    if settings.is_verbose:
        strerr.say("tcpclient: connected to ", connected.facts.remote_ip, f" port {connected.facts.remote_port}")
    return connected


def report(address: str, port: int, error: OSError) -> None:
    """Report an address that cannot be reached."""
    strerr.say("tcpclient: unable to connect to ", address, f" port {port}: ", strerr.reason(error))


def hand_over(link: socket.socket) -> None:
    """Give the connection descriptors 6 and 7, which programs inherit. Raises Failed."""
    descriptor = link.detach()
    try:
        for wanted in (READ, WRITE):
            if descriptor == wanted:
                os.set_inheritable(wanted, True)
            else:
                os.dup2(descriptor, wanted)
        if descriptor not in (READ, WRITE):
            os.close(descriptor)
    except OSError as error:
        raise failed(f"unable to set up descriptor 6: {strerr.reason(error)}") from error


def connect_for(host: str, port: str) -> None:
    """Connect as `tcpclient -RHl0 -- host port` does, and leave the connection on descriptors 6 and 7.

    Raises Failed.
    """
    hand_over(connect(host, checked_port(port), Settings()).link)


def word(at: int, default: str) -> str:
    """A word of the command line of a program whose words are all optional."""
    return sys.argv[at] if len(sys.argv) > at else default
