"""qmail-newvrt: compile control/validrcptto into control/validrcptto.cdb, in which qmail-smtpd looks up recipients."""

import errno
import os

from qmail_smtpd import control
from qmail_smtpd.recipients.entries import REFUSES, Entries
from qmail_smtpd.recipients.listed import CDB, DOMAIN, LIST, STAMP, stamp, warn_of_mistakes
from qmail_smtpd.smtp.settings import Unreadable
from tcprules import strerr
from tcprules.compile import Unable, write_cdb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

FATAL = "qmail-newvrt: fatal: "
UMASK = 0o033  # qmail-newmrh.c


def main() -> "NoReturn":
    """Run the program. Takes no arguments; exits with 0, or with 111 and one line about the error."""
    os.umask(UMASK)
    home = control.home(os.environb)
    try:
        os.chdir(home)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to chdir to ", home, ": ", strerr.reason(error))
    compiled, content = read_list()
    entries = Entries(control.list_entries(content))
    try:
        write_cdb(b"control/" + CDB, b"control/validrcptto.tmp", records(entries, compiled), warn)
    except Unable as failure:
        strerr.die(strerr.TEMPORARY, FATAL, failure.text)
    warn_of_mistakes(entries, lambda name, text: warn(b"control/" + name + b" " + text))
    os._exit(0)


def warn(text: bytes) -> None:
    """Write a warning."""
    strerr.say("qmail-newvrt: warning: ", text)


def read_list() -> tuple[bytes, bytes]:
    """Return the stamp of the list and its content. Exits if it is missing or cannot be read."""
    try:
        status = control.watch(LIST)  # before the list is read: a later change then has another stamp
        content = control.read(LIST)
    except Unreadable as error:
        strerr.die(strerr.TEMPORARY, FATAL, error.why)
    if status is None or content is None:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to read control/", LIST, ": ", strerr.WORDS[errno.ENOENT])
    return stamp(status), content


def records(entries: Entries, compiled: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """Yield the records: those of mkvalidrcptto (data `-`: refuse), the domains, and the stamp of the list."""
    for key, accepts in entries.keys.items():
        yield key, b"" if accepts else REFUSES
    for domain in sorted(entries.domains):
        yield DOMAIN + domain, b""
    yield STAMP, compiled
