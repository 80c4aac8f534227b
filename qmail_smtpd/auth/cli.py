"""The command line of checkusers: set, delete and list the users of a users file.

A change is made under a lock and comes by rename: who logs in meanwhile finds the old file or the new one, whole.
"""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from qmail_smtpd.auth import secret
from qmail_smtpd.auth.checker import LIMIT
from qmail_smtpd.auth.checkusers import users_file
from qmail_smtpd.auth.edit import is_name, with_secret, without
from qmail_smtpd.auth.secretfile import read
from qmail_smtpd.auth.trouble import Trouble
from qmail_smtpd.auth.users import Users
from tcprules import strerr
from tcprules.install import Unable, install

UMASK = 0o027  # a new file is its owner's, and its group may read it
NULS = 3  # on descriptor 3, with the login and the password
SCHEMES = [name.decode() for name in secret.SCHEMES]
ROUNDS = "Iterations of SCRAM-SHA-256, cost of BLF-CRYPT, passes of ARGON2ID."


class Unknown(Exception):
    """The user that is to be removed is not there."""


@click.command()
@click.option("--set", "setting", metavar="USER", help="Give USER a password: asked for, or a line of standard input.")
@click.option("--delete", "deleting", metavar="USER", help="Remove USER.")
@click.option("--list", "listing", is_flag=True, help="Show the users, and the schemes of their passwords.")
@click.option("--scheme", type=click.Choice(SCHEMES, case_sensitive=False), default=SCHEMES[0], show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), help=ROUNDS)
@click.pass_context
def main(
    context: click.Context, setting: str | None, deleting: str | None, listing: bool, scheme: str, rounds: int | None
) -> None:
    """Keep the users file of checkusers: $CHECKUSERS_FILE, else control/users in $QMAILHOME.

    With a program in place of these options checkusers is a checkpassword-compatible checker.
    """
    if [setting is not None, deleting is not None, listing].count(True) != 1:
        context.fail("one of --set, --delete and --list")
    path = users_file(os.environb)
    try:
        if setting is not None:
            set_user(path, name(setting), scheme.encode(), rounds)
        elif deleting is not None:
            delete_user(path, name(deleting))
        else:
            list_users(path)
    except Trouble as trouble:
        fatal(strerr.TEMPORARY, trouble.why)
    except Unable as failure:
        fatal(strerr.TEMPORARY, failure.text)
    except Unknown:
        fatal(strerr.PERMANENT, "no such user in ", path)


def fatal(status: int, *words: str | bytes) -> NoReturn:
    """Say why, and end."""
    strerr.die(status, "checkusers: fatal: ", *words)


def name(word: str) -> bytes:
    """A user's name, if it can be one."""
    user = os.fsencode(word)
    if not is_name(user):
        fatal(strerr.PERMANENT, "a name cannot be empty, begin with #, or hold colons or control characters")
    return user


def set_user(path: bytes, user: bytes, scheme: bytes, rounds: int | None) -> None:
    """Replace the user's password, or add the user."""
    password = ask(user)
    try:
        stored = secret.make(scheme, password, rounds)
    except ValueError as error:
        fatal(strerr.PERMANENT, str(error))
    if not os.path.lexists(path):
        strerr.say("checkusers: ", path, " is new: give it the group that the checker runs as")
    replace(path, lambda content: with_secret(content, user, stored))


def ask(user: bytes) -> bytes:
    """The new password: typed twice at a terminal, otherwise the one line of standard input."""
    if sys.stdin.isatty():
        password = ask_twice(f"Password for {user.decode(errors='replace')}")
    else:
        password = sys.stdin.buffer.readline(LIMIT + 1).removesuffix(b"\n")
    if not password or b"\0" in password:
        fatal(strerr.PERMANENT, "a password cannot be empty, nor hold a NUL")
    if len(user) + len(password) + NULS > LIMIT:
        fatal(strerr.PERMANENT, f"name and password are too long for a checker: {LIMIT - NULS} bytes in all")
    return password


def ask_twice(question: str) -> bytes:
    """What is typed twice, unseen."""
    try:
        return os.fsencode(click.prompt(question, hide_input=True, confirmation_prompt="Again", err=True))
    except UnicodeDecodeError:
        fatal(strerr.PERMANENT, "the password is not in the terminal's encoding")


def delete_user(path: bytes, user: bytes) -> None:
    """Remove the user. That there is none is an error: the name may be mistyped."""

    def change(content: bytes) -> bytes:
        changed = without(content, user)
        if changed is None:
            raise Unknown
        return changed

    replace(path, change)


def replace(path: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change the file, or make it. Raises Unable, Trouble."""
    target = os.path.realpath(path)

    def make() -> memoryview:  # called under the lock
        return memoryview(change(read(target) if os.path.lexists(target) else b""))

    os.umask(UMASK)
    install(target, target + b".tmp", make, lambda text: strerr.say("checkusers: warning: ", text))


def list_users(path: bytes) -> None:
    """A line for each entry: the name, a tab, the scheme as it stands there."""
    for entry in Users(path).entries():
        scheme, brace, _ = entry.secret.removeprefix(b"{").partition(b"}")
        click.echo(entry.fields[0] + b"\t" + (scheme if brace else b"-"))


if __name__ == "__main__":
    main(prog_name="checkusers")
