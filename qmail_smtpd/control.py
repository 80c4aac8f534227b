"""Read control files: a line, a number, a list, morercpthosts.cdb. The only reader of control/.

Paths are relative to the qmail home: `home`, or by default the current directory, which `enter` sets. A missing file is
None. Every other error raises Unreadable, and so do a link that leads nowhere, a FIFO, and a file that is too large:
without a file such as rcpthosts a server accepts more.

A process that serves one client after the other keeps what it has read of its home, as long as the directory and the
files are the same (keep). A change counts from the next client.
"""

import errno
import os
from stat import S_ISCHR, S_ISREG
from time import time

from qmail_smtpd.smtp.replies import CONTROLS_UNREADABLE
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeVar

    Value = TypeVar("Value")
    Identity = tuple[int, int, int, int, int]

HOME = b"/var/qmail"  # auto_qmail, as compiled into most originals
READ_BLOCK = 65536
LARGEST = 1 << 26  # bytes of a file that is read whole: three million domains, the same limit as for a users file
UINT_MAX = 0xFFFFFFFF
SIGNIFICANT_DIGITS = 32  # 10**32 is a multiple of 2**32
SETTLED = 2.0  # seconds; a file changed later than this may change again within one tick of its time stamps
PAIR_SIZE = 8  # cdb.txt: two numbers of four bytes
LONGEST_DOMAIN = 255  # RFC 1035 section 2.3.4. 900 dots would be 900 keys to hash: 40 ms if cdblib has no hash in C


