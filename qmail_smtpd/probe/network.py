"""Connect to a server: HOST:PORT -> a stream, from a chosen address of this host. One address is found, and kept to."""

import os
import socket
from typing import NamedTuple

from qmail_smtpd.probe.transport import Descriptor

PORT = 25
PORTS = 65535


class Peers(NamedTuple):
    """Who speaks to whom, as text."""

    server: str
    port: int
    client: str


class BadHost(ValueError):
    """Not HOST, HOST:PORT or [IPV6]:PORT."""


def split(text: str) -> tuple[str, int]:
    """Host and port. An IPv6 address has brackets, or no port."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if bracket and not rest else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= PORTS):
        raise BadHost(f"not a host and a port: {text}")
    return host, int(port)


class Dialer:
    """Opens one connection after another to the same address. Raises OSError."""

    def __init__(self, host: str, port: int, client: str | None, timeout: float) -> None:
        self.timeout = timeout
        self.source = (client, 0) if client else None
        self.found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        self.peers = Peers(host, port, client or "")
        self.first: Descriptor | None = None

    def settle(self) -> None:
        """Connect to find out which of the host's addresses is asked. The connection is the first one that is used."""
        failure = OSError("no address")
        for address in dict.fromkeys(self.found):
            try:
                connection = self.connect(address)
            except OSError as error:
                failure = error
                continue
            self.found = [address]
            self.peers = Peers(address, self.peers.port, connection.getsockname()[0])
            self.first = Descriptor(connection.detach())
            return
        raise failure

    def __call__(self) -> Descriptor:
        """A new connection."""
        first, self.first = self.first, None
        return first or Descriptor(self.connect(self.found[0]).detach())

    def connect(self, address: str) -> socket.socket:
        return socket.create_connection((address, self.peers.port), self.timeout, self.source)


def host_name() -> str:
    """This host's name as a HELO may have it."""
    return os.uname().nodename.split(".")[0] or "localhost"
