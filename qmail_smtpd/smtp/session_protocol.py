"""What the commands (verbs.py, login.py) and the message's modules use of the session (session.py), as a type."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from qmail_smtpd.smtp.backend import Backend, Refusal
    from qmail_smtpd.smtp.chunk import Chunk, ChunkedMessage
    from qmail_smtpd.smtp.envelope import Envelope
    from qmail_smtpd.smtp.message import Message
    from qmail_smtpd.smtp.settings import Settings
    from qmail_smtpd.smtp.xclient import Attributes

    Consumer = Callable[[Any, bytes, int], int]

    class HooksProtocol(Protocol):
        """Where the commands ask the plugins. hooks.py describes the attributes and the methods."""

        headers: bytes
        recipients: int

        def clear(self) -> None: ...
        def connect(self, session: "SessionProtocol") -> bool: ...
        def helo(self, session: "SessionProtocol", name: bytes) -> bool: ...
        def mail(self, session: "SessionProtocol", sender: bytes) -> bytes | None: ...
        def rcpt(self, session: "SessionProtocol", recipient: bytes) -> bytes | None: ...
        def data(self, session: "SessionProtocol") -> bytes | None: ...
        def auth(self, session: "SessionProtocol", user: bytes, mechanism: bytes) -> bool: ...
        def start_tls(self, session: "SessionProtocol") -> None: ...

    class SessionProtocol(Protocol):
        """One client's session, as the commands see it. session.py describes the attributes."""

        settings: Settings
        backend: Backend
        helo: bytes | None
        hello: bytes | None
        protocol: bytes
        transactions: int
        envelope: Envelope
        size_offered: bool
        cipher: bytes | None
        message: Message | ChunkedMessage | None
        chunk: Chunk | None
        consume: Consumer
        exchange: Callable[[bytes], None] | None
        user: bytes | None
        mechanism: bytes
        senders: frozenset[bytes] | None
        failed_logins: int
        unknown_recipients: int
        asked_for_unknown: bool
        saw_secret: bool
        waiting: list[tuple[bytes, Refusal | None, bool]]
        counts: dict[bytes, int]
        hooks: HooksProtocol | None

        def answer(self, reply: bytes) -> None:
            """Send the reply to a command, and count it if it is an error."""

        def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
            """Log a decision."""

        def finish(self, status: int, reply: bytes, reason: bytes) -> None:
            """End the session with this exit status."""

        def discard_transaction(self) -> None:
            """Forget sender and recipients, and the chunks of a message that is not complete."""

        def await_command(self) -> None:
            """Treat the following bytes as commands."""

        def settle_offer(self) -> None:
            """Decide what AUTH offers."""

        def may_log_in(self) -> bool:
            """Whether AUTH is allowed at this point."""

        def log_in(self, user: bytes, mechanism: bytes) -> None:
            """Treat the client as this user from now on."""

        def start_tls(self) -> None:
            """Switch to TLS."""

        def become_client(self, attributes: Attributes) -> None:
            """Treat the client as the one that its proxy speaks for."""
