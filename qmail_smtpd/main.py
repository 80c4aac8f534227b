"""qmail-smtpd: read environment and control files, run one session on descriptors 0 and 1, end with its status.

The only room of a session that knows the world; the conversation itself is session's.
"""

import os
import sys
import time

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a session.
from _signal import SIG_DFL, SIGCHLD, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

from qmail_smtpd import control
from qmail_smtpd.log import LEVELS, REFUSALS, Log
from qmail_smtpd.net.wire import Closed, SessionTimedOut, TimedOut, TlsBroken, Wire, prepare_descriptors
from qmail_smtpd.queue.client import QueueClient
from qmail_smtpd.setup import TIMEOUT, Setup
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.received import date
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _ssl import _SSLContext as SSLContext
    from collections.abc import Mapping
    from typing import NoReturn

    from qmail_smtpd.auth.gate import Gate
    from qmail_smtpd.smtp.sasl import Credentials, ScramServer

QMAILQUEUE = b"bin/qmail-queue"  # relative to the home, where the process is
TAKEN = (b"accepted", b"queued")  # what relay-check's RELAY_USER may have made possible

warmed_up: list[bool] = []  # not empty once before_fork() has warmed up


class World:
    """The backend of a session: the client's wire, the queue program, the clock, the log."""

    __slots__ = ("context", "environ", "gate", "ignored_events", "journal", "more", "own", "queue", "untold", "wire")

    def __init__(
        self, environ: dict[bytes, bytes], wire: Wire, more: control.MoreRcpthosts, gate: "Gate | None", journal: Log
    ) -> None:
        self.environ = environ
        self.wire = wire
        self.more = more
        self.gate = gate
        self.journal = journal
        self.ignored_events = journal.ignored_events
        self.own: frozenset[bytes] | None = None
        self.queue: QueueClient | None = None
        self.context: SSLContext | None = None
        self.untold = True  # why there is no TLS is told once, and looked for once: that takes 0.6 ms

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
            self.queue = QueueClient(self.environ.get(b"QMAILQUEUE", QMAILQUEUE), self.environ, self.wire.deadline)
        except OSError:
            return False
        return True

    def write_message(self, data: bytes) -> None:
        assert self.queue is not None
        self.queue.write(data)

    def close_queue(self, envelope: bytes | None) -> bytes:
        assert self.queue is not None
        try:
            self.wire.flush()  # what was pipelined before the message is answered before the queue takes its time
        except Closed:
            pass  # the client will not hear of it, but its message is complete: the original queues it, too
        return self.queue.close(envelope)

    def abandon_queue(self) -> None:
        assert self.queue is not None
        self.queue.abandon()

    def challenge(self) -> bytes:
        assert self.gate is not None
        return self.gate.challenge()

    def scram(self) -> "ScramServer":
        assert self.gate is not None
        return self.gate.scram()

    def login_refusal(self, credentials: "Credentials") -> tuple[bytes, bytes] | None:
        assert self.gate is not None
        self.wire.flush()  # what was pipelined before is answered before the checker takes its time
        return self.gate.login_refusal(credentials, self.environ, self.wire.deadline)

    def pause(self) -> None:
        assert self.gate is not None
        self.wire.flush()
        self.gate.pause(self.wire.deadline)

    def senders(self, user: bytes) -> frozenset[bytes] | None:
        return control.authsenders(user)

    def set_identity(self, relayclient: bytes | None, remoteinfo: bytes | None) -> None:
        for name, value in ((b"RELAYCLIENT", relayclient), (b"TCPREMOTEINFO", remoteinfo)):
            if value is None:
                self.environ.pop(name, None)
            else:
                self.environ[name] = value

    def prepare_tls(self) -> bool:
        if self.untold:
            from qmail_smtpd.net import certificate

            try:
                self.context = certificate.context()
            except certificate.TlsUnavailable as trouble:
                self.journal.warning(b"no TLS: " + trouble.why)
                self.untold = False
        return self.context is not None

    def start_tls(self) -> bytes:
        from qmail_smtpd.net import tls

        assert self.context is not None
        layer = tls.accept(self.wire, self.context)
        self.environ[b"TLS_PROTOCOL"] = self.journal.facts[b"tls"] = layer.protocol
        self.environ[b"TLS_CIPHER"] = layer.cipher
        return layer.cipher

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        if event in TAKEN and b"RELAYCLIENT" in self.environ and b"RELAY_USER" in self.environ:
            facts = {**facts, b"relay_user": self.environ[b"RELAY_USER"]}
        self.journal.decision(event, facts)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """What tcpserver's parent does before it forks for clients, where this program is preloaded."""
    from qmail_smtpd import preload

    if not warmed_up:
        warmed_up.append(True)
        preload.warm_up(World)
    preload.prepare(environ)


