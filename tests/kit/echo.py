"""A backend for a session under test: records the replies, the messages and the log, and accepts every message."""

from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.message import Message
from qmail_smtpd.smtp.outcome import Outcome
from qmail_smtpd.smtp.ruling import Ruling
from qmail_smtpd.smtp.sasl import Credentials, LoginRefused, Malformed
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Settings
from qmail_smtpd.xclient.client import canonical_address

LOCAL = bytes((127, 0, 0, 1))


class EchoScram:
    """Not SCRAM: echoes its input, and accepts `proof`."""

    user = b"joe"
    done = False

    def step(self, client: bytes) -> bytes:
        if client == b"junk":
            raise Malformed
        if client == b"wrong":
            raise LoginRefused(replies.AUTH_FAILED, b"password", self.user)
        self.done = client == b"proof"
        return b"heard " + client


class Echo:
    """A backend. `failure` is raised by operations that can fail; `queue_reply` is the reply to a complete message."""

    def __init__(self, more: tuple[bytes, ...] = (), queue_reply: bytes = b"250 ok 1 qp 2") -> None:
        self.more = more
        self.queue_reply = queue_reply
        self.ignored_events: frozenset[bytes] = frozenset()
        self.queue_starts = True
        self.asked: list[tuple[bytes, bytes]] = []  # senders and recipients about which the backend was asked
        self.unknown_before = 0  # unknown recipients of earlier sessions
        self.unknown_counted = 0
        self.refusals: dict[bytes, tuple[bytes, bytes]] = {}  # recipient: reply and reason
        self.failure: Exception | None = None
        self.replies: list[bytes] = []
        self.decisions: list[tuple[bytes, dict[bytes, bytes]]] = []
        self.queued: list[tuple[bytes, bytes]] = []
        self.discarded: list[bytes] = []
        self.credentials: list[tuple[bytes, bytes, bytes]] = []
        self.pauses = 0
        self.logged_before_pause = 0
        self.sender_lists: dict[bytes, frozenset[bytes]] = {}
        self.identity: tuple[bytes | None, bytes | None] | None = None
        self.identities: list[tuple[bytes | None, bytes | None]] = []
        self.rulings: list[Ruling] = []  # of the policy services, for one recipient after the other
        self.policy_questions: list[tuple[dict[bytes, bytes], bool]] = []
        self.outcomes: dict[bytes, list[Outcome]] = {}  # of the plugins, by section
        self.plugin_runs: list[tuple[bytes, bytes]] = []  # sections and addresses
        self.variables: dict[bytes, bytes | None] = {}  # that were set for plugins
        self.message: bytearray | None = None
        self.scram_users = False
        self.questions = 0  # how often scram_is_used, or server_mechanisms, was called
        self.mechanisms: tuple[bytes, ...] | None = (b"PLAIN", b"SCRAM-SHA-1", b"XOAUTH2")  # None: nobody can be asked
        self.passed_on: list[tuple[bytes, bytes | None]] = []  # the client's messages
        self.certificate = True
        self.handshakes = 0
        self.before_tls: list[bytes] = []  # the replies sent in plaintext
        self.clients: list[dict[bytes, bytes | None]] = []  # the attributes that a proxy has sent
        self.relaying_clients: dict[bytes | None, bytes] = {}  # address: RELAYCLIENT
        self.denied_clients: tuple[bytes, ...] = ()
        self.allowance = 1_000_000  # recipients that may still be relayed
        self.attempt_refusals: list[tuple[bytes, dict[bytes, bytes]]] = []
        self.failures: list[bytes] = []
        self.relayed: list[tuple[bytes | None, int]] = []
        self.changes: dict[str, object] = {}  # of the settings for all clients

    def reply(self, line: bytes) -> None:
        self.replies.append(line)

    def date(self) -> bytes:
        return b"24 Nov 2004 01:02:03 -0000"

    def is_own_address(self, octets: bytes) -> bool:
        if self.failure:
            raise self.failure
        return octets == LOCAL

    def in_morercpthosts(self, key: bytes) -> bool:
        if self.failure:
            raise self.failure
        return key in self.more

    def unknown_recipients(self) -> int:
        return self.unknown_before

    def count_unknown(self) -> bool:
        self.unknown_counted += 1
        return True

    def recipient_refusal(self, sender: bytes, recipient: bytes, helo: bytes) -> tuple[bytes, bytes] | None:
        if self.failure:
            raise self.failure
        self.asked.append((sender, recipient))
        return self.refusals.get(recipient)

    def consult(self, question: dict[bytes, bytes], may_relay: bool) -> Ruling:
        self.policy_questions.append((question, may_relay))
        return self.rulings.pop(0) if self.rulings else Ruling()

    def take_relayed(self, user: bytes | None, count: int) -> tuple[int, tuple[bytes, dict[bytes, bytes]] | None]:
        self.relayed.append((user, count))
        granted = min(count, self.allowance)
        self.allowance -= granted
        return granted, (replies.RELAY_LIMIT, {b"reason": b"relaylimit"}) if granted < count else None

    def set_plugin_variables(self, variables: dict[bytes, bytes | None]) -> None:
        self.variables.update(variables)

    def run_plugins(self, section: bytes, variable: bytes, address: bytes) -> Outcome:
        self.plugin_runs.append((section, address))
        remaining = self.outcomes.get(section)
        return remaining.pop(0) if remaining else Outcome(address)

    def open_queue(self) -> bool:
        assert self.message is None
        self.message = bytearray() if self.queue_starts else None
        return self.queue_starts

    def write_message(self, data: bytes) -> None:
        assert self.message is not None
        self.message += data

    def close_queue(self, envelope: bytes | None) -> bytes:
        assert self.message is not None
        message, self.message = bytes(self.message), None
        if envelope is None:
            self.discarded.append(message)
            return b"451 qq read error (#4.3.0)"
        self.queued.append((message, envelope))
        return self.queue_reply

    def abandon_queue(self) -> None:
        self.close_queue(None)

    def challenge(self) -> bytes:
        return b"<1.2@mx>"

    def scram_is_used(self) -> bool:
        self.questions += 1
        return self.scram_users

    def scram(self) -> "EchoScram":
        return EchoScram()

    def server_mechanisms(self) -> tuple[bytes, ...] | None:
        self.questions += 1
        return self.mechanisms

    def server_trouble(self) -> bytes:
        return b"socket:closed"

    def pass_on(self, mechanism: bytes) -> "EchoServer":
        return EchoServer(self, mechanism)

    def login_refusal(self, credentials: Credentials) -> tuple[bytes, bytes] | None:
        self.credentials.append((credentials.user, credentials.proof, credentials.challenge))
        return None if credentials.proof == b"secret" else (replies.AUTH_FAILED, b"password")

    def attempt_refusal(self) -> tuple[bytes, dict[bytes, bytes]] | None:
        return self.attempt_refusals.pop(0) if self.attempt_refusals else None

    def count_failure(self, reason: bytes) -> None:
        self.failures.append(reason)

    def pause(self) -> None:
        self.pauses += 1
        self.logged_before_pause = len(self.decisions)

    def senders(self, user: bytes) -> frozenset[bytes] | None:
        if self.failure:
            raise self.failure
        return self.sender_lists.get(user)

    def set_identity(self, relayclient: bytes | None, remoteinfo: bytes | None) -> None:
        self.identity = (relayclient, remoteinfo)
        self.identities.append(self.identity)

    def canonical_address(self, text: bytes) -> bytes | None:
        return canonical_address(text)

    def become_client(self, attributes: dict[bytes, bytes | None]) -> Settings | None:
        if self.failure:
            raise self.failure
        self.clients.append(dict(attributes))
        address = attributes.get(b"ADDR")
        if address in self.denied_clients:
            return None
        client: dict[str, object] = {
            "remoteip": address or b"unknown",
            "remotehost": attributes.get(b"NAME") or b"unknown",
            "relayclient": self.relaying_clients.get(address),
            "xclient": () if b"ADDR" in attributes else self.changes["xclient"],
        }
        return settings(**{**self.changes, **client})

    def prepare_tls(self) -> bool:
        return self.certificate

    def start_tls(self) -> bytes:
        self.handshakes += 1
        self.before_tls, self.replies = self.replies, []
        return b"TLS_AES_256_GCM_SHA384"

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        self.decisions.append((event, facts))


