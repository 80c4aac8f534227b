"""checkusers: a checker for the users and password hashes in a Dovecot passwd-file.

If the first argument begins with `--`, it edits that file instead (cli.py).
"""

import os
import sys

from qmail_smtpd.auth.checker import Credentials, accepts, digest_and_challenge, run
from qmail_smtpd.auth.errors import CannotVerify
from qmail_smtpd.auth.users import HOME, UID, Entry, Users
from qmail_smtpd.control import home
from tcprules import strerr
from tcpserver.chain import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

USERS = b"/control/users"  # in the qmail home
START_EDITOR = b"from tcprules.entry import start; start('checkusers', 'qmail_smtpd.auth.cli')"
EDITOR = (b"-P", b"-c", START_EDITOR)  # -P: import nothing from the current directory


def main() -> "NoReturn":
    """Run the program."""
    if sys.argv[1:] and sys.argv[1].startswith("--"):
        exec_editor([os.fsencode(word) for word in sys.argv[1:]])
    run("checkusers", "checkusers prog | --set user | --delete user | --list", check_credentials)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """Load, in tcpserver's parent, what a login needs and what is cheap to have in a fork."""
    import hashlib  # noqa: F401
    import hmac  # noqa: F401

    import qmail_smtpd.auth.verifier  # noqa: F401


def exec_editor(words: list[bytes]) -> "NoReturn":
    """Become the program that edits the file: to import click costs three times as much as a whole login."""
    python = os.fsencode(sys.executable)
    failure = become([python, *EDITOR, *words], dict(os.environb))
    strerr.die(strerr.TEMPORARY, "checkusers: fatal: unable to run ", python, ": ", strerr.reason(failure))


def users_file(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return the path of the users file."""
    return environ.get(b"CHECKUSERS_FILE", home(environ) + USERS)


def check_credentials(given: Credentials, environ: dict[bytes, bytes]) -> bool:
    """Whether the credentials are right; if so, prepare the process for PROG. Raises CannotVerify, UnsuitableScheme."""
    users = Users(users_file(environ))
    entry = users.check(given.login, lambda stored: accepts(stored, given))
    if entry is None:
        if digest_and_challenge(given):
            users.require_plaintext(given.login)
        return False
    set_up(entry, users, environ)
    return True


def set_up(entry: Entry, users: Users, environ: dict[bytes, bytes]) -> None:
    """Set environment and directory as checkpassword.c does. The uid is never changed. Raises CannotVerify."""
    if entry.field(UID) and os.geteuid() == 0:
        raise CannotVerify(users.location(entry) + b"it has a uid, so checkusers must not run as root")
    environ[b"USER"] = entry.fields[0]
    environ[b"SHELL"] = entry.shell
    environ.pop(b"HOME", None)  # it is the home of the account that started the server
    directory = entry.field(HOME)
    if not directory:
        return
    environ[b"HOME"] = directory
    try:
        os.chdir(directory)
    except OSError as error:
        raise CannotVerify(b"unable to chdir to %b: %b" % (directory, strerr.reason(error).encode())) from error
