"""cmd5checkpw: a checker for the plain-text passwords in /etc/poppasswd, for CRAM-MD5 and APOP."""

from qmail_smtpd.auth import secretfile
from qmail_smtpd.auth.checker import Credentials, accepts, run
from qmail_smtpd.control import BYTE_ORDER_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

POPPASSWD = b"/etc/poppasswd"
DUMMY = b"-"  # a password for the comparison if there is none, so that it takes the same time


def main() -> "NoReturn":
    """Run the program. Changes nothing for PROG: its users need no system accounts."""
    run("cmd5checkpw", "cmd5checkpw prog", check_credentials)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """Load, in tcpserver's parent, what a login needs."""
    import hashlib  # noqa: F401
    import hmac  # noqa: F401


def check_credentials(given: Credentials, environ: dict[bytes, bytes]) -> bool:
    """Whether the credentials are right. Raises CannotVerify."""
    password = find_password(secretfile.read(environ.get(b"POPPASSWD", POPPASSWD)), given.login)
    return accepts(b"{PLAIN}" + (password or DUMMY), given) and bool(password)


def find_password(content: bytes, login: bytes) -> bytes | None:
    """Return the password in the first `login:password` line. It ends at a colon: the original uses strtok.

    Lines may end with CRLF, and the file may begin with a byte order mark. All lines are searched, so the time does not
    depend on the position of the login.
    """
    content = content.removeprefix(BYTE_ORDER_MARK)
    lines = [line.removesuffix(b"\r").partition(b":") for line in content.split(b"\n") if line.startswith(login)]
    passwords = [rest.partition(b":")[0] for name, _, rest in lines if name == login]
    return passwords[0] if passwords else None
