"""qmail-newmrh: compile control/morercpthosts into control/morercpthosts.cdb, in which qmail-smtpd looks up domains."""

import errno
import os

from qmail_smtpd import control
from qmail_smtpd.setup import Reader
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
    """Run the program. Takes no arguments; exits with 0, or with 111 and one line about the error."""
    os.umask(UMASK)
    home = control.home(os.environb)
    try:
        os.chdir(home)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to chdir to ", home, ": ", strerr.reason(error))
    content = read_hosts()
    try:
        write_cdb(CDB, TMP, records(content), warn)
    except Unable as failure:
        # The original has one text for every error with the temporary file.
        strerr.die(strerr.TEMPORARY, FATAL, failure.text.replace(b"unable to create ", b"unable to write to ", 1))
    reader = Reader()
    reader.check_domains(HOSTS, frozenset(entry for entry, _ in records(content)))
    for text in reader.warnings:
        warn(text)
    os._exit(0)


def warn(text: bytes) -> None:
    """Write a warning. The original has none."""
    strerr.say("qmail-newmrh: warning: ", text)


def read_hosts() -> bytes:
    """Return the content of the text file. Exits if it is missing or cannot be read."""
    try:
        content = control.read(HOSTS)
    except Unreadable as error:
        strerr.die(strerr.TEMPORARY, FATAL, error.why)
    if content is None:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to read control/", HOSTS, ": ", strerr.WORDS[errno.ENOENT])
    return content


def records(content: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """Yield a record without data for each entry, lower-cased. A NUL is data, unlike in a list (qmail-newmrh.c)."""
    for line in content.lower().split(b"\n"):
        entry = line.rstrip(b" \t")
        if entry and not entry.startswith(b"#"):
            yield entry, b""
