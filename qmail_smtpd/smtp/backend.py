"""What a session needs from the outside world, as a type. ../backend.py implements it, and tests/kit/echo.py."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from qmail_smtpd.smtp.outcome import Outcome
    from qmail_smtpd.smtp.ruling import Ruling
    from qmail_smtpd.smtp.sasl import Credentials, PassedOn, ScramServer
    from qmail_smtpd.smtp.settings import Settings
    from qmail_smtpd.smtp.xclient import Attributes

    Refusal = tuple[bytes, dict[bytes, bytes]]

    class Backend(Protocol):
        """What one session needs from outside."""

        @property
        def ignored_events(self) -> frozenset[bytes]:
            """Events that the log level leaves out: `log` need not be called for them."""

        def reply(self, line: bytes) -> None:
            """Send one line to the client; the line end is added."""

        def date(self) -> bytes:
            """Return the current time in the format of a header."""

        def is_own_address(self, octets: bytes) -> bool:
            """Whether an address, of four or sixteen octets, belongs to this host. May raise settings.Unreadable."""

        def in_morercpthosts(self, key: bytes) -> bool:
            """Whether morercpthosts.cdb has the key. May raise settings.Unreadable."""

        def unknown_recipients(self) -> int:
            """Return how many unknown recipients the client's address has named lately, in earlier sessions."""

        def count_unknown(self) -> bool:
            """Count an unknown recipient of the client's address. Return False if that is impossible."""

        def recipient_refusal(self, sender: bytes, recipient: bytes, helo: bytes) -> tuple[bytes, bytes] | None:
            """Return None if the recipient may exist, else the reply and the reason for the log.

            `helo`: the client's name for itself; before HELO and EHLO `remotehost`.
            May raise settings.Unreadable.
            """

        def consult(self, question: dict[bytes, bytes], may_relay: bool) -> Ruling:
            """Ask the policy services about a recipient that would be accepted.

            `question`: attributes of the protocol. Their `instance` is the number of the transaction in the session.
            """

        def take_relayed(self, user: bytes | None, count: int) -> tuple[int, Refusal | None]:
            """Count recipients that would be relayed for a user, or for the client without a login (None).

            Return how many of them may be relayed. The others get the refusal: the reply, and facts for the log.
            """

        def set_plugin_variables(self, variables: dict[bytes, bytes | None]) -> None:
            """Set variables for plugins and for the queue program; None: unset."""

        def run_plugins(self, section: bytes, variable: bytes, address: bytes) -> Outcome:
            """Run the plugins of a section. `variable` has the address; empty for a command without one."""

        def open_queue(self) -> bool:
            """Begin a message. Return False if no queue process can be started."""

        def write_message(self, data: bytes) -> None:
            """Store a part of the message."""

        def close_queue(self, envelope: bytes | None) -> bytes:
            """End the message, or discard it if `envelope` is None. Return the reply: 2xx if the message is queued."""

        def abandon_queue(self) -> None:
            """Discard the message without waiting for the queue program."""

        def challenge(self) -> bytes:
            """Return a challenge for CRAM-MD5: unique and unpredictable."""

        def scram_is_used(self) -> bool:
            """Whether the users file has a password that SCRAM-SHA-256 can use. False if it cannot be read."""

        def scram(self) -> "ScramServer":
            """Return the server's side of a new SCRAM exchange."""

        def server_mechanisms(self) -> tuple[bytes, ...] | None:
            """Return the mechanisms of the server that conducts the exchanges, None if it cannot be asked."""

        def server_trouble(self) -> bytes:
            """Return why that server could not be asked, one word for the log."""

        def pass_on(self, mechanism: bytes) -> "PassedOn":
            """Return a new exchange that that server conducts."""

        def login_refusal(self, credentials: "Credentials") -> tuple[bytes, bytes] | None:
            """Return None if the credentials are right, else the reply and the reason for the log."""

        def attempt_refusal(self) -> Refusal | None:
            """Return None if the client may try a login, else the reply and facts for the log.

            A reply 421 ends the session. The client has had too many failed logins, or it is not known how many.
            """

        def count_failure(self, reason: bytes) -> None:
            """Count a failed login of the client, for all sessions. `reason`: for the log."""

        def pause(self) -> None:
            """Delay the reply to a failed login."""

        def senders(self, user: bytes) -> frozenset[bytes] | None:
            """Return the user's entries in authsenders, None without that file. May raise settings.Unreadable."""

        def set_identity(self, relayclient: bytes | None, remoteinfo: bytes | None) -> None:
            """Set RELAYCLIENT and TCPREMOTEINFO, which tell the queue program who the client is; None: unset."""

        def canonical_address(self, text: bytes) -> bytes | None:
            """Return the canonical text of an IPv4 or IPv6 address, None for other texts."""

        def become_client(self, attributes: Attributes) -> Settings | None:
            """Return the settings for the client that a proxy speaks for, None if the rules deny it.

            `attributes`: of all XCLIENT commands of the session. May raise settings.Unreadable.
            """

        def prepare_tls(self) -> bool:
            """Whether TLS is available. If it is not, the backend logs why."""

        def start_tls(self) -> bytes:
            """Send the pending replies in clear, then switch to TLS. Return the cipher's name."""

        def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
            """Log a decision."""
