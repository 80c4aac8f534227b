"""Logins of qmail-popup that Dovecot decides ($POPAUTHSOCKET): USER and PASS, and AUTH with its mechanisms (RFC 5034).

The functions get the session, reply, and run PROG for a user that Dovecot has accepted.
"""

from binascii import Error, a2b_base64, b2a_base64

from qmail_smtpd import control
from qmail_smtpd.auth import dovecot
from qmail_smtpd.auth.exchange import Exchange, offered, parameters
from qmail_smtpd.pop3 import replies
from qmail_smtpd.pop3.command import TOO_LONG
from qmail_smtpd.pop3.login import run
from qmail_smtpd.smtp.replies import AUTH_NOT_CHECKED
from qmail_smtpd.smtp.sasl import CANCEL, EMPTY, LoginRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.pop3.popup_protocol import PopupProtocol as Popup

PLAIN = b"PLAIN"
LONGEST_RESPONSE = 12288  # bytes of a line with its end: RFC 5034 section 4


def mechanisms(popup: "Popup") -> tuple[bytes, ...]:
    """Return the mechanisms that this client may use now. Raises dovecot.Trouble."""
    return offered(socket_path(popup), None, popup.plaintext_allowed)


def socket_path(popup: "Popup") -> bytes:
    """Return the path of Dovecot's socket. A relative one is resolved in the qmail home."""
    path = popup.environ[b"POPAUTHSOCKET"]
    return path if path.startswith(b"/") else control.home(popup.environ) + b"/" + path


def capabilities(popup: "Popup") -> list[bytes]:
    """Return the capabilities that concern the login: none if Dovecot cannot be asked."""
    try:
        names = mechanisms(popup)
    except dovecot.Trouble:
        return []
    user = [b"USER"] if PLAIN in names else []
    return [*user, b"SASL " + b" ".join(names)] if names else []


def ask(popup: "Popup", user: bytes, password: bytes) -> None:
    """Log in by USER and PASS, which is the mechanism PLAIN for Dovecot."""
    try:
        if PLAIN not in mechanisms(popup):
            raise dovecot.Trouble(b"no_PLAIN")
    except dovecot.Trouble as trouble:
        popup.conclude(user, (replies.NOT_CHECKED, trouble.why))
        return
    exchange = new_exchange(popup, PLAIN)
    if go_on(popup, exchange, b"\0" + user + b"\0" + password, user):
        exchange.abandon()
        popup.conclude(user, (replies.NOT_CHECKED, b"socket:nonsense"))  # PLAIN has no challenge


def begin(popup: "Popup", argument: bytes) -> None:
    """Execute AUTH: list the mechanisms, or begin an exchange."""
    name, space, text = argument.partition(b" ")
    name = name.upper()
    try:
        names = mechanisms(popup)
        others = () if name in names else offered(socket_path(popup), None)
    except dovecot.Trouble as trouble:
        popup.conclude(b"", (replies.NOT_CHECKED, trouble.why))
        return
    if not name:
        popup.reply(replies.mechanisms(*names))
    elif name not in names:
        popup.reply(replies.NO_PLAINTEXT if name in others else replies.NO_MECHANISM)
    elif (initial := decoded(text)) is None:
        popup.reply(replies.SYNTAX)
    else:
        exchange = new_exchange(popup, name)
        if challenge := go_on(popup, exchange, initial if space else None):
            popup.exchange = exchange
            popup.reply(challenge)


def respond(popup: "Popup", exchange: Exchange) -> bool:
    """Pass the client's next line on to Dovecot. Return False if it has not arrived."""
    line = popup.commands.next_line(LONGEST_RESPONSE)
    if line is None:
        return False
    popup.exchange = None
    response = None if line == TOO_LONG else decoded(line.removesuffix(b"\r"))
    if response is None:
        exchange.abandon()
        popup.reply(replies.CANCELLED if line.rstrip(b"\r") == CANCEL else replies.SYNTAX)
    elif challenge := go_on(popup, exchange, response, first=False):
        popup.exchange = exchange
        popup.reply(challenge)
    return True


def go_on(
    popup: "Popup", exchange: Exchange, message: bytes | None, user: bytes = b"", first: bool = True
) -> bytes | None:
    """Send the client's message to Dovecot. Return the line of a challenge, or None if the login has ended.

    `user`: who is logged if Dovecot names nobody.
    """
    try:
        challenge = exchange.begin(message) if first else exchange.step(message or b"")
    except LoginRefused as refusal:
        reply = replies.NOT_CHECKED if refusal.reply == AUTH_NOT_CHECKED else replies.AUTHORIZATION_FAILED
        popup.conclude(refusal.user or user, (reply, refusal.reason))
        return None
    if challenge is not None:
        return b"+ " + b2a_base64(challenge, newline=False) + b"\r\n"
    dovecot.drop()  # PROG may be called in this process's fork
    popup.wire.flush()
    environ = {**popup.environ, b"USER": exchange.user}
    environ.pop(b"HOME", None)  # it is the home of the account that started the server
    popup.conclude(exchange.user, run(popup.program, environ, None, popup.wire, popup.commands))
    return None


def new_exchange(popup: "Popup", name: bytes) -> Exchange:
    """Return an exchange that has not begun."""
    return Exchange(socket_path(popup), name, parameters(b"pop3", popup.environ, popup.sni), None)


def decoded(text: bytes) -> bytes | None:
    """Return the client's message without base64, or None if it is not valid base64."""
    try:
        return b"" if text == EMPTY else a2b_base64(text, strict_mode=True)
    except Error:
        return None
