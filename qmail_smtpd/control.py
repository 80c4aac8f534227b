"""Read control files: a line, a number, a list.

Paths are relative to the qmail home: `home`, or by default the current directory, which `enter` sets. A missing file is
None. Every other error raises Unreadable, and so do a dangling link, a FIFO and a file that is too large: they must not
count as a missing file, because without rcpthosts, for example, a server accepts more mail.

A process that serves one client after another can cache the files of its home (enable_cache). The cache is used as long
as the directory and the files have not changed: a change takes effect with the next client.
"""

import errno
import os
from stat import S_ISCHR, S_ISREG
from time import time

from qmail_smtpd.smtp.replies import CONTROLS_UNREADABLE
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import TypeVar

    Value = TypeVar("Value")
    Identity = tuple[int, int, int, int, int]

HOME = b"/var/qmail"  # auto_qmail, as compiled into most originals
READ_BLOCK = 65536
LARGEST = 1 << 26  # bytes of a file that is read whole: three million domains, the same limit as for a users file
UINT_MAX = 0xFFFFFFFF
SIGNIFICANT_DIGITS = 32  # 10**32 is a multiple of 2**32
SETTLED = 2.0  # seconds; a file that was changed more recently may change again without a newer time stamp
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # with which editors on Windows begin a file


def home(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return the qmail home, the directory that contains control/ and bin/."""
    return environ.get(b"QMAILHOME", HOME)


class HomeCache:
    """The control files of one home that have been read, valid as long as they and their directory do not change."""

    __slots__ = ("contents", "directory", "files", "settled", "values")

    def __init__(self, directory: "Identity") -> None:
        self.directory = directory
        self.files: dict[bytes, Identity] = {}  # the files that exist and have been read
        self.contents: dict[bytes, bytes | None] = {}
        self.values: dict[str, object] = {}  # values computed from the files
        self.settled = True  # whether everything that was read since the home was entered can be cached

    def is_valid(self, directory: "Identity") -> bool:
        """Whether nothing has changed. Creating, removing or replacing a file changes its directory."""
        if directory != self.directory:
            return False
        try:
            return all(identity(os.stat(b"control/" + name)) == known for name, known in self.files.items())
        except OSError:
            return False

    def add(self, name: bytes, content: bytes | None, status: "os.stat_result | None") -> None:
        """Cache a file's content, unless the file may change again without a newer time stamp."""
        if status is not None:
            if not is_settled(status):
                self.settled = False
                return
            self.files[name] = identity(status)
        self.contents[name] = content


caches: dict[bytes, HomeCache] = {}  # by home
cache_enabled: list[bool] = []  # not empty if so
current_cache: list[HomeCache] = []  # the cache of the current directory, if it has one


def enable_cache() -> None:
    """Cache the control files of each home that is entered from now on."""
    cache_enabled.append(True)


def enter(directory: bytes) -> None:
    """Make the qmail home the current directory."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise unreadable(directory, error) from error
    if cache_enabled:
        current_cache[:] = find_cache(directory)


def leave() -> None:
    """Forget the home that was entered, because the current directory is no longer it. The cache stays."""
    current_cache.clear()


def total_size(names: "Collection[bytes]") -> int:
    """Return the total size of these files in bytes. A file that stat() cannot find or read counts as empty."""
    size = 0
    for name in names:
        try:
            size += os.stat(b"control/" + name).st_size
        except OSError:
            continue
    return size


def find_cache(directory: bytes) -> list[HomeCache]:
    """Return the cache of the home that is the current directory, or none if the directory has just changed."""
    try:
        status = os.stat(b"control")
    except OSError:
        return []
    cache = caches.get(directory)
    if cache is None or not cache.is_valid(identity(status)):
        cache = caches[directory] = HomeCache(identity(status))
    cache.settled = is_settled(status)
    return [cache] if cache.settled else []


def cached(name: str, compute: "Callable[[], Value]") -> "Value":
    """Return the cached value of this name, or the result of `compute`, a function of the home's control files."""
    if not current_cache:
        return compute()
    value: Value | None = current_cache[0].values.get(name)  # type: ignore[assignment]
    if value is None:
        value = compute()
        if current_cache[0].settled:
            current_cache[0].values[name] = value
    return value


def do_not_cache() -> None:
    """Keep nothing of what is computed from now on until the next home is entered."""
    if current_cache:
        current_cache[0].settled = False


def identity(status: os.stat_result) -> "Identity":
    """Return a value that changes when the file changes."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(status: os.stat_result) -> bool:
    """Whether the last change is so long ago that the next one will have a newer time stamp."""
    return time() - max(status.st_mtime, status.st_ctime) >= SETTLED


def watch(name: bytes) -> "os.stat_result | None":
    """Return the status of the file, None if there is none. A change of it makes what has been cached invalid."""
    try:
        status = os.stat(b"control/" + name)
    except OSError as error:
        if error.errno == errno.ENOENT and not is_dangling(b"control/" + name):
            return None
        raise unreadable(b"control/" + name, error) from error
    if not current_cache:
        return status
    if is_settled(status):
        current_cache[0].files[name] = identity(status)
    else:
        current_cache[0].settled = False
    return status


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
    """Whether a path that does not exist leads to a dangling link: its own, or that of a directory above it."""
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


def present(names: "Collection[bytes]", home: bytes = b".") -> list[bytes]:
    """Return those of the names that are in the directory, sorted. Return none if it cannot be listed."""
    try:
        return sorted(set(os.listdir(home + b"/control")).intersection(names))
    except OSError:
        return []


def read(name: bytes, home: bytes = b".") -> bytes | None:
    """Return the content of the file, None if there is no file."""
    cache = current_cache[0] if current_cache and home == b"." else None
    if cache is not None and name in cache.contents:
        return cache.contents[name]
    descriptor = open_control(name, home)
    if descriptor < 0:
        if cache is not None:
            cache.add(name, None, None)
        return None
    try:
        status = os.fstat(descriptor)  # before the read: a later change then has another identity
        content = read_all(descriptor, status)
    except OSError as error:
        raise unreadable(b"control/" + name, error) from error
    finally:
        os.close(descriptor)
    if cache is not None:
        cache.add(name, content, status)
    return content


def read_all(descriptor: int, status: os.stat_result) -> bytes:
    """Return the content of a regular file, or of a device such as /dev/null. Raises OSError for other kinds of file.

    A FIFO without a writer would be taken for an empty list.
    """
    if not S_ISREG(status.st_mode) and not S_ISCHR(status.st_mode):
        os.read(descriptor, 0)  # EISDIR
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if status.st_size > LARGEST:
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
    return None if content is None else first_line(content)


def first_line(content: bytes) -> bytes:
    """Return the first line of a content without trailing spaces and tabs."""
    return content.partition(b"\n")[0].rstrip(b" \t")


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
    for line in list_entries(content.removeprefix(BYTE_ORDER_MARK)):
        name, _, entries = line.partition(b":")
        if name.strip(b" \t") == user:
            senders.update(entries.lower().split())
    return frozenset(senders)
