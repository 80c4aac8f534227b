"""qmail-pop3d: POP3 on descriptors 0 and 1 for the Maildir that its argument names.

Does not check passwords: the program that runs it has done that (popup.py).
"""

import os
import sys

# The C module that every interpreter has loaded already: `signal` imports enum, which would cost 5 ms for each session.
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

from qmail_smtpd.net.wire import Closed, TimedOut, Wire, hang_up
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
    """One client and its mailbox. `last` is the answer to LAST: the highest message that was marked as deleted."""

    __slots__ = ("last", "mailbox", "over", "wire")

    def __init__(self, wire: Wire, mailbox: Mailbox) -> None:
        self.wire = wire
        self.mailbox = mailbox
        self.last = 0
        self.over = False

    def execute(self, verb: bytes, argument: bytes) -> None:
        VERBS.get(verb, unimplemented)(self, argument)

    def reply(self, text: bytes) -> None:
        self.wire.write(text)

    def message(self, argument: bytes) -> tuple[int, "Message"] | None:
        """Return the number that begins the argument, and the message with that number.

        Return None if there is no such message, after sending the error reply.
        """
        number, _ = leading_number(argument)
        if number is None:
            self.reply(replies.SYNTAX)
        elif number == 0:
            self.reply(replies.FROM_ONE)
        elif number > len(self.mailbox.messages):
            self.reply(replies.NOT_THAT_MANY)
        elif self.mailbox.messages[number - 1].deleted:
            self.reply(replies.DELETED)
        else:
            return number, self.mailbox.messages[number - 1]
        return None

    def list(self, argument: bytes, describe: "Callable[[Message], bytes]") -> None:
        """Reply with one line for the message in the argument, or for each message if there is no argument."""
        if argument:
            selected = self.message(argument)
            if selected:
                self.reply(b"+OK %d %b\r\n" % (selected[0], describe(selected[1])))
            return
        self.reply(replies.OK)
        for number, message in enumerate(self.mailbox.messages, 1):
            if not message.deleted:
                self.reply(b"%d %b\r\n" % (number, describe(message)))
        self.reply(replies.END)

    def length(self, message: "Message") -> bytes:
        return b"%d" % self.mailbox.octets(message)


def stat(session: Session, _: bytes) -> None:
    """Reply with the number of all messages, but the total length of those not marked as deleted: qmail-pop3d.c."""
    messages = session.mailbox.messages
    total = sum(session.mailbox.octets(message) for message in messages if not message.deleted)
    session.reply(b"+OK %d %d\r\n" % (len(messages), total))


def list_lengths(session: Session, argument: bytes) -> None:
    session.list(argument, session.length)


def list_ids(session: Session, argument: bytes) -> None:
    session.list(argument, lambda message: unique_id(message.path))


def dele(session: Session, argument: bytes) -> None:
    selected = session.message(argument)
    if selected:
        number, message = selected
        message.deleted = True
        session.last = max(session.last, number)
        session.reply(replies.OK)


def retr(session: Session, argument: bytes) -> None:
    """Handle RETR and TOP, which are one command (qmail-pop3d.c, pop3_top).

    A second number limits the lines of the body.
    """
    selected = session.message(argument)
    if not selected:
        return
    _, rest = leading_number(argument)
    lines, _ = leading_number(rest.lstrip(b" "))
    try:
        descriptor = session.mailbox.open(selected[1])
    except OSError:
        session.reply(replies.NOT_OPENED)
        return
    session.reply(replies.OK)
    send(session.wire, descriptor, Outgoing(lines))
    os.close(descriptor)


def send(wire: Wire, descriptor: int, outgoing: Outgoing) -> None:
    """Copy the file to the client. Raise Closed on a read error, so that a partial message never looks complete."""
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
    session.reply(replies.OK)


def last(session: Session, _: bytes) -> None:
    session.reply(b"+OK %d\r\n" % session.last)


def noop(session: Session, _: bytes) -> None:
    session.reply(replies.OK)


def capa(session: Session, _: bytes) -> None:
    session.reply(replies.capabilities())


def quit_session(session: Session, _: bytes) -> None:
    session.over = True
    session.wire.flush()  # as the original after each reply: a client that is gone may not have got its mail
    session.reply(replies.OK if session.mailbox.close() else replies.NOT_REMOVED)


def line_too_long(session: Session, _: bytes) -> None:
    session.reply(replies.LINE_TOO_LONG)


def unimplemented(session: Session, _: bytes) -> None:
    session.reply(replies.UNIMPLEMENTED)


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
    """The session cannot start. The argument is the reply."""


def main() -> "NoReturn":
    """Run the program. The exit code is 0 whatever happens in the session, and 1 for root, as in the original."""
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
    """Whether the descriptor is open. If it is not, the next file to be opened would take its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def serve(wire: Wire, words: list[bytes]) -> None:
    """Serve one session from opening the Maildir to its end. A connection that is closed or times out ends silently."""
    try:
        try:
            converse(Session(wire, open_mailbox(words)))
        except Refused as refusal:
            wire.write(refusal.args[0])
        except MemoryError:
            wire.write(replies.NO_MEMORY)
        wire.flush()
        hang_up()
    except (Closed, TimedOut):
        pass


def open_mailbox(words: list[bytes]) -> Mailbox:
    """Make the Maildir the current directory, and scan it. Raise Refused if that fails."""
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
    """Read and execute commands until QUIT or end of file."""
    session.reply(replies.OK)
    commands = Commands()
    while not session.over and (data := session.wire.read()):
        commands.add(data)
        while not session.over and (command := commands.next()):
            session.execute(*command)
