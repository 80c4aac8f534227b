"""checkusers: a checker whose users and passwords are in a Dovecot passwd-file, hashed.

With a first word that begins with `--` it changes that file, which is another program's work (cli.py).
"""

import os
import sys

from qmail_smtpd.auth.checker import Credentials, accepts, run
from qmail_smtpd.auth.trouble import Trouble
from qmail_smtpd.auth.users import HOME, UID, Entry, Users
from qmail_smtpd.control import home
from tcprules import strerr
from tcpserver.chain import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

USERS = b"/control/users"  # in the qmail home
EDITOR = (b"-P", b"-m", b"qmail_smtpd.auth.cli")  # -P: nothing is imported from the directory that it is started in


def main() -> "NoReturn":
    """The program."""
    if sys.argv[1:] and sys.argv[1].startswith("--"):
        edit([os.fsencode(word) for word in sys.argv[1:]])
    run("checkusers", "checkusers prog | --set user | --delete user | --list", judge)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """tcpserver's parent, where this is preloaded: have what a login needs. Only what is cheap to have in a fork."""
    import hashlib  # noqa: F401
    import hmac  # noqa: F401

    import qmail_smtpd.auth.verifier  # noqa: F401


def edit(words: list[bytes]) -> "NoReturn":
    """Become the command line for the file: click costs three times what a whole login does."""
    python = os.fsencode(sys.executable)
    failure = become([python, *EDITOR, *words], dict(os.environb))
    strerr.die(strerr.TEMPORARY, "checkusers: fatal: unable to run ", python, ": ", strerr.reason(failure))


def users_file(environ: "Mapping[bytes, bytes]") -> bytes:
    return environ.get(b"CHECKUSERS_FILE", home(environ) + USERS)


def judge(given: Credentials, environ: dict[bytes, bytes]) -> bool:
    """Raises Trouble."""
    users = Users(users_file(environ))
    entry = users.check(given.login, lambda stored: accepts(stored, given))
    if entry is None:
        return False
    settle(entry, users, environ)
    return True


def settle(entry: Entry, users: Users, environ: dict[bytes, bytes]) -> None:
    """What checkpassword.c does for the user, but for the uid, which is never changed. Raises Trouble."""
    if entry.field(UID) and os.geteuid() == 0:
        raise Trouble(users.where(entry) + b"it has a uid, which root would have to become")
    environ[b"USER"] = entry.fields[0]
    environ[b"SHELL"] = entry.shell
    environ.pop(b"HOME", None)  # that of whoever has started the server
    directory = entry.field(HOME)
    if not directory:
        return
    environ[b"HOME"] = directory
    try:
        os.chdir(directory)
    except OSError as error:
        raise Trouble(b"unable to chdir to %b: %b" % (directory, strerr.reason(error).encode())) from error
