"""qmail-smtpd: read environment and control files, run one session on descriptors 0 and 1, end with its status.

The only room of a session that knows the world; the conversation itself is session's.
"""

import os
import time

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a session.
from _signal import SIG_DFL, SIGCHLD, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

from qmail_smtpd import control, replies
from qmail_smtpd.log import LEVELS, REFUSALS, Log
from qmail_smtpd.policy import Unreadable
from qmail_smtpd.queue.client import QueueClient
from qmail_smtpd.received import date
from qmail_smtpd.session import Session
from qmail_smtpd.settings import Settings
from qmail_smtpd.wire import Closed, SessionTimedOut, TimedOut, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

QMAILHOME = b"/var/qmail"
QMAILQUEUE = b"bin/qmail-queue"  # relative to the home, where the process is
TIMEOUT = 1200  # qmail-smtpd.c: seconds for one read or write


class World:
    """The backend of a session: the client's wire, the queue program, the clock, the log."""

    __slots__ = ("environ", "journal", "more", "own", "queue", "wire")

    def __init__(self, environ: dict[bytes, bytes], wire: Wire, more: control.MoreRcpthosts, journal: Log) -> None:
        self.environ = environ
        self.wire = wire
        self.more = more
        self.journal = journal
        self.own: frozenset[bytes] | None = None
        self.queue: QueueClient | None = None

    def reply(self, line: bytes) -> None:
        self.wire.write(line + b"\r\n")

    def date(self) -> bytes:
        return date(*time.gmtime()[:6])

    def is_own_address(self, octets: bytes) -> bool:
        if self.own is None:
            from qmail_smtpd.ownaddress import own_addresses

            self.own = own_addresses()
        return octets in self.own

    def in_morercpthosts(self, key: bytes) -> bool:
        return self.more.has(key)

    def open_queue(self) -> bool:
        self.wire.start_data()
        try:
            self.queue = QueueClient(self.environ.get(b"QMAILQUEUE", QMAILQUEUE), self.environ)
        except OSError:
            return False
        return True

    def write_message(self, data: bytes) -> None:
        assert self.queue is not None
        self.queue.write(data)

    def close_queue(self, envelope: bytes | None) -> bytes:
        assert self.queue is not None
        self.wire.flush()  # what was pipelined before the message is answered before the queue takes its time
        return self.queue.close(envelope)

    def abandon_queue(self) -> None:
        assert self.queue is not None
        self.queue.abandon()

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        self.journal.decision(event, facts)


def main() -> "NoReturn":
    """Run one session. Ends the process: nothing of the interpreter has to be taken down."""
    os._exit(run())


def run() -> int:
    """Prepare what the session needs, and return its exit status."""
    signal(SIGCHLD, SIG_DFL)  # inherited as ignored, it would lose the queue program's status, and with it mail
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    environ = dict(os.environb)
    wire = Wire(TIMEOUT)
    try:
        return converse(*prepare(environ, wire), wire)
    except Unreadable as trouble:
        return last_words(wire, trouble.args[0])
    except MemoryError:
        return last_words(wire, replies.OUT_OF_MEMORY)


def last_words(wire: Wire, reply: bytes) -> int:
    """Tell the client why there is no session."""
    try:
        wire.write(reply + b"\r\n")
        wire.flush()
    except (Closed, TimedOut):
        pass
    return 1


def prepare(environ: dict[bytes, bytes], wire: Wire) -> tuple[Session, World]:
    """Read everything, in the order of qmail-smtpd.c (setup)."""
    try:
        os.chdir(environ.get(b"QMAILHOME", QMAILHOME))
    except OSError as error:
        raise Unreadable(replies.CONTROLS_UNREADABLE) from error
    settings = Settings()
    read_greeting(settings)
    wire.timeout = max(1, control.read_number(b"timeoutsmtpd", TIMEOUT))
    settings.rcpthosts = control.read_list(b"rcpthosts")
    more = control.MoreRcpthosts(-1 if settings.rcpthosts is None else control.open_control(b"morercpthosts.cdb"))
    settings.badmailfrom = control.read_list(b"badmailfrom") or frozenset()
    settings.databytes = control.read_number(b"databytes", 0)
    read_environment(settings, environ)
    journal = Log(LEVELS.get(environ.get(b"SMTPD_LOG", b""), REFUSALS), {b"ip": settings.remoteip})
    world = World(environ, wire, more, journal)
    return Session(settings, world), world


def read_greeting(settings: Settings) -> None:
    """me, smtpgreeting, localiphost. One of the first two has to be there."""
    me = control.read_line(b"me")
    greeting = control.read_line(b"smtpgreeting")
    greeting = me if greeting is None else greeting
    if greeting is None:
        raise Unreadable(replies.CONTROLS_UNREADABLE)
    settings.greeting = greeting
    localiphost = control.read_line(b"localiphost")
    settings.localiphost = me if localiphost is None else localiphost


def read_environment(settings: Settings, environ: dict[bytes, bytes]) -> None:
    """What the server tells about the client. Set but empty is not the same as unset."""
    if b"DATABYTES" in environ:
        settings.databytes = control.leading_number(environ[b"DATABYTES"]) or 0
    settings.remoteip = environ.get(b"TCPREMOTEIP", settings.remoteip)
    settings.local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", settings.local))
    settings.remotehost = environ.get(b"TCPREMOTEHOST", settings.remotehost)
    settings.remoteinfo = environ.get(b"TCPREMOTEINFO")
    settings.relayclient = environ.get(b"RELAYCLIENT")


def converse(session: Session, world: World, wire: Wire) -> int:
    """Read, feed, until the session is over."""
    try:
        session.greet()
        while session.status is None:
            try:
                data = wire.read() if session.message is None else wire.read_data()
            except TimedOut as over:
                between = isinstance(over, SessionTimedOut) and session.message is None
                session.finish(1, replies.SESSION_TIMEOUT if between else replies.TIMEOUT, b"timeout")
                break
            if data:
                session.feed(data)
            else:
                session.finish(1, b"", b"gone")
        wire.flush()
    except (Closed, TimedOut):  # it cannot be told
        if session.status is None:
            session.finish(1, b"", b"gone")
        return 1
    return session.status or 0
