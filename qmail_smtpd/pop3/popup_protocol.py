"""What the commands (verbs.py) and the logins by Dovecot (saslogin.py) use of the session (popup.py), as a type."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from qmail_smtpd.auth.exchange import Exchange
    from qmail_smtpd.net.wire import Wire
    from qmail_smtpd.pop3.command import Commands

    class PopupProtocol(Protocol):
        """A client that has not logged in yet. popup.py describes the attributes and the methods."""

        challenge: bytes
        commands: Commands
        environ: dict[bytes, bytes]
        exchange: Exchange | None
        greeting: bytes
        over: bool
        plaintext_allowed: bool
        program: list[bytes]
        sni: bytes
        user: bytes | None
        wire: Wire

        def reply(self, text: bytes) -> None: ...
        def log_in(self, user: bytes, secret: bytes) -> None: ...
        def conclude(self, user: bytes, refusal: tuple[bytes, bytes] | None) -> None: ...
