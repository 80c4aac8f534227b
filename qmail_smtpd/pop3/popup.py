"""qmail-popup HOST CHECKER PROG...: asks for user and password, and runs the checker, which becomes who has the mail.

Knows no passwords and no mail. With $POP3S all is under TLS, the rest of the chain included, which knows nothing of it.
"""

import os
import sys

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a session.
from _signal import SIG_DFL, SIGCHLD, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]
from time import time

from qmail_smtpd import control
from qmail_smtpd.net.wire import COMMAND_BLOCK, Broken, Closed, TimedOut, Wire, discard_unheard, settle_descriptors
from qmail_smtpd.pop3 import replies
from qmail_smtpd.pop3.command import TOO_LONG, Commands, leading_number
from qmail_smtpd.pop3.login import run
from qmail_smtpd.smtp.policy import Unreadable
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    Environ = dict[bytes, bytes]

PROGRAM = "qmail-popup"
TIMEOUT = 1200.0  # qmail-popup.c: seconds for one read or write
ENDED = 1  # qmail-popup.c: its exit code, whatever came of the session
RANDOM_BYTES = 16


class Popup:
    """One client that has not logged in yet. `tries`: how often it may still be wrong; `clear`: if passwords may be."""

    __slots__ = ("challenge", "clear", "commands", "environ", "greeting", "over", "program", "tries", "user", "wire")

    def __init__(self, wire: Wire, host: bytes, program: list[bytes], environ: "Environ") -> None:
        self.wire = wire
        self.program = program
        self.environ = environ
        self.challenge = challenge(host)
        self.greeting = host if environ.get(b"POPNOAPOP") else self.challenge
        self.clear = wire.layer is not None or may_be_clear(environ)
        self.tries = leading_number(environ.get(b"POPAUTHTRIES", b""))[0] or 1
        self.commands = Commands()
        self.user: bytes | None = None
        self.over = False

    def say(self, reply: bytes) -> None:
        self.wire.write(reply)

    def converse(self) -> None:
        """Greet, read and obey until the session is over, or the client gone."""
        self.say(b"+OK " + self.greeting + b"\r\n")
        while not self.over:
            self.wire.flush()
            # What the client says behind its password is for the rest of the chain, which reads the same descriptor.
            data = self.wire.take(TIMEOUT, 1 if self.wire.layer is None else COMMAND_BLOCK)
            if not data:
                return
            self.commands.add(data)
            while not self.over and (command := self.commands.next()):
                VERBS.get(command[0], authorize_first)(self, command[1])

    def log_in(self, user: bytes, secret: bytes) -> None:
        """Run the checker. Over when that was the whole session, or the last try."""
        fields = b"\0".join((user, secret, self.challenge, b""))
        self.wire.flush()
        refusal = run(self.program, self.environ, fields, self.wire, self.commands)
        self.user = None
        self.tries -= 1
        self.over = refusal is None or refusal[0] != replies.WRONG or self.tries <= 0
        if refusal is not None:
            self.log(user, refusal[1])
            self.say(refusal[0])
            if self.over:
                self.hang_up()

    def hang_up(self) -> None:
        """End a session in which this program had the last word."""
        self.over = True
        self.wire.flush()
        discard_unheard()

    def log(self, user: bytes, reason: bytes) -> None:
        """Tell the administrator, and fail2ban, who did not come in."""
        from qmail_smtpd.log import escaped

        ip = escaped(self.environ.get(b"TCPREMOTEIP", b"unknown"))
        facts = b"pid=%d ip=%b result=no reason=%b user=%b" % (os.getpid(), ip, reason, escaped(user))
        strerr.say(PROGRAM, ": event=login ", facts)


def challenge(host: bytes) -> bytes:
    """A message id, as RFC 1939 section 7 wants it. In place of the original's pid it has a number nobody can guess."""
    return b"<%d.%d@%b>" % (int.from_bytes(os.urandom(RANDOM_BYTES), "big"), time(), host)


def may_be_clear(environ: "Environ") -> bool:
    """Whether a password may come without TLS: where there could be none, the host wants it, or the client is here."""
    home = control.home(environ)
    if not control.exists(b"servercert.pem", home) or is_loopback(environ.get(b"TCPREMOTEIP", b"")):
        return True
    try:
        return control.read(b"popcleartext", home) is not None
    except Unreadable:
        return False


