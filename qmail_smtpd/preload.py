"""Prepare tcpserver's parent, which has preloaded qmail-smtpd, so that the sessions in its children cost less.

An interpreter specializes the bytecode of a function after some calls, and caches where it found an attribute. A child
that does this itself writes to memory that it shares with its parent, and copying that is a seventh of the cost of a
session. So the parent runs some warm-up sessions without a client: they send, queue and log nothing.
"""

import os

from qmail_smtpd import control
from qmail_smtpd.log import NONE, Log
from qmail_smtpd.net.wire import Wire
from qmail_smtpd.setup import TIMEOUT, ControlFiles, offers_logins
from qmail_smtpd.smtp import transfer  # noqa: F401  # once, not in each child
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Settings, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmail_smtpd.smtp.backend import Backend

    MakeBackend = Callable[[dict[bytes, bytes], Wire, None, None, Log], Backend]

LISTS = (b"rcpthosts", b"badmailfrom", b"validrcptto", b"xclienthosts", b"policyservice", b"relaylimits")
RECIPIENTS = (b"validrcptto", b"validrcptto.cdb")
LONG_LISTS = 65536  # bytes of lists: to parse longer ones would keep the server's clients waiting
WARM_UP_SESSIONS = 40  # an instruction is specialized some 20 calls after the first
WARM_UP_COMMANDS = (
    b"EHLO client.example\r\n",
    b"MAIL FROM:<sender@client.example> SIZE=1000\r\n",
    b"RCPT TO:<somebody@example.com>\r\n",
    b"RCPT TO:<somebody@elsewhere.example>\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
)


def warm_up(make_backend: "MakeBackend") -> None:
    """Run the warm-up sessions. The control files do not matter for them and are not read."""
    settings = Settings()
    settings.rcpthosts = frozenset((b"example.com",))
    for _ in range(WARM_UP_SESSIONS):
        backend = make_backend({}, Wire(TIMEOUT), None, None, Log(NONE, {}))
        session = Session(settings, backend)
        session.greet()
        for line in WARM_UP_COMMANDS:
            session.feed(line)


def read_control_files(environ: "Mapping[bytes, bytes]") -> None:
    """Read the control files into the cache for all children, unless they are long or cannot be read.

    A child checks that nothing has changed since, and reads the files itself if something has.
    """
    try:
        directory = os.open(b".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return
    try:
        control.enter(control.home(environ))
        if control.total_size(LISTS) > LONG_LISTS:
            return
        files = control.cached("settings", ControlFiles)
        if files.settings.chunking:
            from qmail_smtpd.smtp import chunking  # noqa: F401  # once, not in each child
        if files.has_morercpthosts:
            import cdblib  # noqa: F401

            from qmail_smtpd.recipients import cdb  # noqa: F401
        if files.settings.relay_limited:
            from qmail_smtpd.relay.prepared import read_settings

            read_settings(environ)
    except Unreadable:
        pass  # each child reports it
    finally:
        os.fchdir(directory)
        os.close(directory)
        control.leave()


def prepare(environ: "Mapping[bytes, bytes]") -> None:
    """Load and build what sessions with a login, TLS, plugins, policy services or checked recipients need."""
    if offers_logins([b"qmail-smtpd"], environ):
        load_auth()
    if any(control.exists(name, control.home(environ)) for name in (b"relaylimits", b"authfaillimit")):
        import qmail_smtpd.relay.meter
        from qmail_smtpd.relay.prepared import load_counters

        load_counters(environ)
    if control.exists(b"servercert.pem", control.home(environ)):
        import qmail_smtpd.net.names  # noqa: F401
        from qmail_smtpd.net.certificate import prepare_context

        prepare_context(control.home(environ))
    if control.exists(b"smtpplugins", control.home(environ)):
        from qmail_smtpd.plugins import chain  # noqa: F401
        from qmail_smtpd.smtp import hooks  # noqa: F401
    if control.exists(b"policyservice", control.home(environ)):
        from qmail_smtpd.services import consultant  # noqa: F401
        from qmail_smtpd.smtp import delegation  # noqa: F401
    if b"RCPTCHECK" in environ or any(control.exists(name, control.home(environ)) for name in RECIPIENTS):
        import cdblib  # noqa: F401

        from qmail_smtpd.recipients import check, rcptcheck  # noqa: F401


def load_auth() -> None:
    """Load what a login needs: otherwise 2 ms for each child. A child that needs a missing module reports it itself."""
    try:
        import hashlib  # noqa: F401
        import hmac  # noqa: F401

        from qmail_smtpd.auth import authenticator, checkpassword, exchange, users  # noqa: F401
        from qmail_smtpd.smtp import login  # noqa: F401
    except ImportError:
        pass
