"""qmail-smtpd: read environment and control files, run one session on descriptors 0 and 1, exit with its status.

The conversation itself is in smtp/session.py, its access to the outside world in backend.py.
"""

import os
import sys

# The C half of signal, which every interpreter has loaded already: the Python half costs 5 ms of enum, once a session.
from _signal import SIG_DFL, SIGCHLD, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

from qmail_smtpd import control
from qmail_smtpd.backend import SessionBackend
from qmail_smtpd.control_checks import unread_files
from qmail_smtpd.log import LEVELS, Log, connection_facts, level_of, wants_json
from qmail_smtpd.net.wire import (
    Closed,
    SessionTimedOut,
    TimedOut,
    TlsBroken,
    Wire,
    hang_up,
    is_out_of_descriptors,
    prepare_descriptors,
)
from qmail_smtpd.setup import TIMEOUT, Setup, arguments
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

warmed_up: list[bool] = []  # not empty once before_fork() has warmed up


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """Prepare tcpserver's parent, which has preloaded this program, before it forks for clients."""
    from qmail_smtpd import preload

    if not warmed_up:
        warmed_up.append(True)
        control.enable_cache()
        preload.warm_up(SessionBackend)
        warn_of_files(environ)
    preload.prepare(environ)
    preload.read_control_files(environ)


def warn_of_files(environ: "Mapping[bytes, bytes]") -> None:
    """Log once for all sessions which control files are not read."""
    journal = Log(level_of(environ), {}, wants_json(environ))
    for warning in unread_files(control.home(environ)):
        journal.warning(warning)


def main() -> "NoReturn":
    """Run one session, and end the process without the interpreter's clean-up."""
    prepare_descriptors()
    signal(SIGCHLD, SIG_DFL)  # inherited as ignored, it would lose the queue program's status, and so mail
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` is legal to inherit, but posix_spawn does not accept it
    os._exit(serve(environ)[0])


def serve_connection(environ: dict[bytes, bytes]) -> int:
    """Run one session on descriptors 0 and 1, and return its exit status.

    Returns only if this process may serve another client (tcpserver --reuse). After an error it ends the process, and
    so it does if the client may have sent a password, unless freed memory is overwritten.
    """
    status, saw_secret = serve(environ)
    if saw_secret:
        import gc

        from tcpserver.chain import freed_memory_is_wiped

        if not freed_memory_is_wiped:
            os._exit(status)
        gc.collect()  # reference cycles are freed now
    return status


def serve(environ: dict[bytes, bytes]) -> tuple[int, bool]:
    """Run the session. Return its exit status, and whether the client may have sent a password. Exits on an error."""
    wire = Wire(TIMEOUT)
    as_json = wants_json(environ)
    journal = Log(level_of(environ), connection_facts(environ, as_json), as_json)
    if (environ.get(b"SMTPD_LOG") or b"refusals") not in LEVELS:
        journal.warning(b"SMTPD_LOG must be none, refusals or all: using refusals")
    smtps = bool(environ.get(b"SMTPS"))  # an empty value is off, as in netqmail's TLS patch
    try:
        session, backend = prepare(environ, wire, journal)
        status = converse(session, wire, smtps)
        backend.close()
        return status, session.saw_secret
    except Unreadable as error:
        journal.warning(error.why)
        reply = error.reply
    except MemoryError:
        reply = replies.OUT_OF_MEMORY
    except OSError as error:
        if not is_out_of_descriptors(error):
            raise
        journal.warning(b"out of descriptors")
        reply = replies.OUT_OF_DESCRIPTORS
    os._exit(1 if smtps and wire.layer is None else send_final_reply(wire, reply))


def send_final_reply(wire: Wire, reply: bytes) -> int:
    """Tell the client why there is no session, and return the exit status."""
    try:
        wire.write(reply + b"\r\n")
        wire.flush()
        hang_up()
    except (Closed, TimedOut):
        pass
    return 1


def prepare(environ: dict[bytes, bytes], wire: Wire, journal: Log) -> tuple[Session, SessionBackend]:
    """Read the settings, log the warnings about them, and make a session. Raises Unreadable."""
    control.enter(control.home(environ))
    setup = Setup(environ, arguments() if len(sys.argv) > 1 else [])
    wire.set_limits(setup.timeout, setup.session_seconds)
    if warmed_up:  # a child of tcpserver
        wire.let_kernel_time()
    journal.facts[b"ip"] = setup.settings.remoteip
    for warning in setup.warnings if warmed_up else setup.warnings + setup.unread:
        journal.warning(warning)
    backend = SessionBackend(environ, wire, setup.morercpthosts, setup.authenticator, journal)
    backend.services, backend.plugins = setup.services, setup.plugins
    backend.recipients = setup.recipients
    if setup.settings.relay_limited or setup.settings.logins_limited:
        backend.use_limits(setup)
    if setup.settings.xclient:
        backend.proxy_environ, backend.warnings = dict(environ), setup.warnings
    return Session(setup.settings, backend), backend


def converse(session: Session, wire: Wire, smtps: bool) -> int:
    """Run the session to its end and return the exit status. `smtps`: start TLS first, send nothing in clear."""
    try:
        if smtps and not session.backend.prepare_tls():
            session.finish(1, b"", b"tls")
            return 1
        if smtps:
            session.start_tls()
        if session.settings.greet_delay:
            await_silence(session, wire)
        if session.status is None:
            session.greet()
        while session.status is None:
            read_once(session, wire)
        wire.close()
        hang_up()
    except TlsBroken as error:
        if session.status is None:
            reason = b"tls:" + error.why.replace(b" ", b"_")
            if session.message is None:
                session.log(b"refused", {b"reason": reason})
            session.finish(1, b"", reason)
        hang_up()
        return 1
    except (Closed, TimedOut):
        if session.status is None:
            session.finish(1, b"", b"gone")
        return 1
    return session.status


def await_silence(session: Session, wire: Wire) -> None:
    """Wait before the greeting, and refuse a client that does not. Exempt: who may relay, and listed proxies."""
    settings = session.settings
    if settings.relayclient is not None or settings.xclient:
        return
    data = wire.read_early(settings.greet_delay)
    if data:
        session.refuse_early_talker()
    elif data is not None:
        session.finish(1, b"", b"gone")


def read_once(session: Session, wire: Wire) -> None:
    """Read from the client once and feed the session, or end it at end of file or after a timeout."""
    try:
        data = wire.read_data() if session.takes_message() else wire.read()
        if data:
            session.feed(data)
        else:
            session.finish(1, b"", b"gone")
    except SessionTimedOut:
        wire.allow_final_reply()
        session.finish(1, replies.TIMEOUT if session.takes_message() else replies.SESSION_TIMEOUT, b"timeout")
    except TimedOut:
        session.finish(1, replies.TIMEOUT, b"timeout")