def is_loopback(address: bytes) -> bool:
    """For an address as tcpserver writes it."""
    return address.startswith(b"127.") or address == b"::1"


def user(popup: Popup, argument: bytes) -> None:
    if not popup.clear:
        popup.say(replies.IN_CLEAR)
    elif not argument:
        popup.say(replies.SYNTAX)
    else:
        popup.user = argument
        popup.say(replies.OK)


def password(popup: Popup, argument: bytes) -> None:
    if not popup.clear:
        popup.say(replies.IN_CLEAR)
    elif popup.user is None:
        popup.say(replies.USER_FIRST)
    elif not argument:
        popup.say(replies.SYNTAX)
    else:
        popup.log_in(popup.user, argument)


def apop(popup: Popup, argument: bytes) -> None:
    """The digest says nothing to who listens, so it may always come, where there is a challenge to digest."""
    name, space, digest = argument.partition(b" ")
    if popup.greeting != popup.challenge:
        popup.say(replies.AUTHORIZE_FIRST)
    elif space:
        popup.log_in(name, digest)
    else:
        popup.say(replies.SYNTAX)


def noop(popup: Popup, _: bytes) -> None:
    popup.say(replies.OK)


def quit_session(popup: Popup, _: bytes) -> None:
    popup.say(replies.OK)
    popup.hang_up()


def capa(popup: Popup, _: bytes) -> None:
    popup.say(replies.capabilities(*([b"USER"] if popup.clear else [])))


def line_too_long(popup: Popup, _: bytes) -> None:
    popup.say(replies.LINE_TOO_LONG)


def authorize_first(popup: Popup, _: bytes) -> None:
    popup.say(replies.AUTHORIZE_FIRST)


VERBS: "dict[bytes, Callable[[Popup, bytes], None]]" = {
    b"user": user,
    b"pass": password,
    b"apop": apop,
    b"quit": quit_session,
    b"noop": noop,
    b"capa": capa,
    TOO_LONG: line_too_long,
}


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """What tcpserver's parent does before it forks for a client, where this program is preloaded."""
    if environ.get(b"POP3S"):
        import qmail_smtpd.pop3.tunnel  # noqa: F401
        from qmail_smtpd.net.certificate import keep

        keep(control.home(environ))


def main() -> "NoReturn":
    """The program. Ends with 1 whatever comes of the session, as the original; 100 and 111 where TLS cannot be."""
    settle_descriptors()
    signal(SIGCHLD, SIG_DFL)  # inherited as ignored, it would lose the checker's verdict
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` is legal to inherit, and nothing that posix_spawn would hand on
    wire = Wire(TIMEOUT)
    try:
        if environ.get(b"POP3S"):
            secure(wire, environ)
        try:
            serve(wire, [os.fsencode(word) for word in sys.argv[1:]], environ)
        except MemoryError:
            wire.write(replies.NO_MEMORY)
        wire.close()
    except Broken as broken:
        ip, why = environ.get(b"TCPREMOTEIP", b"unknown"), broken.why.replace(b" ", b"_")
        strerr.say(PROGRAM, b": event=refused pid=%d ip=%b reason=tls:" % (os.getpid(), ip), why)
    except (Closed, TimedOut):
        pass
    os._exit(ENDED)


def serve(wire: Wire, words: list[bytes], environ: "Environ") -> None:
    """One session, or why there is none. Raises wire's errors."""
    if len(words) < 2:
        wire.write(replies.USAGE)
    else:
        Popup(wire, words[0], words[1:], environ).converse()


def secure(wire: Wire, environ: "Environ") -> None:
    """TLS from the first byte. Ends the process where there is none, and as root: who decrypts stays till the end."""
    if 0 in (os.getuid(), os.geteuid()):
        strerr.die(strerr.PERMANENT, PROGRAM, ": fatal: POP3S is not for root: start tcpserver with -u")
    from qmail_smtpd.net import certificate

    try:
        context = certificate.context(control.home(environ))
    except certificate.Trouble as trouble:
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: no TLS: ", trouble.why)
    from qmail_smtpd.net import tls

    layer = tls.accept(wire, context)
    environ[b"TLS_PROTOCOL"], environ[b"TLS_CIPHER"] = layer.protocol, layer.cipher
