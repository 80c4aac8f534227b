"""What the programs share that compile a list in control/ into a cdb: qmail-newmrh and qmail-newvrt."""

import errno
import os

from qmail_smtpd import control
from qmail_smtpd.smtp.settings import Unreadable
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

UMASK = 0o033  # qmail-newmrh.c


def enter_home(program: str) -> None:
    """Make the qmail home the current directory, or exit with 111 and one line."""
    os.umask(UMASK)
    home = control.home(os.environb)
    try:
        os.chdir(home)
    except OSError as error:
        fail(program, "unable to chdir to ", home, ": ", strerr.reason(error))


def read_list(program: str, name: bytes) -> bytes:
    """Return the content of control/NAME. Exits with 111 and one line if it is missing or cannot be read."""
    try:
        content = control.read(name)
    except Unreadable as error:
        fail(program, error.why)
    if content is None:
        fail(program, "unable to read control/", name, ": ", strerr.WORDS[errno.ENOENT])
    return content


def fail(program: str, *parts: str | bytes) -> "NoReturn":
    """Exit with 111 and one line."""
    strerr.die(strerr.TEMPORARY, program, ": fatal: ", *parts)


def warner(program: str) -> "Callable[[bytes], None]":
    """Return a function that writes a warning."""
    return lambda text: strerr.say(program, ": warning: ", text)
