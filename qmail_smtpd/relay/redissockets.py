"""redis-py's connections, on descriptors that a worker of tcpserver may keep from one client to the next."""

import encodings.idna  # noqa: F401  # getaddrinfo loads it otherwise: 3 ms for each process that connects
import socket

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from qmail_smtpd.net.kept import set_apart


def moved(connection: socket.socket) -> socket.socket:
    """Return the socket under a number that a worker may keep open, or unchanged if there is none."""
    descriptor = set_apart(connection.fileno())
    if descriptor is None:
        return connection
    result = socket.socket(connection.family, connection.type, connection.proto, descriptor)
    result.settimeout(connection.gettimeout())
    connection.close()
    return result


class TcpConnection(Connection):
    """A connection that a worker may keep."""

    def _connect(self) -> socket.socket:
        return moved(super()._connect())  # type: ignore[no-untyped-call]


class TlsConnection(SSLConnection, TcpConnection):
    """The same with TLS: SSLConnection encrypts what TcpConnection has connected."""


class UnixConnection(UnixDomainSocketConnection):
    """A connection that a worker may keep."""

    def _connect(self) -> socket.socket:
        return moved(super()._connect())  # type: ignore[no-untyped-call]
