"""qmail-popup HOST CHECKER PROG...: reads user and password, then runs the checker, which runs PROG.

It neither verifies passwords nor accesses mail. With $POPAUTHSOCKET there is no checker: Dovecot decides
(saslogin.py). With $POP3S it terminates TLS for the rest of the chain, which needs no TLS. verbs.py has the commands.
"""

import os
import sys

# The C module that every interpreter has loaded already: `signal` imports enum, which would cost 5 ms for each session.
from _signal import SIG_DFL, SIGCHLD, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]
from time import time

from qmail_smtpd import control
from qmail_smtpd.net.wire import (
    COMMAND_BLOCK,
    Closed,
    TimedOut,
    TlsBroken,
    Wire,
    hang_up,
    is_out_of_descriptors,
    prepare_descriptors,
)
from qmail_smtpd.pop3 import replies
from qmail_smtpd.pop3.command import Commands, leading_number
from qmail_smtpd.pop3.login import run
from qmail_smtpd.pop3.verbs import VERBS, authorize_first
from qmail_smtpd.smtp.settings import Unreadable
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from qmail_smtpd.auth.exchange import Exchange

    Environ = dict[bytes, bytes]

PROGRAM = "qmail-popup"
TIMEOUT = 1200.0  # qmail-popup.c: seconds for one read or write
EXIT_CODE = 1  # qmail-popup.c: the exit code of every session
RANDOM_BYTES = 16


class Popup:
    """A client that has not logged in yet.

    `tries` is the number of login attempts left. `plaintext_allowed` says whether a password may come without TLS.
    """

    __slots__ = (
        "challenge",
        "commands",
        "environ",
        "exchange",
        "greeting",
        "over",
        "passed_on",
        "plaintext_allowed",
        "program",
        "sni",
        "tries",
        "user",
        "wire",
    )

    def __init__(self, wire: Wire, host: bytes, program: list[bytes], environ: "Environ", sni: bytes = b"") -> None:
        self.wire = wire
        self.program = program
        self.sni = sni  # the name that the client has asked for, if there are certificates for several names
        self.environ = environ
        self.challenge = challenge(host)
        self.greeting = host if environ.get(b"POPNOAPOP") or environ.get(b"POPAUTHSOCKET") else self.challenge
        self.exchange: Exchange | None = None  # the open one of AUTH: the next line is the client's response
        self.plaintext_allowed = wire.layer is not None or allows_plaintext(environ)
        self.tries = leading_number(environ.get(b"POPAUTHTRIES", b""))[0] or 1
        self.commands = Commands()
        self.user: bytes | None = None
        self.over = False
        self.passed_on = False  # whether the chain had the connection itself, and ended the session

    def reply(self, text: bytes) -> None:
        self.wire.write(text)

    def converse(self) -> None:
        """Send the greeting, then read and execute commands until the session is over or the client disconnects."""
        self.reply(b"+OK " + self.greeting + b"\r\n")
        while not self.over:
            self.wire.flush()
            # Read single bytes: those after the password are for the rest of the chain, which reads this descriptor.
            data = self.wire.read_once(TIMEOUT, 1 if self.wire.layer is None else COMMAND_BLOCK)
            if not data:
                return
            self.commands.add(data)
            while not self.over and self.take():
                pass

    def take(self) -> bool:
        """Execute the next command, or pass on the next response of AUTH. Return False if none has arrived."""
        if self.exchange is not None:
            from qmail_smtpd.pop3.saslogin import respond

            return respond(self, self.exchange)
        command = self.commands.next()
        if command:
            VERBS.get(command[0], authorize_first)(self, command[1])
        return command is not None

    def log_in(self, user: bytes, secret: bytes) -> None:
        """Run the checker, or ask Dovecot."""
        if self.environ.get(b"POPAUTHSOCKET"):
            from qmail_smtpd.pop3.saslogin import ask

            ask(self, user, secret)
            return
        fields = b"\0".join((user, secret, self.challenge, b""))
        self.wire.flush()
        self.conclude(user, run(self.program, self.environ, fields, self.wire, self.commands))

    def conclude(self, user: bytes, refusal: tuple[bytes, bytes] | None) -> None:
        """End a login. `refusal`: its reply and its reason, or None.

        The session is over if the login succeeded, if no try is left, and after any failure but a wrong password.
        """
        self.user = None
        self.tries -= 1
        self.over = refusal is None or refusal[0] != replies.AUTHORIZATION_FAILED or self.tries <= 0
        if refusal is not None:
            self.log(user, refusal[1])
            self.reply(refusal[0])
        self.passed_on = refusal is None and self.wire.layer is None

    def log(self, user: bytes, reason: bytes) -> None:
        """Log a failed login for the administrator and fail2ban."""
        facts = {b"result": b"no", b"reason": reason, b"user": user}
        report(self.environ, b"login", {**facts, b"sni": self.sni} if self.sni else facts)


