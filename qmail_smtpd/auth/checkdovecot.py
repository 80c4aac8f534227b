"""checkdovecot: a checker that asks Dovecot, for programs with checkpassword's interface: qmail-popup, qmail-smtpd."""

from qmail_smtpd.auth import dovecot
from qmail_smtpd.auth.checker import Credentials, digest_and_challenge, run
from qmail_smtpd.auth.errors import CannotVerify, UnsuitableScheme
from qmail_smtpd.auth.exchange import Exchange, offered, parameters
from qmail_smtpd.control import first_line, home, read
from qmail_smtpd.smtp.replies import AUTH_NOT_CHECKED
from qmail_smtpd.smtp.sasl import LoginRefused
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

PLAIN = b"PLAIN"
SMTP, POP3, IMAP = b"smtp", b"pop3", b"imap"
SERVICES = {b"110": POP3, b"995": POP3, b"143": IMAP, b"993": IMAP}  # by the server's port; SMTP for all others


def main() -> "NoReturn":
    """Run the program."""
    run("checkdovecot", "checkdovecot prog", check_credentials)


def check_credentials(given: Credentials, environ: dict[bytes, bytes]) -> bool:
    """Whether Dovecot accepts the password; if so, set $USER for PROG. Raises CannotVerify, UnsuitableScheme."""
    path = socket_path(environ)
    try:
        user = log_in(path, given, environ)
    except LoginRefused as refusal:
        if refusal.reply == AUTH_NOT_CHECKED:
            raise CannotVerify(path + b": " + refusal.reason) from refusal
        if digest_and_challenge(given):
            raise UnsuitableScheme from refusal
        return False
    except dovecot.Trouble as trouble:
        raise CannotVerify(path + b": " + trouble.why) from trouble
    finally:
        dovecot.drop()  # PROG may be called in this process
    environ[b"USER"] = user
    environ.pop(b"HOME", None)  # it is the home of the account that started the server
    return True


def log_in(path: bytes, given: Credentials, environ: dict[bytes, bytes]) -> bytes:
    """Return the user that Dovecot names. Raises LoginRefused and Trouble."""
    if PLAIN not in offered(path, None):
        raise dovecot.Trouble(b"no_PLAIN")
    exchange = Exchange(path, PLAIN, parameters(service(environ), environ), None)
    if exchange.begin(b"\0" + given.login + b"\0" + given.second) is not None:
        dovecot.refuse_nonsense()
    return exchange.user


def socket_path(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return the path of Dovecot's socket. A relative one is resolved in the qmail home. Raises CannotVerify."""
    path = environ.get(b"SMTPAUTHSOCKET")
    if not path:
        try:
            path = first_line(read(b"authsocket", home(environ)) or b"")
        except Unreadable as error:
            raise CannotVerify(error.why) from error
    if not path:
        raise CannotVerify(b"neither SMTPAUTHSOCKET nor control/authsocket names Dovecot's socket")
    return path if path.startswith(b"/") else home(environ) + b"/" + path


def service(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return what Dovecot calls the service that the client uses."""
    return environ.get(b"CHECKDOVECOT_SERVICE") or SERVICES.get(environ.get(b"TCPLOCALPORT", b""), SMTP)
