"""qmail-newmrh: compile control/morercpthosts into control/morercpthosts.cdb, in which qmail-smtpd looks up domains."""

import os

from qmail_smtpd.control_checks import Reader
from qmail_smtpd.recipients.compiling import enter_home, fail, read_list, warner
from tcprules.compile import Unable, write_cdb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

PROGRAM = "qmail-newmrh"
HOSTS, CDB, TMP = b"morercpthosts", b"control/morercpthosts.cdb", b"control/morercpthosts.tmp"


def main() -> "NoReturn":
    """Run the program. Takes no arguments; exits with 0, or with 111 and one line about the error."""
    enter_home(PROGRAM)
    content = read_list(PROGRAM, HOSTS)
    warn = warner(PROGRAM)  # the original has no warnings
    try:
        write_cdb(CDB, TMP, records(content), warn)
    except Unable as failure:
        # The original has one text for every error with the temporary file.
        fail(PROGRAM, failure.text.replace(b"unable to create ", b"unable to write to ", 1))
    reader = Reader()
    reader.check_domains(HOSTS, frozenset(entry for entry, _ in records(content)))
    for text in reader.warnings:
        warn(text)
    os._exit(0)


def records(content: bytes) -> "Iterator[tuple[bytes, bytes]]":
    """Yield a record without data for each entry, lower-cased. A NUL is data, unlike in a list (qmail-newmrh.c)."""
    for line in content.lower().split(b"\n"):
        entry = line.rstrip(b" \t")
        if entry and not entry.startswith(b"#"):
            yield entry, b""
