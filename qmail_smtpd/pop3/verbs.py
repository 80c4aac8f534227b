"""The commands of a client of qmail-popup that has not logged in. `VERBS` is the table."""

from qmail_smtpd.pop3 import replies
from qmail_smtpd.pop3.command import TOO_LONG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.pop3.popup_protocol import PopupProtocol as Popup


def user(popup: "Popup", argument: bytes) -> None:
    if not popup.plaintext_allowed:
        popup.reply(replies.NO_PLAINTEXT)
    elif not argument:
        popup.reply(replies.SYNTAX)
    else:
        popup.user = argument
        popup.reply(replies.OK)


def password(popup: "Popup", argument: bytes) -> None:
    if not popup.plaintext_allowed:
        popup.reply(replies.NO_PLAINTEXT)
    elif popup.user is None:
        popup.reply(replies.USER_FIRST)
    elif not argument:
        popup.reply(replies.SYNTAX)
    else:
        popup.log_in(popup.user, argument)


def apop(popup: "Popup", argument: bytes) -> None:
    """Log in by digest. It reveals no password, so it needs no TLS, but it needs the challenge in the greeting."""
    name, space, digest = argument.partition(b" ")
    if popup.greeting != popup.challenge:
        popup.reply(replies.AUTHORIZE_FIRST)
    elif space:
        popup.log_in(name, digest)
    else:
        popup.reply(replies.SYNTAX)


def noop(popup: "Popup", _: bytes) -> None:
    popup.reply(replies.OK)


def quit_session(popup: "Popup", _: bytes) -> None:
    popup.reply(replies.OK)
    popup.over = True


def capa(popup: "Popup", _: bytes) -> None:
    own = [b"USER"] if popup.plaintext_allowed else []
    if popup.environ.get(b"POPAUTHSOCKET"):
        from qmail_smtpd.pop3.saslogin import capabilities

        own = capabilities(popup)
    popup.reply(replies.capabilities(*own))


def auth(popup: "Popup", argument: bytes) -> None:
    """Log in by a mechanism of SASL (RFC 5034), if Dovecot conducts the exchange."""
    if not popup.environ.get(b"POPAUTHSOCKET"):
        popup.reply(replies.AUTHORIZE_FIRST)
        return
    from qmail_smtpd.pop3.saslogin import begin

    begin(popup, argument)


def line_too_long(popup: "Popup", _: bytes) -> None:
    popup.reply(replies.LINE_TOO_LONG)


def authorize_first(popup: "Popup", _: bytes) -> None:
    popup.reply(replies.AUTHORIZE_FIRST)


VERBS: "dict[bytes, Callable[[Popup, bytes], None]]" = {
    b"user": user,
    b"pass": password,
    b"apop": apop,
    b"auth": auth,
    b"quit": quit_session,
    b"noop": noop,
    b"capa": capa,
    TOO_LONG: line_too_long,
}
