"""qmail-pop3d: the mail of the Maildir that its first word names, by POP3 on descriptors 0 and 1.

Knows no passwords: whoever starts it has asked for one (popup.py).
"""

import os
import sys

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a session.
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

from qmail_smtpd.net.wire import Closed, TimedOut, Wire, discard_unheard
from qmail_smtpd.pop3 import replies
from qmail_smtpd.pop3.command import TOO_LONG, Commands, leading_number
from qmail_smtpd.pop3.mailbox import BLOCK, Mailbox, clean, unique_id
from qmail_smtpd.pop3.outgoing import Outgoing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from qmail_smtpd.pop3.mailbox import Message

TIMEOUT = 1200.0  # qmail-pop3d.c: seconds for one read or write


class Session:
    """One client and the mailbox. `last` is what LAST tells: the highest message that was marked."""

    __slots__ = ("last", "mailbox", "over", "wire")

    def __init__(self, wire: Wire, mailbox: Mailbox) -> None:
        self.wire = wire
        self.mailbox = mailbox
        self.last = 0
        self.over = False

    def obey(self, verb: bytes, argument: bytes) -> None:
        VERBS.get(verb, unimplemented)(self, argument)

    def say(self, reply: bytes) -> None:
        self.wire.write(reply)

    def message(self, argument: bytes) -> tuple[int, "Message"] | None:
        """The message that the argument begins with the number of, and the number; None where that was answered."""
        number, _ = leading_number(argument)
        if number is None:
            self.say(replies.SYNTAX)
        elif number == 0:
            self.say(replies.FROM_ONE)
        elif number > len(self.mailbox.messages):
            self.say(replies.NOT_THAT_MANY)
        elif self.mailbox.messages[number - 1].deleted:
            self.say(replies.DELETED)
        else:
            return number, self.mailbox.messages[number - 1]
        return None

    def list(self, argument: bytes, fact: "Callable[[Message], bytes]") -> None:
        """One line, of the message that was asked for or each, with this fact about it."""
        if argument:
            chosen = self.message(argument)
            if chosen:
                self.say(b"+OK %d %b\r\n" % (chosen[0], fact(chosen[1])))
            return
        self.say(replies.OK)
        for number, message in enumerate(self.mailbox.messages, 1):
            if not message.deleted:
                self.say(b"%d %b\r\n" % (number, fact(message)))
        self.say(replies.END)

    def length(self, message: "Message") -> bytes:
        return b"%d" % self.mailbox.octets(message)


def stat(session: Session, _: bytes) -> None:
    """How many, marked ones counted as well, and how much without those: qmail-pop3d.c."""
    messages = session.mailbox.messages
    total = sum(session.mailbox.octets(message) for message in messages if not message.deleted)
    session.say(b"+OK %d %d\r\n" % (len(messages), total))


def list_lengths(session: Session, argument: bytes) -> None:
    session.list(argument, session.length)


def list_ids(session: Session, argument: bytes) -> None:
    session.list(argument, lambda message: unique_id(message.path))


def dele(session: Session, argument: bytes) -> None:
    chosen = session.message(argument)
    if chosen:
        number, message = chosen
        message.deleted = True
        session.last = max(session.last, number)
        session.say(replies.OK)


def retr(session: Session, argument: bytes) -> None:
    """RETR and TOP are one command: a second number is the count of the body's lines (qmail-pop3d.c, pop3_top)."""
    chosen = session.message(argument)
    if not chosen:
        return
    _, rest = leading_number(argument)
    lines, _ = leading_number(rest.lstrip(b" "))
    try:
        descriptor = session.mailbox.open(chosen[1])
    except OSError:
        session.say(replies.NOT_OPENED)
        return
    session.say(replies.OK)
    send(session.wire, descriptor, Outgoing(lines))
    os.close(descriptor)


def send(wire: Wire, descriptor: int, outgoing: Outgoing) -> None:
    """Copy a file to the client. Raises Closed where it cannot be read on: a part may not look like the whole."""
    while not outgoing.ended:
        try:
            block = os.read(descriptor, BLOCK)
        except OSError as error:
            raise Closed from error
        if not block:
            break
        wire.write(outgoing.feed(block))
    wire.write(outgoing.finish())


def rset(session: Session, _: bytes) -> None:
    for message in session.mailbox.messages:
        message.deleted = False
    session.last = 0
    session.say(replies.OK)


def last(session: Session, _: bytes) -> None:
    session.say(b"+OK %d\r\n" % session.last)


def noop(session: Session, _: bytes) -> None:
    session.say(replies.OK)


def capa(session: Session, _: bytes) -> None:
    session.say(replies.capabilities())


def quit_session(session: Session, _: bytes) -> None:
    session.over = True
    session.say(replies.OK if session.mailbox.close() else replies.NOT_REMOVED)


def line_too_long(session: Session, _: bytes) -> None:
    session.say(replies.LINE_TOO_LONG)


def unimplemented(session: Session, _: bytes) -> None:
    session.say(replies.UNIMPLEMENTED)


VERBS: "dict[bytes, Callable[[Session, bytes], None]]" = {
    b"quit": quit_session,
    b"stat": stat,
    b"list": list_lengths,
    b"uidl": list_ids,
    b"dele": dele,
    b"retr": retr,
    b"rset": rset,
    b"last": last,
    b"top": retr,
    b"noop": noop,
    b"capa": capa,
    TOO_LONG: line_too_long,
}


class Refused(Exception):
    """There is no session; the text is the reply that says why."""


def main() -> "NoReturn":
    """The program. Ends with 0 whatever comes of the session, and with 1 for root, as the original."""
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    if os.getuid() == 0:
        from qmail_smtpd.queue.intake import complain

        complain("qmail-pop3d invoked as uid 0, terminating")
        os._exit(1)
    if is_open(0) and is_open(1):
        serve(Wire(TIMEOUT), [os.fsencode(word) for word in sys.argv[1:]])
    os._exit(0)


def is_open(descriptor: int) -> bool:
    """Closed, it would be the first mail that is opened."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def serve(wire: Wire, words: list[bytes]) -> None:
    """One session, from the first look into the Maildir to its end. A client that is gone is told nothing."""
    try:
        try:
            converse(Session(wire, enter(words)))
        except Refused as refusal:
            wire.write(refusal.args[0])
        except MemoryError:
            wire.write(replies.NO_MEMORY)
        wire.flush()
        discard_unheard()
    except (Closed, TimedOut):
        pass


def enter(words: list[bytes]) -> Mailbox:
    """Make the Maildir the current directory, and read it. Raises Refused."""
    try:
        os.chdir(words[0])
    except (IndexError, OSError):
        raise Refused(replies.NO_MAILDIR) from None
    clean()
    try:
        return Mailbox()
    except OSError as error:
        raise Refused(replies.NOT_SCANNED) from error


def converse(session: Session) -> None:
    """Read and obey until the session is over, or the client gone."""
    session.say(replies.OK)
    commands = Commands()
    while not session.over and (data := session.wire.read()):
        commands.add(data)
        while not session.over and (command := commands.next()):
            session.obey(*command)
