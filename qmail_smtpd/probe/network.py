"""Connect to HOST:PORT from a chosen local address. All connections go to the same address of the host."""

import os
import socket
from typing import NamedTuple

from qmail_smtpd.probe.transport import Descriptor

PORT = 25
PORTS = 65535


class Peers(NamedTuple):
    """The addresses of both ends, as text."""

    server: str
    port: int
    client: str


class BadHost(ValueError):
    """The text is not HOST, HOST:PORT or [IPV6]:PORT."""


def split(text: str) -> tuple[str, int]:
    """Return host and port. An IPv6 address with a port must have brackets."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if bracket and not rest else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not is_encodable(host) or not is_port(port):
        raise BadHost(f"not a host and a port: {text}")
    return host, int(port)


def is_port(text: str) -> bool:
    """Whether the text is the number of a port."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(PORTS)) and 0 < int(text) <= PORTS


def is_encodable(host: str) -> bool:
    """Whether the socket module can encode the name: it has no empty label, none over 63 letters, no invalid bytes."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def is_numeric(address: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, which may have a scope, and not a name."""
    try:
        socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return False
    return True


class Dialer:
    """Opens connections to one address, one after another. Raises OSError, and BadHost if it is created."""

    def __init__(self, host: str, port: int, client: str | None, timeout: float) -> None:
        if client and not is_numeric(client):
            raise BadHost(f"not an address: {client}")
        self.timeout = timeout
        self.source = (client, 0) if client else None
        self.addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        self.peers = Peers(host, port, client or "")
        self.first: Descriptor | None = None

    def settle(self) -> None:
        """Choose the first of the host's addresses that accepts a connection.

        Its connection is the first one to be used.
        """
        failure = OSError("no address")
        for address in dict.fromkeys(self.addresses):
            try:
                connection = self.connect(address)
            except OSError as error:
                failure = error
                continue
            self.addresses = [address]
            self.peers = Peers(address, self.peers.port, connection.getsockname()[0])
            self.first = Descriptor(connection.detach())
            return
        raise failure

    def __call__(self) -> Descriptor:
        """Return a new connection."""
        first, self.first = self.first, None
        return first or Descriptor(self.connect(self.addresses[0]).detach())

    def connect(self, address: str) -> socket.socket:
        return socket.create_connection((address, self.peers.port), self.timeout, self.source)


def host_name() -> str:
    """Return this host's short name, for HELO."""
    return os.uname().nodename.split(".")[0] or "localhost"