def report(environ: "Environ", event: bytes, facts: dict[bytes, bytes]) -> None:
    """Log an event of a session for the administrator and fail2ban: one line, as text or as JSON."""
    from qmail_smtpd.log import connection_facts, json_line, line, wants_json

    as_json = wants_json(environ)
    first = connection_facts(environ, as_json)
    known = {b"event": event, **first, b"ip": environ.get(b"TCPREMOTEIP", b"unknown"), **facts}
    text = (json_line if as_json else line)(known, PROGRAM.encode())
    strerr.say(text.removesuffix(b"\n"))


def challenge(host: bytes) -> bytes:
    """Return an APOP challenge: a message-id, as RFC 1939 section 7 requires.

    An unpredictable number replaces the original's process id.
    """
    return b"<%d.%d@%b>" % (int.from_bytes(os.urandom(RANDOM_BYTES), "big"), time(), host)


def allows_plaintext(environ: "Environ") -> bool:
    """Whether a password may come without TLS.

    That is so if there is no certificate, if control/popcleartext exists, and for clients on this host.
    """
    home = control.home(environ)
    if not control.exists(b"servercert.pem", home) or is_loopback(environ.get(b"TCPREMOTEIP", b"")):
        return True
    try:
        return control.read(b"popcleartext", home) is not None
    except Unreadable:
        return False


def is_loopback(address: bytes) -> bool:
    """Whether the address, in tcpserver's notation, is a loopback address."""
    return address.startswith(b"127.") or address == b"::1"


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """Prepare TLS and Dovecot's logins in tcpserver's parent before it forks for a client, if this is preloaded."""
    if environ.get(b"POPAUTHSOCKET"):
        import qmail_smtpd.pop3.saslogin
    if environ.get(b"POP3S"):
        import qmail_smtpd.net.names
        import qmail_smtpd.pop3.tunnel  # noqa: F401
        from qmail_smtpd.net.certificate import prepare_context

        prepare_context(control.home(environ))


def main() -> "NoReturn":
    """Run the program. As in the original, the exit code of every session is 1.

    With $POP3S it is 100 for root, and 111 if TLS is unavailable.
    """
    prepare_descriptors()
    signal(SIGCHLD, SIG_DFL)  # if SIGCHLD stayed ignored, the checker's status would be lost
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` can be inherited, but posix_spawn rejects an empty name
    wire = Wire(TIMEOUT)
    try:
        sni = secure(wire, environ) if environ.get(b"POP3S") else b""
        passed_on = False
        try:
            passed_on = serve(wire, [os.fsencode(word) for word in sys.argv[1:]], environ, sni)
        except MemoryError:
            wire.write(replies.NO_MEMORY)
        except OSError as error:
            if not is_out_of_descriptors(error):
                raise
            strerr.say(PROGRAM, ": warning: out of descriptors")
            wire.write(replies.NO_DESCRIPTORS)
        wire.close()
        if not passed_on:
            hang_up()
    except TlsBroken as broken:
        report(environ, b"refused", {b"reason": b"tls:" + broken.why.replace(b" ", b"_")})
        hang_up()
    except (Closed, TimedOut):
        pass
    os._exit(EXIT_CODE)


def serve(wire: Wire, words: list[bytes], environ: "Environ", sni: bytes) -> bool:
    """Serve one session, or reply with the usage. Return whether a program had the connection. Raise wire's errors."""
    if len(words) < 2:
        wire.write(replies.USAGE)
        return False
    popup = Popup(wire, words[0], words[1:], environ, sni)
    popup.converse()
    return popup.passed_on


def secure(wire: Wire, environ: "Environ") -> bytes:
    """Start TLS from the first byte. Return the name that the client has asked for. Exit if TLS is unavailable.

    Root is refused, because this process decrypts the client's data until the session ends.
    """
    if 0 in (os.getuid(), os.geteuid()):
        strerr.die(strerr.PERMANENT, PROGRAM, ": fatal: POP3S is not for root: start tcpserver with -u")
    from qmail_smtpd.net import certificate, names

    home = control.home(environ)
    try:
        context = certificate.context(home)
    except certificate.TlsUnavailable as trouble:
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: no TLS: ", trouble.why)
    from qmail_smtpd.net import tls

    certificates = names.find(home)
    layer = tls.accept(wire, context, certificates.context if certificates else None)
    environ[b"TLS_PROTOCOL"], environ[b"TLS_CIPHER"] = layer.protocol, layer.cipher
    if certificates is None:
        return b""
    if certificates.trouble:
        strerr.say(PROGRAM, ": warning: no certificate for ", certificates.name, ": ", certificates.trouble)
    return certificates.name
