"""qmail-newvrt: compile control/validrcptto into control/validrcptto.cdb, in which qmail-smtpd looks up recipients."""

import os

from qmail_smtpd import control
from qmail_smtpd.recipients.compiling import enter_home, fail, read_list, warner
from qmail_smtpd.recipients.entries import REFUSES, Entries
from qmail_smtpd.recipients.listed import CDB, DOMAIN, LIST, STAMP, stamp, warn_of_mistakes
from qmail_smtpd.smtp.settings import Unreadable
from tcprules.compile import Unable, write_cdb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

PROGRAM = "qmail-newvrt"


def main() -> "NoReturn":
    """Run the program. Takes no arguments; exits with 0, or with 111 and one line about the error."""
    enter_home(PROGRAM)
    compiled = list_stamp()  # before the list is read: a later change then has another stamp
    entries = Entries(control.list_entries(read_list(PROGRAM, LIST)))
    warn = warner(PROGRAM)
    try:
        write_cdb(b"control/" + CDB, b"control/validrcptto.tmp", records(entries, compiled), warn)
    except Unable as failure:
        fail(PROGRAM, failure.text)
    warn_of_mistakes(entries, lambda name, text: warn(b"control/" + name + b" " + text))
    os._exit(0)


def list_stamp() -> bytes:
    """Return the stamp of the list, empty if there is none. Exits if that cannot be found out."""
    try:
        status = control.watch(LIST)
    except Unreadable as error:
        fail(PROGRAM, error.why)
    return b"" if status is None else stamp(status)


def records(entries: Entries, compiled: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """Yield the records: those of mkvalidrcptto (data `-`: refuse), the domains, and the stamp of the list."""
    for key, accepts in entries.keys.items():
        yield key, b"" if accepts else REFUSES
    for domain in sorted(entries.domains):
        yield DOMAIN + domain, b""
    yield STAMP, compiled
