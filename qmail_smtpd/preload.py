"""PARENT: what tcpserver's parent does for the sessions of its children, where qmail-smtpd is preloaded.

An interpreter specialises the instructions of a function after some calls, and remembers which attribute it found
where. A child that has to learn that for itself writes to memory that it shares with its parent, which is a seventh of
what a session costs. So the parent holds some sessions with nobody: nothing is sent, queued or logged.
"""

from qmail_smtpd import control
from qmail_smtpd.log import NONE, Log
from qmail_smtpd.net.wire import Wire
from qmail_smtpd.setup import TIMEOUT
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmail_smtpd.smtp.backend import Backend

    World = Callable[[dict[bytes, bytes], Wire, control.MoreRcpthosts, None, Log], Backend]

WARM_UP_SESSIONS = 40  # an instruction is specialised some 20 turns after the first
SAID = (
    b"EHLO client.example\r\n",
    b"MAIL FROM:<sender@client.example> SIZE=1000\r\n",
    b"RCPT TO:<somebody@example.com>\r\n",
    b"RCPT TO:<somebody@elsewhere.example>\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
)


def warm_up(world: "World") -> None:
    """Hold the sessions. What the control files say does not matter; they are not read."""
    settings = Settings()
    settings.rcpthosts = frozenset((b"example.com",))
    for _ in range(WARM_UP_SESSIONS):
        session = Session(settings, world({}, Wire(TIMEOUT), control.MoreRcpthosts(-1), None, Log(NONE, {})))
        session.greet()
        for line in SAID:
            session.feed(line)


def prepare(environ: "Mapping[bytes, bytes]") -> None:
    """Have ready what sessions with a login or TLS need."""
    if b"SMTPAUTHFILE" in environ or b"SMTPAUTH" in environ:
        load_auth()
    if control.exists(b"servercert.pem", control.home(environ)):
        from qmail_smtpd.net.certificate import prepare_context

        prepare_context(control.home(environ))


def load_auth() -> None:
    """Load what a login needs: 2 ms for each child else. What cannot be loaded, those who log in will hear of."""
    try:
        import hashlib  # noqa: F401
        import hmac  # noqa: F401

        from qmail_smtpd.auth import checkpassword, gate, users  # noqa: F401
        from qmail_smtpd.smtp import login  # noqa: F401
    except ImportError:
        pass
