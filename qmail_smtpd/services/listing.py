"""control/policyservice: which services are asked, where they listen, and about which clients. Pure.

A line is `unix:PATH` or `inet:HOST:PORT`, then optionally `norelay` or `relay` (only clients without, or with, the
right to relay) and `policy_context=TEXT`. A line that is not understood is a service that cannot be asked.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SERVICES = 8  # each may take its whole time limit for each recipient
LONGEST_PATH = 107  # bytes: sun_path of unix(7), with its NUL
LONGEST_HOST = 255  # RFC 1035 section 2.3.4
HIGHEST_PORT = 65535
HOST_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:%"  # % begins an IPv6 zone
UNIX, INET = b"unix:", b"inet:"
CONTEXT = b"policy_context="
NO_RELAY, RELAY = b"norelay", b"relay"


class Service:
    """One service. `name`: as in the file; `fault`: why the line was not understood, empty if it was."""

    __slots__ = ("context", "fault", "host", "name", "path", "port", "relaying")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.path = b""  # of a unix-domain socket; if empty, the service is at `host` and `port`
        self.host = b""
        self.port = 0
        self.relaying: bool | None = None  # only clients with this right to relay; None: all clients
        self.context = b""
        self.fault = ""

    def concerns(self, may_relay: bool) -> bool:
        """Whether the service is asked about a client that may, or may not, relay."""
        return self.relaying is None or self.relaying == may_relay


class Services:
    """All services of a file, in their order. `open_on_failure`: one that cannot be asked is skipped."""

    __slots__ = ("entries", "open_on_failure")

    def __init__(self, lines: "Iterable[bytes]", open_on_failure: bool) -> None:
        self.entries = parse(lines)
        self.open_on_failure = open_on_failure

    def faults(self) -> list[Service]:
        """Return the entries whose lines were not understood."""
        return [service for service in self.entries if service.fault]


def parse(lines: "Iterable[bytes]") -> list[Service]:
    """Return a service for each line. One after the first MOST_SERVICES is a fault, and the rest is not read."""
    services: list[Service] = []
    for line in lines:
        address, *words = line.replace(b"\t", b" ").split(b" ")
        service = Service(address)
        try:
            if len(services) >= MOST_SERVICES:
                raise ValueError(f"more than {MOST_SERVICES} services")
            read_address(service, address)
            read_words(service, [word for word in words if word])
        except ValueError as error:
            service.fault, service.relaying = str(error), None
        services.append(service)
        if len(services) > MOST_SERVICES:
            break
    return services


def read_address(service: Service, address: bytes) -> None:
    """Set where the service listens. Raises ValueError."""
    if address.startswith(UNIX):
        service.path = address[len(UNIX) :]
        if not 0 < len(service.path) <= LONGEST_PATH:
            raise ValueError(f"a path of 1 to {LONGEST_PATH} bytes is expected")
        return
    if not address.startswith(INET):
        raise ValueError("unix:PATH or inet:HOST:PORT is expected")
    host, _, port = address[len(INET) :].rpartition(b":")
    if host.startswith(b"[") and host.endswith(b"]"):
        host = host[1:-1]
    elif b":" in host:
        raise ValueError("an IPv6 address is written in brackets")
    if not 0 < len(host) <= LONGEST_HOST or host.translate(None, HOST_BYTES):
        raise ValueError("a host name or an address is expected")
    if not port.isdigit() or len(port) > len(b"%d" % HIGHEST_PORT) or not 0 < int(port) <= HIGHEST_PORT:
        raise ValueError(f"a port from 1 to {HIGHEST_PORT} is expected")
    service.host, service.port = host, int(port)


def read_words(service: Service, words: list[bytes]) -> None:
    """Set what the words after the address say. Raises ValueError."""
    for word in words:
        if word in (NO_RELAY, RELAY) and service.relaying is None:
            service.relaying = word == RELAY
        elif word.startswith(CONTEXT) and not service.context:
            service.context = word[len(CONTEXT) :]
        else:
            raise ValueError("only norelay, relay and policy_context=TEXT may follow the address")