def main() -> "NoReturn":
    """Run one session. Ends the process: nothing of the interpreter has to be taken down."""
    os._exit(serve_client())


def serve_client() -> int:
    """Run one session and return its exit status, if this process is fit to serve others (tcpserver --reuse).

    One in which something went wrong, or that a password or a key may have passed through, ends here.
    """
    prepare_descriptors()
    signal(SIGCHLD, SIG_DFL)  # inherited as ignored, it would lose the queue program's status, and with it mail
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` is legal to inherit, and nothing that posix_spawn would hand on
    wire = Wire(TIMEOUT)
    level = environ.get(b"SMTPD_LOG") or b"refusals"
    journal = Log(LEVELS.get(level, REFUSALS), {b"pid": b"%d" % os.getpid()})
    if level not in LEVELS:
        journal.warning(b"SMTPD_LOG is neither none nor refusals nor all: refusals are logged")
    smtps = bool(environ.get(b"SMTPS"))  # empty is off, as in netqmail's TLS patch
    try:
        session, setup = prepare(environ, wire, journal)
        status = converse(session, wire, smtps)
        setup.more.close()
        if wire.layer is not None or setup.gate is not None or session.settings.auth is not None:
            os._exit(status)
        return status
    except Unreadable as trouble:
        journal.warning(trouble.why)
        reply = trouble.reply
    except MemoryError:
        reply = replies.OUT_OF_MEMORY
    os._exit(1 if smtps and wire.layer is None else last_words(wire, reply))


def last_words(wire: Wire, reply: bytes) -> int:
    """Tell the client why there is no session."""
    try:
        wire.write(reply + b"\r\n")
        wire.flush()
    except (Closed, TimedOut):
        pass
    return 1


def prepare(environ: dict[bytes, bytes], wire: Wire, journal: Log) -> tuple[Session, Setup]:
    """Read everything that a session needs, and say what is wrong with it."""
    control.enter(control.home(environ))
    setup = Setup(environ, [os.fsencode(word) for word in sys.argv[1:]])
    wire.set_limits(setup.timeout, setup.session_seconds)
    journal.facts[b"ip"] = setup.settings.remoteip
    for warning in setup.warnings:
        journal.warning(warning)
    return Session(setup.settings, World(environ, wire, setup.more, setup.gate, journal)), setup


def converse(session: Session, wire: Wire, smtps: bool) -> int:
    """Read and feed, until the session is over. `smtps`: not a byte in clear."""
    try:
        if smtps and not session.backend.prepare_tls():
            session.finish(1, b"", b"tls")
            return 1
        if smtps:
            session.start_tls()
        session.greet()
        while session.status is None:
            step(session, wire)
        wire.close()
    except TlsBroken as broken:
        if session.status is None:
            reason = b"tls:" + broken.why.replace(b" ", b"_")
            if session.message is None:
                session.log(b"refused", {b"reason": reason})
            session.finish(1, b"", reason)
        return 1
    except (Closed, TimedOut):
        if session.status is None:
            session.finish(1, b"", b"gone")
        return 1
    return session.status


def step(session: Session, wire: Wire) -> None:
    """One read, and what comes of it."""
    try:
        data = wire.read() if session.message is None else wire.read_data()
        if data:
            session.feed(data)
        else:
            session.finish(1, b"", b"gone")
    except SessionTimedOut:
        wire.allow_final_reply()
        session.finish(1, replies.SESSION_TIMEOUT if session.message is None else replies.TIMEOUT, b"timeout")
    except TimedOut:
        session.finish(1, replies.TIMEOUT, b"timeout")
