"""What a session may ask of the world, as a type. Nothing here runs: main has the real one, the tests have an echo."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from qmail_smtpd.smtp.sasl import Credentials, ScramServer

    class Backend(Protocol):
        """The world of one session."""

        @property
        def unheard(self) -> frozenset[bytes]:
            """Events that `log` need not be told."""

        def reply(self, line: bytes) -> None:
            """Send one line to the client; the line end is added."""

        def date(self) -> bytes:
            """Now, as a header has it."""

        def is_own_address(self, octets: bytes) -> bool:
            """Whether an IPv4 address is one of this host's. May raise policy's Unreadable."""

        def in_morercpthosts(self, key: bytes) -> bool:
            """Whether morercpthosts.cdb has the key. May raise policy's Unreadable."""

        def open_queue(self) -> bool:
            """Begin a message. False when there is no process to be had for it."""

        def write_message(self, data: bytes) -> None:
            """Store a part of the message."""

        def close_queue(self, envelope: bytes | None) -> bytes:
            """End the message, None to give it up. Returns the reply: the message is queued if that begins with 2."""

        def abandon_queue(self) -> None:
            """Leave a message without its envelope. Nobody waits for what becomes of it."""

        def challenge(self) -> bytes:
            """A challenge for CRAM-MD5: unique, and not to be guessed."""

        def scram(self) -> "ScramServer":
            """The server's half of one SCRAM exchange."""

        def why_not_login(self, credentials: "Credentials") -> tuple[bytes, bytes] | None:
            """None if they are right; else the reply, and a word for the log."""

        def pause(self) -> None:
            """Let somebody wait whose login has failed."""

        def senders(self, user: bytes) -> frozenset[bytes] | None:
            """The user's entries in authsenders; None: there is no such file. May raise policy's Unreadable."""

        def identify(self, relayclient: bytes | None, remoteinfo: bytes | None) -> None:
            """From now on these two variables tell the queue program who the client is; None: unset."""

        def prepare_tls(self) -> bool:
            """Whether there can be TLS. Why not, the backend tells."""

        def start_tls(self) -> bytes:
            """Send all replies so far in clear, and everything from here on under TLS. Returns the cipher's name."""

        def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
            """Note a decision."""
