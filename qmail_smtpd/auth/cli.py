"""The command line of checkusers: set, delete and list the users of a users file.

The file is changed under a lock and replaced by rename: a login sees either the old file or the new one, complete.
"""

import os
import signal
from collections.abc import Callable
from typing import NoReturn

import click

from qmail_smtpd.auth import secret
from qmail_smtpd.auth.checker import LIMIT
from qmail_smtpd.auth.checkusers import users_file
from qmail_smtpd.auth.edit import is_name, with_secret, without_user
from qmail_smtpd.auth.errors import CannotVerify
from qmail_smtpd.auth.secretfile import read
from qmail_smtpd.auth.users import Users
from tcprules import strerr
from tcprules.install import Unable, install

UMASK = 0o027  # a new file is readable by its group, and not by others
NULS = 3  # in the fields on descriptor 3, besides name and password
SCHEMES = [name.decode() for name in secret.SCHEMES]
ROUNDS = "Iterations of SCRAM-SHA-256, cost of BLF-CRYPT, passes of ARGON2ID."


class UnknownUser(Exception):
    """The user to be deleted does not exist."""


def main() -> None:
    """Run the program."""
    strerr.occupy_standard_descriptors()
    try:
        edit(prog_name="checkusers")
    except OSError as error:  # only click's echo raises it: failures of the file are CannotVerify and Unable
        fatal(strerr.TEMPORARY, "unable to write output: ", strerr.reason(error))


@click.command()
@click.option("--set", "setting", metavar="USER", help="Set USER's password: prompt, or read a line of standard input.")
@click.option("--delete", "deleting", metavar="USER", help="Delete USER.")
@click.option("--list", "listing", is_flag=True, help="List the users and the schemes of their passwords.")
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES, case_sensitive=False),
    default=SCHEMES[0],
    show_default=True,
    help="How --set stores the password.",
)
@click.option("--rounds", type=click.IntRange(min=1), help=ROUNDS)
@click.pass_context
def edit(
    context: click.Context, setting: str | None, deleting: str | None, listing: bool, scheme: str, rounds: int | None
) -> None:
    """Edit the users file of checkusers: $CHECKUSERS_FILE, or by default control/users in $QMAILHOME.

    With a program instead of these options, checkusers is a checkpassword-compatible checker.
    """
    if [setting is not None, deleting is not None, listing].count(True) != 1:
        context.fail("give exactly one of --set, --delete and --list")
    path = users_file(os.environb)
    try:
        if setting is not None:
            set_user(path, user_name(setting), scheme.encode(), rounds)
        elif deleting is not None:
            delete_user(path, user_name(deleting))
        else:
            list_users(path)
    except CannotVerify as error:
        fatal(strerr.TEMPORARY, error.why)
    except Unable as failure:
        fatal(strerr.TEMPORARY, failure.text)
    except UnknownUser:
        fatal(strerr.PERMANENT, "no such user in ", path)


def fatal(status: int, *words: str | bytes) -> NoReturn:
    """Report the error and exit with this status."""
    strerr.die(status, "checkusers: fatal: ", *words)


def user_name(word: str) -> bytes:
    """Return the name as bytes. Exit if it cannot be the name of an entry."""
    user = os.fsencode(word)
    if not is_name(user):
        fatal(strerr.PERMANENT, "a name cannot be empty, begin with #, or contain colons or control characters")
    return user


def set_user(path: bytes, user: bytes, scheme: bytes, rounds: int | None) -> None:
    """Replace the user's password, or add the user."""
    password = read_password(user)
    try:
        stored = secret.make(scheme, password, rounds)
    except ValueError as error:
        fatal(strerr.PERMANENT, str(error))
    is_new = not os.path.lexists(path)
    change_file(path, lambda content: with_secret(content, user, stored))
    if is_new:
        strerr.say("checkusers: ", path, " is new: give it the group that the checker runs as")


def read_password(user: bytes) -> bytes:
    """Read the new password: from two prompts at a terminal, otherwise from one line of standard input."""
    if os.isatty(0):
        password = prompt_twice(f"Password for {user.decode(errors='replace')}")
    else:
        password = read_line()
    if not password or b"\0" in password:
        fatal(strerr.PERMANENT, "a password cannot be empty or contain a NUL")
    if len(user) + len(password) + NULS > LIMIT:
        fatal(strerr.PERMANENT, f"name and password are too long for a checker: at most {LIMIT - NULS} bytes together")
    return password


def read_line() -> bytes:
    """Return the first line of standard input. Of a line over LIMIT, return LIMIT + 1 bytes, which are refused."""
    try:
        with open(0, "rb", closefd=False) as file:
            return file.readline(LIMIT + 1).removesuffix(b"\n")
    except OSError as error:
        fatal(strerr.TEMPORARY, "unable to read input: ", strerr.reason(error))


def prompt_twice(question: str) -> bytes:
    """Prompt twice for the password, without echo. Ctrl-C turns echo on again."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return os.fsencode(click.prompt(question, hide_input=True, confirmation_prompt="Again", err=True))
    except UnicodeDecodeError:
        fatal(strerr.PERMANENT, "the password is not in the terminal's encoding")
    finally:
        signal.signal(signal.SIGINT, before)


def delete_user(path: bytes, user: bytes) -> None:
    """Delete the user. An unknown user is an error, because the name may be mistyped."""

    def change(content: bytes) -> bytes:
        changed = without_user(content, user)
        if changed is None:
            raise UnknownUser
        return changed

    change_file(path, change)


def change_file(path: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change the file, or create it. Raises Unable, CannotVerify."""
    target = os.path.realpath(path)

    def changed_content() -> memoryview:  # called under the lock
        return memoryview(change(read(target) if os.path.lexists(target) else b""))

    os.umask(UMASK)
    install(target, target + b".tmp", changed_content, lambda text: strerr.say("checkusers: warning: ", text))


def list_users(path: bytes) -> None:
    """Print a line for each entry: the name, a tab, the scheme as it is in the file."""
    for entry in Users(path).entries():
        scheme, brace, _ = entry.secret.removeprefix(b"{").partition(b"}")
        click.echo(entry.fields[0] + b"\t" + (scheme if brace else b"-"))
