"""rcptcheck-postfix: a recipient exists if the server behind this one accepts it, asked by a callout (callout.py).

Answers are remembered for minutes. No answer is a temporary failure.
"""

from qmail_smtpd import control
from qmail_smtpd.net.kept import key_of
from qmail_smtpd.recipients.answers import Answers, Unusable
from qmail_smtpd.recipients.callout import Server, accepts
from qmail_smtpd.recipients.program import Undecided, answer, run
from qmail_smtpd.smtp.mailbox import mailbox, utf8_mailbox
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

PROGRAM = "rcptcheck-postfix"
ACCEPTED_SECONDS, REFUSED_SECONDS = 600, 120
MOST_SECONDS = 86400
NAME_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-"
UNNAMED = b"localhost"


def main() -> "NoReturn":
    """Run the program."""
    run(PROGRAM, exists)


def check_recipient(environ: "Mapping[bytes, bytes]", deadline: float | None) -> int:
    """Return the exit code of the program, called in the process of a session."""
    return answer(PROGRAM, exists, environ, deadline)


def exists(recipient: bytes, environ: "Mapping[bytes, bytes]", deadline: float | None) -> bool:
    """Whether the server accepts the recipient, or has done so minutes ago. Raises Undecided."""
    text = environ.get(b"RCPTCHECK_SERVER")
    if text is None:
        raise Undecided("$RCPTCHECK_SERVER is not set")
    server = Server(text)
    answers = Answers(
        environ.get(b"RCPTCHECK_CACHE"),
        text + home_of(server),
        seconds(environ, b"RCPTCHECK_ACCEPTED", ACCEPTED_SECONDS),
        seconds(environ, b"RCPTCHECK_REFUSED", REFUSED_SECONDS),
    )
    address = mailbox(recipient) if recipient.isascii() else beyond_ascii(recipient, environ)
    if address is None:  # it cannot be given to any server
        return False
    known = find(answers, address)
    if known is None:
        known = accepts(server, own_name(environ), address, deadline)
        remember(answers, address, known)
    return known


def home_of(server: Server) -> bytes:
    """Return what distinguishes a relative path from the same path in another home; empty for other addresses."""
    if not isinstance(server.address, bytes) or server.address.startswith(b"/"):
        return b""
    try:
        return b" " + key_of(server.address)
    except OSError as error:
        raise Undecided(f"unable to find the current directory: {strerr.reason(error)}") from error


def beyond_ascii(recipient: bytes, environ: "Mapping[bytes, bytes]") -> bytes | None:
    """Return the form for the question to the server, None if SMTPUTF8 is not offered. Raises Undecided."""
    if not control.exists(b"smtputf8", control.home(environ)):
        return None
    address = utf8_mailbox(recipient)
    if address is None:
        raise Undecided("the recipient has characters that mail servers read in different ways")
    return address


def seconds(environ: "Mapping[bytes, bytes]", name: bytes, default: int) -> int:
    """Return a number of seconds from the environment. Raises Undecided."""
    text = environ.get(name, b"%d" % default)
    if not text.isdigit() or len(text) > len(b"%d" % MOST_SECONDS) or int(text) > MOST_SECONDS:
        raise Undecided(f"${name.decode()} must be a number of seconds up to {MOST_SECONDS}")
    return int(text)


def own_name(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return this host's name for HELO: control/me, if it has the form of a name."""
    from qmail_smtpd.smtp.settings import Unreadable

    try:
        name = (control.read(b"me", control.home(environ)) or b"").partition(b"\n")[0].rstrip(b" \t\r")
    except Unreadable:
        return UNNAMED
    return UNNAMED if not name or name.translate(None, NAME_BYTES) else name


def find(answers: Answers, address: bytes) -> bool | None:
    """Return the remembered answer, None if there is none. Warn on descriptor 2 if the file cannot be used."""
    try:
        return answers.find(address)
    except Unusable as why:
        strerr.say(PROGRAM, ": warning: ", str(why))
        return None


def remember(answers: Answers, address: bytes, known: bool) -> None:
    """Remember the answer, if the file can be used."""
    try:
        answers.remember(address, known)
    except Unusable:
        pass  # `find` has warned
