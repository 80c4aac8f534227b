"""qmail-newmrh: compile control/morercpthosts into control/morercpthosts.cdb, which qmail-smtpd looks domains up in."""

import errno
import os

from qmail_smtpd import control
from qmail_smtpd.smtp.settings import Unreadable
from tcprules import strerr
from tcprules.compile import Unable, write_cdb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

FATAL = "qmail-newmrh: fatal: "
HOSTS, CDB, TMP = b"morercpthosts", b"control/morercpthosts.cdb", b"control/morercpthosts.tmp"
UMASK = 0o033  # qmail-newmrh.c


def main() -> "NoReturn":
    """The program. Takes no arguments; ends with 0, or 111 and a line that says why."""
    os.umask(UMASK)
    home = control.home(os.environb)
    try:
        os.chdir(home)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to chdir to ", home, ": ", strerr.reason(error))
    try:
        write_cdb(CDB, TMP, records(read_hosts()), lambda text: strerr.say("qmail-newmrh: warning: ", text))
    except Unable as failure:
        # The original has one text for everything that can go wrong with the temporary file.
        strerr.die(strerr.TEMPORARY, FATAL, failure.text.replace(b"unable to create ", b"unable to write to ", 1))
    os._exit(0)


def read_hosts() -> bytes:
    """The text file. Without it there is nothing to compile, which is an error."""
    try:
        content = control.read(HOSTS)
    except Unreadable as trouble:
        strerr.die(strerr.TEMPORARY, FATAL, trouble.why)
    if content is None:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to read control/", HOSTS, ": ", strerr.WORDS[errno.ENOENT])
    return content


def records(content: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """One record without data for each entry, lower-cased. A NUL is a byte like any other here (qmail-newmrh.c)."""
    for line in content.lower().split(b"\n"):
        entry = line.rstrip(b" \t")
        if entry and not entry.startswith(b"#"):
            yield entry, b""
