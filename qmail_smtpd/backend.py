"""A session's access to the outside world: wire, control files, queue, clock, log, and others.

The conversation uses it by the protocol in smtp/backend.py. What few sessions need is loaded by those that need it.
"""

import time

from qmail_smtpd import control
from qmail_smtpd.log import Log, level_of
from qmail_smtpd.net.wire import Closed, Wire
from qmail_smtpd.queue.client import open_queue
from qmail_smtpd.setup import Setup, arguments
from qmail_smtpd.smtp.received import date

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _ssl import _SSLContext as SSLContext

    from qmail_smtpd.auth.authenticator import Authenticator
    from qmail_smtpd.net.names import Names
    from qmail_smtpd.plugins.chain import Chain
    from qmail_smtpd.plugins.listing import Listing
    from qmail_smtpd.queue.client import LoadedQueue, QueueClient
    from qmail_smtpd.recipients.cdb import MoreRcpthosts
    from qmail_smtpd.recipients.check import Recipients
    from qmail_smtpd.relay.meter import Meter
    from qmail_smtpd.services.consultant import Consultant
    from qmail_smtpd.services.listing import Services
    from qmail_smtpd.smtp.backend import Refusal
    from qmail_smtpd.smtp.outcome import Outcome
    from qmail_smtpd.smtp.ruling import Ruling
    from qmail_smtpd.smtp.sasl import Credentials, PassedOn, ScramServer
    from qmail_smtpd.smtp.settings import Settings
    from qmail_smtpd.smtp.xclient import Attributes

TLS_VARIABLES = (b"TLS_PROTOCOL", b"TLS_CIPHER")
QMAILQUEUE = b"bin/qmail-queue"  # relative to the qmail home, the current directory
IPV6_SIZE = 16  # octets
BY_PROXY = b"PROXYREMOTEIP"  # tcpserver --proxy-from: TCPLOCALIP is the proxy's address that the client connected to
VIA = b"TCPREMOTEVIA"  # tcpserver: the client has the address of this host's gateway or bridge
ACCEPTANCES = (b"accepted", b"queued")  # events that are logged with relay_user if relay-check has set RELAY_USER


