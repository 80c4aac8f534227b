"""cmd5checkpw: a checker whose passwords stand in /etc/poppasswd as they are, for CRAM-MD5 and APOP."""

from qmail_smtpd.auth import secretfile
from qmail_smtpd.auth.checker import Credentials, accepts, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

POPPASSWD = b"/etc/poppasswd"
NOBODY = b"-"


def main() -> "NoReturn":
    """The program. Sets up nothing for PROG: its users need not exist in the system."""
    run("cmd5checkpw", "cmd5checkpw prog", judge)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """tcpserver's parent, where this is preloaded: have what a login needs."""
    import hashlib  # noqa: F401
    import hmac  # noqa: F401


def judge(given: Credentials, environ: dict[bytes, bytes]) -> bool:
    """Raises Trouble."""
    password = find(secretfile.read(environ.get(b"POPPASSWD", POPPASSWD)), given.login)
    return accepts(b"{PLAIN}" + (password or NOBODY), given) and bool(password)


def find(content: bytes, login: bytes) -> bytes | None:
    """The password of the first `login:password` line of this login. It ends at a colon: the original uses strtok.

    All lines are looked at, wherever the login stands: the time does not tell.
    """
    lines = [line.partition(b":") for line in content.split(b"\n") if line.startswith(login)]
    passwords = [rest.partition(b":")[0] for name, _, rest in lines if name == login]
    return passwords[0] if passwords else None