class EchoServer:
    """A server that conducts an exchange: it asks for a password, which is `secret`."""

    def __init__(self, echo: Echo, mechanism: bytes) -> None:
        self.echo, self.mechanism = echo, mechanism
        self.user = b""

    def begin(self, initial: bytes | None) -> bytes | None:
        return b"Password:" if initial is None else self.step(initial)

    def step(self, response: bytes) -> bytes | None:
        self.echo.passed_on.append((self.mechanism, response))
        if response == b"more":
            return b"more?"
        if response != b"secret":
            raise sasl.LoginRefused(replies.AUTH_FAILED, b"password", b"joe")
        self.user = b"joe"
        return None

    def abandon(self) -> None:
        self.echo.passed_on.append((self.mechanism, None))


def settings(**changes: object) -> Settings:
    """Return settings with a greeting, two entries in rcpthosts, and these changes."""
    values = Settings()
    values.greeting = values.localiphost = b"mx"
    values.rcpthosts = frozenset({b"ok.test", b".wild.test"})
    for name, value in changes.items():
        assert hasattr(values, name)
        setattr(values, name, value)
    return values


def converse(data: bytes, size: int = 0, echo: Echo | None = None, **changes: object) -> tuple[Session, Echo]:
    """Return a session that was fed the data, whole or in pieces of `size`."""
    echo = echo or Echo()
    echo.changes = changes
    session = Session(settings(**changes), echo)
    session.greet()
    for start in range(0, len(data), size or len(data) or 1):
        session.feed(data[start : start + (size or len(data))])
    return session, echo


def feed(message: Message, data: bytes, size: int) -> bytes:
    """Feed a message in pieces until it ends. Return the text to store."""
    text = b""
    for start in range(0, len(data), size):
        text += message.feed(data[start : start + size])
        if message.ended or message.stray:
            message.rest += data[start + size :]
            break
    return text
