"""Admission of one accepted client, or its refusal. Limits, then the rules where no name has to be asked first.

Knows neither the loop nor the signals (serve.py), nor how a client gets its process (starter.py).
"""

import _socket as socket  # see serve
import os
import time

from tcprules import strerr
from tcprules.lookup import ALLOWED, canonical, is_missing
from tcpserver.environ import Facts
from tcpserver.log import LIMIT_ADDRESS
from tcpserver.parent.children import Children, Client
from tcpserver.parent.rulesfile import RulesFile
from tcpserver.parent.starter import Starter
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.parent.linger import Linger
    from tcpserver.parent.proxied import Proxied

MAPPED = "::ffff:"  # how an IPv6 socket shows an IPv4 client


class Admission:
    """Judges the clients of one server. `loop_descriptors` are those of the loop."""

    def __init__(self, settings: Settings, children: Children, linger: "Linger", base: dict[bytes, bytes]) -> None:
        self.settings, self.children, self.linger = settings, children, linger
        self.starter = Starter(settings, children, base)
        self.message = octets(settings.address_message or "")
        self.rules = RulesFile(octets(settings.rules)) if settings.rules is not None else None
        self.local_host = None if settings.local_name is None else octets(settings.local_name)
        self.loop_descriptors: list[int] = []
        self.proxied = self.proxies() if settings.proxy_from else None
        self.connections = Connections() if settings.log_format == "json" else None
        self.via: dict[bytes, bytes] = {}  # address -> gateway or bridge: TCPREMOTEVIA

    def facts(self, connection: "socket.socket", peer: "tuple[str, int] | tuple[str, int, int, int]") -> Facts | None:
        """Both ends of a connection. None if the client is gone already: then our end is not known, either."""
        try:
            name = connection.getsockname()
        except OSError as error:
            self.starter.drop(b"get local address", strerr.reason(error), None)
            return None
        facts = Facts(text(name[0]), name[1], text(peer[0]), peer[1])
        facts.interface = interface(peer)
        return facts

    def admit(self, connection: "socket.socket", facts: Facts) -> None:
        """Admit the client, or refuse it. The caller closes the connection unless it lingers.

        A client that is to have a forked child stays pending until start_pending().
        """
        client = Client(facts, time.monotonic())
        facts.local_host = self.local_host
        if self.connections:
            facts.connection = self.connections.next_name()
        if self.via:
            facts.via = self.via.get(facts.remote_ip)
        reason = self.children.limits.refusal(client.group, client.started)
        if reason:
            self.refuse(client, connection, reason)
        elif self.starter.asks:
            self.starter.start_asking(client, connection)
        else:
            self.judge(client, connection)

    def judge(self, client: Client, connection: "socket.socket") -> None:
        """Look the client up in the rules, and start the program if they allow it."""
        try:
            verdict = self.rules.judge(client.facts.remote_ip) if self.rules else ALLOWED
        except OSError as error:
            path = octets(self.settings.rules or "")
            if not (self.settings.rules_optional and is_missing(error, path)):
                self.starter.drop(b"read " + path, strerr.reason(error), client)
                return
            verdict = ALLOWED
        if verdict.deny:
            self.refuse(client, connection, b"", verdict.key)
        elif verdict.is_full(self.children.others(client)):
            self.refuse(client, connection, LIMIT_ADDRESS, verdict.key)
        else:
            if verdict.unusable and self.settings.verbosity:
                self.children.journal.write(self.children.lines.nameless(verdict.key))
            self.starter.start(client, connection, verdict)

    def own_descriptors(self) -> list[int]:
        """The descriptors that a forked child must close: the loop's, the rules file, clients that linger or wait."""
        rules = [self.rules.descriptor] if self.rules and self.rules.descriptor >= 0 else []
        waiting = self.proxied.descriptors() if self.proxied else []
        return self.loop_descriptors + rules + list(self.linger.sockets) + waiting

    def proxies(self) -> "Proxied":
        """Make the object that keeps connections until their PROXY header is whole."""
        from tcpserver.parent.proxied import Proxied  # start.py has loaded it

        networks = [octets(text) for text in self.settings.proxy_from]
        most = self.children.pool.share(self.settings.limit)
        timeout, only_faults = self.settings.proxy_timeout, not self.children.verbose
        return Proxied(networks, timeout, most, self.drop_proxied, self.drop_more, only_faults)

    def drop_proxied(self, facts: Facts, why: str) -> None:
        """Log that a connection from a proxy is given up."""
        what = b"read PROXY header from " if facts.proxy_ip is None else b"serve client of proxy "
        self.starter.drop(what + (facts.proxy_ip or facts.remote_ip), why, Client(facts, 0.0))

    def drop_more(self, count: int) -> None:
        """Log how many others were given up."""
        if self.settings.verbosity:
            text = b"dropping %d more connections without a PROXY header" % count
            self.children.journal.write(self.children.lines.warning(text))

    def start_pending(self) -> None:
        """Start the processes of all pending clients."""
        if self.starter.pending:
            self.starter.start_pending(self.own_descriptors())

    def refuse(self, client: Client, connection: "socket.socket", reason: bytes, key: bytes | None = None) -> None:
        """Log one deny line with our own pid. A client over -C or a rule's MAXCONIP gets the message of -C."""
        self.children.log_verbose(self.children.lines.verdict(b"deny", os.getpid(), client.facts, key, reason))
        if reason == LIMIT_ADDRESS and self.message:
            self.linger.refuse(connection, self.message + b"\r\n", client.started)


class Connections:
    """Names for the connections of a server, such as `674a1b2c-17`: when it started, in hexadecimal, and a number."""

    __slots__ = ("count", "started")

    def __init__(self) -> None:
        self.started, self.count = int(time.time()), 0

    def next_name(self) -> bytes:
        """Return the name of one more connection."""
        self.count += 1
        return b"%x-%d" % (self.started, self.count)


def interface(peer: "tuple[str, int] | tuple[str, int, int, int]") -> bytes | None:
    """The interface by which a link-local client came; None for every other address."""
    if len(peer) == 2 or not peer[3]:
        return None
    try:
        return os.fsencode(socket.if_indextoname(peer[3]))
    except OSError:  # it is gone
        return None


def text(address: str) -> bytes:
    """TCPREMOTEIP's form of an address: an IPv4-mapped one is the dotted quad, an IPv6 one its canonical text."""
    if ":" not in address:
        return address.encode()
    if address.startswith(MAPPED) and "." in address:
        return address[len(MAPPED) :].encode()
    return canonical(address.encode()) or address.encode()
