"""Control files: a line, a number, a list, the cdb of further rcpthosts. The only reader of control/.

Paths are relative to the qmail home, which `enter` makes the current directory. Every error but a missing file is
Unreadable.
"""

import errno
import os

from qmail_smtpd.policy import Unreadable
from qmail_smtpd.replies import CONTROLS_UNREADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOME = b"/var/qmail"  # auto_qmail, as compiled into most originals
READ_BLOCK = 65536
CDB_HEADER = 2048  # cdb: 256 pairs of 4 byte numbers
LONGEST_NUMBER = 18  # digits: as many as fit in 64 bits whatever they are; a longer number is as good as infinite


def home(environ: "Mapping[bytes, bytes]") -> bytes:
    """The directory that holds control/ and bin/."""
    return environ.get(b"QMAILHOME", HOME)


def enter(directory: bytes) -> None:
    """Make the home the current directory: all paths are relative to it."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise unreadable(directory, error) from error


def unreadable(path: bytes, error: Exception) -> Unreadable:
    """What to raise for a path, in djb's words where it is the system that failed."""
    from tcprules.strerr import reason  # a table that a session without trouble does not need

    why = reason(error) if isinstance(error, OSError) and error.errno else "not a cdb"
    return Unreadable(CONTROLS_UNREADABLE, b"unable to read " + path + b": " + why.encode())


def open_control(name: bytes) -> int:
    """A descriptor on the control file, -1 where there is none."""
    try:
        return os.open(b"control/" + name, os.O_RDONLY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return -1
        raise unreadable(b"control/" + name, error) from error


def read(name: bytes) -> bytes | None:
    """The whole file, None where there is none."""
    descriptor = open_control(name)
    if descriptor < 0:
        return None
    content = b""
    try:
        while block := os.read(descriptor, READ_BLOCK):
            content += block
    except OSError as error:
        raise unreadable(b"control/" + name, error) from error
    finally:
        os.close(descriptor)
    return content


def read_line(name: bytes) -> bytes | None:
    """The first line without its trailing spaces and tabs; no comments, and a CR is data (control_readline)."""
    content = read(name)
    return None if content is None else content.partition(b"\n")[0].rstrip(b" \t")


def leading_number(text: bytes) -> int | None:
    """The digits at the beginning (scan_ulong.c), None where there are none."""
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits[:LONGEST_NUMBER]) if digits else None


def list_entries(content: bytes) -> "Iterator[bytes]":
    """The entries of a list file: leading blanks, CRs and a later `#` are data, a NUL parts entries (constmap.c)."""
    for line in content.split(b"\n"):
        stripped = line.rstrip(b" \t")
        if stripped and stripped[:1] not in (b"#", b"\0"):
            yield from stripped.split(b"\0")


def read_list(name: bytes) -> frozenset[bytes] | None:
    """The entries, lower-cased, None where there is no file. An empty file is a list of nothing."""
    content = read(name)
    return None if content is None else frozenset(entry.lower() for entry in list_entries(content))


class CdbBytes:
    """The bytes of a cdb as the sequence that cdblib reads, by pread: a file that shrinks is an error, never a SIGBUS.

    cdblib's own search has no end in a table without an empty slot: `reads_left` gives it one.
    """

    __slots__ = ("descriptor", "header", "reads_left", "size")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.header = os.pread(descriptor, CDB_HEADER, 0)
        self.reads_left = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        if part.stop <= CDB_HEADER:
            return self.header[part]
        self.reads_left -= 1
        if self.reads_left < 0 or part.stop > self.size:
            raise OSError("not a cdb")
        return os.pread(self.descriptor, part.stop - part.start, part.start)


class MoreRcpthosts:
    """control/morercpthosts.cdb: open since the start (-1: there is none), read when a domain is not in rcpthosts."""

    __slots__ = ("content", "descriptor", "reader")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.content: CdbBytes | None = None

    def has(self, key: bytes) -> bool:
        """Whether the key is there; its data does not matter. Whatever is wrong with the file: Unreadable."""
        if self.descriptor < 0:
            return False
        from struct import error as StructError

        try:
            return self.search(key)
        except (OSError, StructError, IndexError) as error:
            raise unreadable(b"control/morercpthosts.cdb", error) from error

    def search(self, key: bytes) -> bool:
        """Look the key up with cdblib, which costs 0.9 ms to import: most sessions never need it."""
        from cdblib import Reader

        if self.content is None:
            self.content = CdbBytes(self.descriptor)
            self.reader = Reader(self.content)
        table = self.reader.hash_key(key)[1] % 256
        self.content.reads_left = 3 * self.reader.index[table][1] + 1  # a slot, a record's head and its key each
        return self.reader.get(key) is not None
