"""Control files: a line, a number, a list, the cdb of further rcpthosts. The only reader of control/.

Paths are relative to the qmail home: to the current directory, which `enter` makes it, unless a `home` is given. Every
error but a missing file is Unreadable.
"""

import errno
import os

from qmail_smtpd.smtp.replies import CONTROLS_UNREADABLE
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOME = b"/var/qmail"  # auto_qmail, as compiled into most originals
READ_BLOCK = 65536
UINT_MAX = 0xFFFFFFFF
TELLING_DIGITS = 32  # 10**32 is a multiple of 2**32
PAIR = 8  # cdb.txt: two numbers of four bytes
LONGEST_DOMAIN = 255  # RFC 1035 section 2.3.4: 900 dots would be 900 keys to hash, 40 ms where cdblib has no hash in C


def home(environ: "Mapping[bytes, bytes]") -> bytes:
    """The directory that holds control/ and bin/."""
    return environ.get(b"QMAILHOME", HOME)


def enter(directory: bytes) -> None:
    """Make the home the current directory: all paths are relative to it."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise unreadable(directory, error) from error


def unreadable(path: bytes, error: OSError) -> Unreadable:
    """What to raise for a path, in djb's words where it is the system that failed."""
    from tcprules.strerr import reason  # a table that a session without trouble does not need

    why = reason(error) if error.errno else "not a cdb"
    return Unreadable(CONTROLS_UNREADABLE, b"unable to read " + path + b": " + why.encode())


def open_control(name: bytes, home: bytes = b".") -> int:
    """A descriptor on the control file, -1 where there is none."""
    try:
        # open_read.c: a FIFO must not keep us waiting
        return os.open(home + b"/control/" + name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return -1
        raise unreadable(b"control/" + name, error) from error


def exists(name: bytes, home: bytes = b".") -> bool:
    """Whether there is such a file, or may be: a link that leads nowhere is somebody's mistake, not a no."""
    try:
        os.lstat(home + b"/control/" + name)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def read(name: bytes, home: bytes = b".") -> bytes | None:
    """The whole file, None where there is none."""
    descriptor = open_control(name, home)
    if descriptor < 0:
        return None
    blocks = []
    try:
        while block := os.read(descriptor, READ_BLOCK):
            blocks.append(block)
    except OSError as error:
        raise unreadable(b"control/" + name, error) from error
    finally:
        os.close(descriptor)
    return b"".join(blocks)


def read_line(name: bytes) -> bytes | None:
    """The first line without its trailing spaces and tabs; no comments, and a CR is data (control_readline)."""
    content = read(name)
    return None if content is None else content.partition(b"\n")[0].rstrip(b" \t")


def leading_digits(text: bytes) -> bytes:
    """The digits at the beginning, as scan_ulong.c takes them: no blanks, no sign."""
    return text[: len(text) - len(text.lstrip(b"0123456789"))]


def unsigned(digits: bytes) -> int:
    """What the digits are to qmail-smtpd.c, whose numbers have 32 bits and wrap; 0 without digits."""
    return int(digits[-TELLING_DIGITS:] or b"0") % (UINT_MAX + 1)


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


def authsenders(user: bytes) -> frozenset[bytes] | None:
    """The user's entries in authsenders (`user: entry entry`), lower-cased; None where there is no such file."""
    content = read(b"authsenders")
    if content is None:
        return None
    found: set[bytes] = set()
    for entry in list_entries(content):
        name, _, senders = entry.partition(b":")
        if name.strip(b" \t") == user:
            found.update(senders.lower().split())
    return frozenset(found)


class MoreRcpthosts:
    """control/morercpthosts.cdb: open since the start (-1: there is none), read when a domain is not in rcpthosts."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Give the file back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def has(self, key: bytes) -> bool:
        """Whether the key is there; its data does not matter. Whatever is wrong with the file: Unreadable."""
        if self.descriptor < 0 or len(key) > LONGEST_DOMAIN:
            return False
        try:
            return self.search(key)
        except OSError as error:
            raise unreadable(b"control/morercpthosts.cdb", error) from error

    def search(self, key: bytes) -> bool:
        """Slot by slot as cdb_seek.c: a file that was cut short answers from what is left of it, and always ends."""
        from cdblib import djb_hash  # 0.9 ms, and most sessions never need it

        hashed = djb_hash(key)
        table, slots = self.read_pair(PAIR * (hashed & 255))
        slot = (hashed >> 8) % slots if slots else 0
        for _ in range(slots):
            found, position = self.read_pair(table + PAIR * slot)
            if not position:
                return False
            if found == hashed and self.has_key(position, key):
                return True
            slot = (slot + 1) % slots
        return False

    def has_key(self, record: int, key: bytes) -> bool:
        """Whether the record at this position is for the key."""
        length, _ = self.read_pair(record)
        return length == len(key) and self.read(record + PAIR, length) == key

    def read_pair(self, position: int) -> tuple[int, int]:
        """Two numbers of four bytes."""
        pair = self.read(position, PAIR)
        return int.from_bytes(pair[:4], "little"), int.from_bytes(pair[4:], "little")

    def read(self, position: int, length: int) -> bytes:
        """So many bytes, by pread: a file that shrinks is an error, never the SIGBUS of a mapped one."""
        data = os.pread(self.descriptor, length, position)
        if len(data) < length:
            raise OSError("not a cdb")
        return data