def home(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return the qmail home, the directory that contains control/ and bin/."""
    return environ.get(b"QMAILHOME", HOME)


class Kept:
    """What has been read of one home's control files, while the directory and these files are as they were."""

    __slots__ = ("contents", "directory", "files", "settled", "values")

    def __init__(self, directory: "Identity") -> None:
        self.directory = directory
        self.files: dict[bytes, Identity] = {}  # those that exist, and have been read
        self.contents: dict[bytes, bytes | None] = {}
        self.values: dict[str, object] = {}  # what was made of them
        self.settled = True  # whether everything that was read since the home was entered can be kept

    def is_valid(self, directory: "Identity") -> bool:
        """Whether nothing has changed. A file that is made, removed or replaced changes its directory."""
        if directory != self.directory:
            return False
        try:
            return all(identity(os.stat(b"control/" + name)) == found for name, found in self.files.items())
        except OSError:
            return False

    def add(self, name: bytes, content: bytes | None, found: "os.stat_result | None") -> None:
        """Keep a file's content, unless the file may change once more within one tick of its time stamps."""
        if found is not None:
            if not is_settled(found):
                self.settled = False
                return
            self.files[name] = identity(found)
        self.contents[name] = content


kept: dict[bytes, Kept] = {}  # by home, in a process that keeps
keeping: list[bool] = []  # not empty in such a process
entered: list[Kept] = []  # of the home that is the current directory


def keep() -> None:
    """From now on keep what is read of a home that is entered."""
    keeping.append(True)


def enter(directory: bytes) -> None:
    """Make the qmail home the current directory."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise unreadable(directory, error) from error
    if keeping:
        entered[:] = look_at(directory)


def look_at(directory: bytes) -> list[Kept]:
    """What is kept of this home, which is the current directory; nothing where the directory has just changed."""
    try:
        found = os.stat(b"control")
    except OSError:
        return []
    known = kept.get(directory)
    if known is None or not known.is_valid(identity(found)):
        known = kept[directory] = Kept(identity(found))
    known.settled = is_settled(found)
    return [known] if known.settled else []


def made_of_files(name: str, make: "Callable[[], Value]") -> "Value":
    """What `make` makes of control files of the current home, which may be kept from an earlier client."""
    if not entered:
        return make()
    value: Value | None = entered[0].values.get(name)  # type: ignore[assignment]
    if value is None:
        value = make()
        if entered[0].settled:
            entered[0].values[name] = value
    return value


def identity(found: os.stat_result) -> "Identity":
    """What changes when a file does."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_settled(found: os.stat_result) -> bool:
    """Whether the last change is long enough ago for the next one to have other time stamps."""
    return time() - max(found.st_mtime, found.st_ctime) >= SETTLED


def unreadable(path: bytes, error: OSError) -> Unreadable:
    """Return the exception for a path, with djb's text for a system error."""
    from tcprules.strerr import reason  # a table that is needed only for errors

    why = reason(error) if error.errno else "not a cdb"
    return Unreadable(CONTROLS_UNREADABLE, b"unable to read " + path + b": " + why.encode())


def open_control(name: bytes, home: bytes = b".") -> int:
    """Open the control file and return the descriptor, -1 if there is no file."""
    path = home + b"/control/" + name
    try:
        # non-blocking as in open_read.c: opening a FIFO must not wait for a writer
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENOENT and not is_dangling(path):
            return -1
        raise unreadable(b"control/" + name, error) from error


def is_dangling(path: bytes) -> bool:
    """Whether a path that cannot be found ends at a link that leads nowhere: the file's, or a directory's above it."""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    return path != b"" and not os.path.exists(path)


def exists(name: bytes, home: bytes = b".") -> bool:
    """Whether the file exists. True also for a dangling link, which is a mistake, and if the check fails."""
    path = home + b"/control/" + name
    try:
        os.lstat(path)
    except FileNotFoundError:
        return is_dangling(path)
    except OSError:
        return True
    return True


def read(name: bytes, home: bytes = b".") -> bytes | None:
    """Return the content of the file, None if there is no file."""
    keeper = entered[0] if entered and home == b"." else None
    if keeper is not None and name in keeper.contents:
        return keeper.contents[name]
    descriptor = open_control(name, home)
    if descriptor < 0:
        if keeper is not None:
            keeper.add(name, None, None)
        return None
    try:
        found = os.fstat(descriptor)  # before the content: what is newer has another identity
        content = read_all(descriptor, found)
    except OSError as error:
        raise unreadable(b"control/" + name, error) from error
    finally:
        os.close(descriptor)
    if keeper is not None:
        keeper.add(name, content, found)
    return content


def read_all(descriptor: int, found: os.stat_result) -> bytes:
    """Return the content of a file, or of a device such as /dev/null. Raise OSError, also for any other kind of file.

    A FIFO without a writer would be an empty list.
    """
    if not S_ISREG(found.st_mode) and not S_ISCHR(found.st_mode):
        os.read(descriptor, 0)  # EISDIR
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if found.st_size > LARGEST:
        raise too_large()
    blocks = []
    remaining = LARGEST
    while block := os.read(descriptor, READ_BLOCK):
        blocks.append(block)
        remaining -= len(block)
        if remaining < 0:
            raise too_large()
    return b"".join(blocks)


def too_large() -> OSError:
    """Return the exception for a file above LARGEST."""
    return OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def read_line(name: bytes) -> bytes | None:
    """Return the first line without trailing spaces and tabs. No comments, and a CR is data (control_readline)."""
    content = read(name)
    return None if content is None else content.partition(b"\n")[0].rstrip(b" \t")


def leading_digits(text: bytes) -> bytes:
    """Return the digits at the beginning, like scan_ulong.c: no blanks, no sign."""
    return text[: len(text) - len(text.lstrip(b"0123456789"))]


def unsigned(digits: bytes) -> int:
    """Return the number as in qmail-smtpd.c, where numbers have 32 bits and wrap around; 0 without digits."""
    return int(digits[-SIGNIFICANT_DIGITS:] or b"0") % (UINT_MAX + 1)


def list_entries(content: bytes) -> "Iterator[bytes]":
    """Yield the entries of a list file. Leading blanks, CRs and a later `#` are data; a NUL splits (constmap.c)."""
    for line in content.split(b"\n"):
        stripped = line.rstrip(b" \t")
        if stripped and stripped[:1] not in (b"#", b"\0"):
            yield from stripped.split(b"\0")


def read_list(name: bytes) -> frozenset[bytes] | None:
    """Return the entries, lower-cased, None if there is no file. An empty file is an empty list."""
    content = read(name)
    return None if content is None else frozenset(entry.lower() for entry in list_entries(content))


def authsenders(user: bytes) -> frozenset[bytes] | None:
    """Return the user's entries in authsenders (`user: entry entry`), lower-cased, None if there is no file."""
    content = read(b"authsenders")
    if content is None:
        return None
    senders: set[bytes] = set()
    for line in list_entries(content):
        name, _, entries = line.partition(b":")
        if name.strip(b" \t") == user:
            senders.update(entries.lower().split())
    return frozenset(senders)


class MoreRcpthosts:
    """control/morercpthosts.cdb: opened at the start (-1: no file), read when a domain is not in rcpthosts."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def has(self, key: bytes) -> bool:
        """Whether the file has the key. Raises Unreadable for a broken file too."""
        if self.descriptor < 0 or len(key) > LONGEST_DOMAIN:
            return False
        try:
            return self.search(key)
        except OSError as error:
            raise unreadable(b"control/morercpthosts.cdb", error) from error

    def search(self, key: bytes) -> bool:
        """Search slot by slot like cdb_seek.c: always terminates, and in a truncated file still finds what is left."""
        from cdblib import djb_hash  # 0.9 ms, and most sessions never need it

        hashed = djb_hash(key)
        table, slots = self.read_pair(PAIR_SIZE * (hashed & 255))
        slot = (hashed >> 8) % slots if slots else 0
        for _ in range(slots):
            record_hash, position = self.read_pair(table + PAIR_SIZE * slot)
            if not position:
                return False
            if record_hash == hashed and self.has_key(position, key):
                return True
            slot = (slot + 1) % slots
        return False

    def has_key(self, record: int, key: bytes) -> bool:
        """Whether the record at this position has this key."""
        length, _ = self.read_pair(record)
        return length == len(key) and self.read(record + PAIR_SIZE, length) == key

    def read_pair(self, position: int) -> tuple[int, int]:
        """Read two numbers of four bytes."""
        pair = self.read(position, PAIR_SIZE)
        return int.from_bytes(pair[:4], "little"), int.from_bytes(pair[4:], "little")

    def read(self, position: int, length: int) -> bytes:
        """Read by pread: a file that shrinks is an error, while a mapped one would raise SIGBUS."""
        data = os.pread(self.descriptor, length, position)
        if len(data) < length:
            raise OSError("not a cdb")
        return data
