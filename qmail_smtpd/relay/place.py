"""Files of a store: read whole, written aside and moved into their place, and locks that are not waited for forever.

Names in a store's directory are never followed through a link: its group may write there, and root cleans up.
"""

import errno
import fcntl
import os
import stat
from time import monotonic, sleep, time

from qmail_smtpd.relay.trouble import Trouble, unable

MODE = 0o644  # whatever the umask: who logs in is not who checks
UNFINISHED = b".tmp."  # begins the name of a file that is not in its place yet
ABANDONED = 3600  # seconds after which nobody is going to move it there
DEADLINE = 5.0  # seconds to wait for a lock: no login shall wait longer
PAUSE = 0.005  # seconds between two tries
NOT_A_FILE = (errno.ELOOP, errno.ENXIO)  # a link, a socket
LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_file(path: bytes, most: int) -> tuple[bytes, os.stat_result] | None:
    """What a regular file of at most so many bytes holds, and its status. None for what is none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NOT_A_FILE:
            return None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            return None
        return os.read(descriptor, status.st_size), status
    finally:
        os.close(descriptor)


def temporary_name(directory: bytes) -> bytes:
    """A path in the directory that no other process uses."""
    return b"%b/%b%d.%b" % (directory, UNFINISHED, os.getpid(), os.urandom(8).hex().encode())


def write_file(path: bytes, content: bytes, mode: int = MODE, owner: os.stat_result | None = None) -> None:
    """Make a new file, on disk, with this mode and, where we may, the owner of another. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if owner is not None:
            give(descriptor, owner)
        os.fchmod(descriptor, mode)
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(descriptor: int, owner: os.stat_result) -> None:
    """Let the file of root belong to somebody else: who logs in, and is not root, must be able to use it."""
    if os.geteuid() != 0:
        return
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:
        pass  # a user namespace that does not know the owner


def remove(path: bytes) -> bool:
    """Unlink a file. False if there is none. Raises OSError."""
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def discard(path: bytes) -> None:
    """Unlink our own file that did not get to its place, if that can be done: why it did not is what is told."""
    try:
        os.unlink(path)
    except OSError:
        pass  # ENOENT, or EROFS, which a read-only file system says of any name


def remove_abandoned(directory: bytes) -> None:
    """Remove what was left of processes that were killed. Raises OSError."""
    for name in os.listdir(directory):
        path = directory + b"/" + name
        if name.startswith(UNFINISHED) and age(path) > ABANDONED:
            remove(path)


def age(path: bytes) -> float:
    """Seconds since the file was written; 0 if it is gone."""
    try:
        return time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


class Lock:
    """`with Lock(path, fcntl.LOCK_EX, mode):` holds a POSIX lock, which other programs see, too. Raises Trouble.

    The file is opened once: closing any descriptor of it gives the process's lock up. `mode` is for a new one.
    """

    __slots__ = ("descriptor", "kind", "mode", "path")

    def __init__(self, path: bytes, kind: int, mode: int) -> None:
        self.path = path
        self.kind = kind
        self.mode = mode
        self.descriptor = -1

    def __enter__(self) -> None:
        try:
            self.descriptor = self.open()
            self.wait()
        except OSError as error:
            self.__exit__()
            raise unable(b"lock " + self.path, error) from None

    def __exit__(self, *_: object) -> None:
        if self.descriptor < 0:
            return
        try:
            os.close(self.descriptor)
        except OSError as error:  # NFS; the descriptor is closed all the same
            raise unable(b"unlock " + self.path, error) from None

    def open(self) -> int:
        """A descriptor on the file, which is made where there is none."""
        while True:
            try:
                return os.open(self.path, LOCK_FLAGS)
            except FileNotFoundError:
                pass
            try:
                descriptor = os.open(self.path, LOCK_FLAGS | os.O_CREAT | os.O_EXCL, self.mode)
            except FileExistsError:
                continue
            os.fchmod(descriptor, self.mode)  # whatever the umask
            give(descriptor, os.stat(os.path.dirname(self.path)))
            return descriptor

    def wait(self) -> None:
        """Try until the lock is ours. Raises OSError, ETIMEDOUT in the end."""
        deadline = monotonic() + DEADLINE
        while True:
            try:
                fcntl.lockf(self.descriptor, self.kind | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2)
                if monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
            sleep(PAUSE)


def sane(directory: bytes) -> None:
    """Refuse a directory in which everybody may write: everybody could let himself relay. Raises Trouble."""
    try:
        status = os.stat(directory)
    except OSError as error:
        raise unable(b"read " + directory, error) from None
    if status.st_mode & stat.S_IWOTH:
        raise Trouble(b"everybody may write in ", directory)