class SessionBackend:
    """The backend of a session (smtp/backend.py): the client's wire, the queue program, the clock, the log."""

    __slots__ = (
        "authenticator",
        "chain",
        "consultant",
        "destination",
        "environ",
        "ignored_events",
        "journal",
        "meter",
        "morercpthosts",
        "own_addresses",
        "plugins",
        "proxy_environ",
        "queue",
        "recipients",
        "services",
        "sni",
        "tls_context",
        "tls_failed",
        "via",
        "warnings",
        "wire",
    )

    def __init__(
        self,
        environ: dict[bytes, bytes],
        wire: Wire,
        morercpthosts: "MoreRcpthosts | None",
        authenticator: "Authenticator | None",
        journal: Log,
    ) -> None:
        self.environ = environ
        self.proxy_environ: dict[bytes, bytes] = {}  # of a listed proxy's connection, as it began
        self.destination: bytes | None = None  # octets of the address that the client of a proxy has connected to
        self.warnings: list[bytes] = []  # that have been logged
        self.wire = wire
        self.morercpthosts = morercpthosts
        self.authenticator = authenticator
        self.services: Services | None = None
        self.consultant: Consultant | None = None
        self.plugins: Listing = {}
        self.chain: Chain | None = None
        self.journal = journal
        self.ignored_events = journal.ignored_events
        self.via = relays_via(environ) if VIA in environ else None
        self.own_addresses: frozenset[bytes] | None = None
        self.meter: Meter | None = None  # with control/relaylimits or authfaillimit
        self.queue: QueueClient | LoadedQueue | None = None
        self.recipients: Recipients | None = None
        self.tls_context: SSLContext | None = None
        self.sni = b""  # the name that the client has asked for, if there are certificates for several names
        self.tls_failed = False  # the certificate is checked, which takes 0.6 ms, and the failure logged, only once

    def reply(self, line: bytes) -> None:
        self.wire.write(line + b"\r\n")

    def date(self) -> bytes:
        return date(*time.gmtime()[:6])

    def is_own_address(self, octets: bytes) -> bool:
        if len(octets) == IPV6_SIZE and b":" not in self.environ.get(b"TCPLOCALIP", b""):
            return False  # a session over IPv4 is as with the original, which has no IPv6
        if self.own_addresses is None:
            from qmail_smtpd.net.ownaddress import own_addresses

            self.own_addresses = own_addresses()
        if octets in self.own_addresses or octets == self.destination:
            return True
        if BY_PROXY not in self.environ:
            return False
        from qmail_smtpd.xclient import client

        return octets == client.octets(self.environ.get(b"TCPLOCALIP"))

    def in_morercpthosts(self, key: bytes) -> bool:
        return self.morercpthosts is not None and self.morercpthosts.has(key)

    def unknown_recipients(self) -> int:
        assert self.meter is not None
        return self.meter.unknown_recipients()

    def count_unknown(self) -> bool:
        assert self.meter is not None
        return self.meter.count_unknown()

    def recipient_refusal(self, sender: bytes, recipient: bytes, helo: bytes) -> tuple[bytes, bytes] | None:
        if self.recipients is None:
            return None
        if self.recipients.program is not None:
            self.wire.flush()  # so that a slow program does not delay the replies to earlier commands
        return self.recipients.refusal(sender, recipient, helo, self.environ, self.wire.deadline)

    def consult(self, question: dict[bytes, bytes], may_relay: bool) -> "Ruling":
        self.wire.flush()  # so that a slow service does not delay the replies to earlier commands
        if self.consultant is None:
            from qmail_smtpd.services.consultant import Consultant

            assert self.services is not None
            self.consultant = Consultant(self.services)
        ruling = self.consultant.consult(question, self.environ, may_relay, self.wire.deadline)
        for warning in ruling.warnings:
            self.journal.warning(warning)
        return ruling

    def take_relayed(self, user: bytes | None, count: int) -> "tuple[int, Refusal | None]":
        assert self.meter is not None
        return self.meter.take_relayed(user, count)

    def set_plugin_variables(self, variables: "dict[bytes, bytes | None]") -> None:
        for name, value in variables.items():
            self.set_variable(name, value)

    def run_plugins(self, section: bytes, variable: bytes, address: bytes) -> "Outcome":
        self.wire.flush()  # so that a slow plugin does not delay the replies to earlier commands
        if self.chain is None:
            from qmail_smtpd.plugins.chain import Chain

            self.chain = Chain(self.plugins)
        outcome = self.chain.run(section, variable, address, self.environ, self.wire.deadline)
        for warning in self.chain.warnings:
            self.journal.warning(warning)
        return outcome

    def open_queue(self) -> bool:
        self.wire.start_data()
        try:
            self.queue = open_queue(self.environ.get(b"QMAILQUEUE", QMAILQUEUE), self.environ, self.wire.deadline)
        except OSError:
            return False
        return True

    def write_message(self, data: bytes) -> None:
        assert self.queue is not None
        self.queue.write(data)

    def close_queue(self, envelope: bytes | None) -> bytes:
        assert self.queue is not None
        try:
            self.wire.flush()  # so that a slow queue program does not delay the replies to earlier commands
        except Closed:
            pass  # the client will not see the reply, but its message is complete: the original queues it, too
        return self.queue.close(envelope)

    def abandon_queue(self) -> None:
        assert self.queue is not None
        self.queue.abandon()

    def challenge(self) -> bytes:
        assert self.authenticator is not None
        return self.authenticator.challenge()

    def scram_is_used(self) -> bool:
        assert self.authenticator is not None
        return self.authenticator.scram_is_used()

    def scram(self) -> "ScramServer":
        assert self.authenticator is not None
        return self.authenticator.scram()

    def server_mechanisms(self) -> tuple[bytes, ...] | None:
        assert self.authenticator is not None
        self.wire.flush()  # so that a slow server does not delay the replies to earlier commands
        return self.authenticator.server_mechanisms(self.wire.deadline)

    def server_trouble(self) -> bytes:
        assert self.authenticator is not None
        return self.authenticator.trouble

    def pass_on(self, mechanism: bytes) -> "PassedOn":
        assert self.authenticator is not None
        self.wire.flush()
        return self.authenticator.pass_on(mechanism, self.environ, self.sni, self.wire.deadline)

    def login_refusal(self, credentials: "Credentials") -> tuple[bytes, bytes] | None:
        assert self.authenticator is not None
        self.wire.flush()  # so that a slow checker does not delay the replies to earlier commands
        return self.authenticator.login_refusal(credentials, self.environ, self.wire.deadline)

    def attempt_refusal(self) -> "Refusal | None":
        assert self.meter is not None
        return self.meter.attempt_refusal()

    def count_failure(self, reason: bytes) -> None:
        assert self.meter is not None
        self.meter.count_failure(reason)

    def pause(self) -> None:
        assert self.authenticator is not None
        self.wire.flush()
        self.authenticator.pause(self.wire.deadline)

    def senders(self, user: bytes) -> frozenset[bytes] | None:
        return control.authsenders(user)

    def set_identity(self, relayclient: bytes | None, remoteinfo: bytes | None) -> None:
        for name, value in ((b"RELAYCLIENT", relayclient), (b"TCPREMOTEINFO", remoteinfo)):
            self.set_variable(name, value)

    def set_variable(self, name: bytes, value: bytes | None) -> None:
        """Set a variable for programs that are run; None: unset."""
        if value is None:
            self.environ.pop(name, None)
        else:
            self.environ[name] = value

    def canonical_address(self, text: bytes) -> bytes | None:
        from qmail_smtpd.xclient.client import canonical_address

        return canonical_address(text)

    def become_client(self, attributes: "Attributes") -> "Settings | None":
        from qmail_smtpd.xclient import client

        home = control.home(self.environ)
        encryption = {name: self.environ[name] for name in TLS_VARIABLES if name in self.environ}
        self.environ, allowed = client.environment(self.proxy_environ, attributes)
        self.environ.update(encryption)
        self.journal.facts[b"ip"] = self.environ.get(b"TCPREMOTEIP", b"unknown")
        self.via = None
        if not allowed:
            return None
        if control.home(self.environ) != home:
            control.enter(control.home(self.environ))
        self.destination = client.octets(attributes.get(b"DESTADDR"))
        settings = self.set_up()
        self.via = relays_via(self.environ)
        if b"ADDR" in attributes:  # from here on the proxy may pass on what its client sends
            settings.xclient = ()
        return settings

    def close(self) -> None:
        """Close the control files that are open."""
        if self.morercpthosts is not None:
            self.morercpthosts.close()
        if self.recipients:
            self.recipients.close()

    def set_up(self) -> "Settings":
        """Read the settings again, and return them. Raises Unreadable."""
        self.close()
        self.journal.set_level(level_of(self.environ))
        self.ignored_events = self.journal.ignored_events
        setup = Setup(self.environ, arguments())
        for warning in setup.warnings:
            if warning not in self.warnings:
                self.journal.warning(warning)
        self.morercpthosts, self.authenticator = setup.morercpthosts, setup.authenticator
        self.services, self.consultant = setup.services, None
        self.plugins, self.chain = setup.plugins, None
        self.recipients = setup.recipients
        self.use_limits(setup)
        self.tls_failed = False
        return setup.settings

    def use_limits(self, setup: Setup) -> None:
        """Use the limits that the control files set."""
        self.meter = None
        if setup.settings.relay_limited or setup.settings.logins_limited:
            from qmail_smtpd.relay.meter import Meter

            self.meter = Meter(self.environ, setup.relaylimits, setup.authfaillimit, self.journal.warning)

    def prepare_tls(self) -> bool:
        if not self.tls_failed:
            from qmail_smtpd.net import certificate

            try:
                self.tls_context = certificate.context()
            except certificate.TlsUnavailable as error:
                self.journal.warning(b"no TLS: " + error.why)
                self.tls_failed = True
        return self.tls_context is not None

    def start_tls(self) -> bytes:
        from qmail_smtpd.net import names, tls

        assert self.tls_context is not None
        certificates = names.find()
        try:
            layer = tls.accept(self.wire, self.tls_context, certificates.context if certificates else None)
        finally:
            self.note_name(certificates)
        self.environ[b"TLS_PROTOCOL"] = self.journal.facts[b"tls"] = layer.protocol
        self.environ[b"TLS_CIPHER"] = layer.cipher
        return layer.cipher

    def note_name(self, certificates: "Names | None") -> None:
        """Note the name that the client has asked for, and log why its certificate cannot be used."""
        if certificates is not None:
            self.sni = certificates.name
            if certificates.trouble:
                self.journal.warning(b"no certificate for " + self.sni + b": " + certificates.trouble)

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        if event in ACCEPTANCES and b"RELAYCLIENT" in self.environ and b"RELAY_USER" in self.environ:
            facts = {**facts, b"relay_user": self.environ[b"RELAY_USER"]}
        if self.via is not None:
            facts = {**facts, b"via": self.via}
        if self.sni:
            facts = {**facts, b"sni": self.sni}
        self.journal.decision(event, facts)


def relays_via(environ: dict[bytes, bytes]) -> bytes | None:
    """Return `gateway` or `bridge` if the client has the address of one and relays without a login, else None."""
    return environ.get(VIA) if b"RELAYCLIENT" in environ else None
