"""The files of a store: reading, atomic replacement, and locks with a timeout.

No link in a store's directory is ever followed: the directory's group may write there, and root runs the clean-up.
"""

import errno
import fcntl
import os
import stat
from time import monotonic, sleep, time

from qmail_smtpd.relay.errors import StoreError, unable
from tcprules.termination import delayed

MODE = 0o644  # regardless of the umask: the account that records logins is not the one that checks them
TEMPORARY_PREFIX = b".tmp."  # prefix of the names of temporary files
ABANDONED = 3600  # seconds after which a temporary file counts as left over from a killed process
DEADLINE = 5.0  # seconds to wait for a lock: a login must not wait longer
PAUSE = 0.005  # seconds between two attempts
NOT_A_FILE = (errno.ELOOP, errno.ENXIO)  # open's errors for a link and a socket
LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_file(path: bytes, most: int) -> tuple[bytes, os.stat_result] | None:
    """Return content and status of a regular file of at most `most` bytes.

    Return None if it is not a regular file or is larger. Raise OSError, for example if it does not exist.
    """
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


def temporary_prefix(path: bytes) -> bytes:
    """Return the prefix for temporary files of one file, in a directory that may hold those of other programs."""
    return b"%b%b." % (TEMPORARY_PREFIX, os.path.basename(path))


def temporary_name(directory: bytes, prefix: bytes = TEMPORARY_PREFIX) -> bytes:
    """Return the path of a new temporary file in the directory, unique to this process."""
    return b"%b/%b%d.%b" % (directory, prefix, os.getpid(), os.urandom(8).hex().encode())


class Temporary:
    """`with Temporary(directory) as path:` removes the file at that path after the body, unless it has been renamed.

    Signals that end the process are delayed meanwhile.
    """

    __slots__ = ("path", "signals")

    def __init__(self, directory: bytes, prefix: bytes = TEMPORARY_PREFIX) -> None:
        self.path = temporary_name(directory, prefix)
        self.signals = delayed()

    def __enter__(self) -> bytes:
        self.signals.__enter__()
        return self.path

    def __exit__(self, *_: object) -> None:
        discard(self.path)
        self.signals.__exit__()


def write_file(path: bytes, content: bytes, mode: int = MODE, owner: os.stat_result | None = None) -> None:
    """Create a file with this mode, and sync it. Raise OSError.

    If this process is root, the file gets the owner and group in `owner`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if owner is not None:
            change_owner(descriptor, owner)
        os.fchmod(descriptor, mode)
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def change_owner(descriptor: int, owner: os.stat_result) -> None:
    """Give a file that root has created to another owner, so that the account that records logins can use it."""
    if os.geteuid() != 0:
        return
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:
        pass  # in a user namespace without this owner


def remove(path: bytes) -> bool:
    """Unlink a file. Return False if it does not exist or is a directory. Raise OSError."""
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def discard(path: bytes) -> None:
    """Unlink a temporary file, ignoring errors: the caller reports the error that made it useless."""
    try:
        os.unlink(path)
    except OSError:
        pass  # ENOENT, or EROFS, which a read-only file system returns for any name


def remove_abandoned(directory: bytes, prefix: bytes = TEMPORARY_PREFIX) -> None:
    """Remove the temporary files of processes that were killed by SIGKILL. Raise OSError."""
    for name in os.listdir(directory):
        path = directory + b"/" + name
        if name.startswith(prefix) and age(path) > ABANDONED:
            remove(path)


def age(path: bytes) -> float:
    """Return the seconds since the file was last written, or 0 if it does not exist."""
    try:
        return time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


class Lock:
    """A POSIX lock, which other programs see as well: `with Lock(path, fcntl.LOCK_EX, mode):`. Raises StoreError.

    The file must be opened only once: closing any descriptor of it releases the process's lock. `mode` is that of a new
    file.
    """

    __slots__ = ("descriptor", "kind", "mode", "path", "patience")

    def __init__(self, path: bytes, kind: int, mode: int, patience: float = DEADLINE) -> None:
        self.path = path
        self.kind = kind
        self.mode = mode
        self.patience = patience
        self.descriptor = -1

    def __enter__(self) -> None:
        try:
            self.descriptor = self.open()
            self.wait()
        except OSError as error:
            self.__exit__()
            raise unable(b"lock " + self.path, error) from None

    def __exit__(self, *_: object) -> None:
        descriptor, self.descriptor = self.descriptor, -1  # what is opened next may get the same number
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except OSError as error:  # on NFS; the descriptor is closed nevertheless
            raise unable(b"unlock " + self.path, error) from None

    def open(self) -> int:
        """Return a descriptor of the lock file, which is created if necessary."""
        while True:
            try:
                return os.open(self.path, LOCK_FLAGS)
            except FileNotFoundError:
                pass
            try:
                self.descriptor = os.open(self.path, LOCK_FLAGS | os.O_CREAT | os.O_EXCL, self.mode)
            except FileExistsError:
                continue
            os.fchmod(self.descriptor, self.mode)  # regardless of the umask
            change_owner(self.descriptor, os.stat(os.path.dirname(self.path)))
            return self.descriptor

    def wait(self) -> None:
        """Wait for the lock. Raise OSError; its errno is ETIMEDOUT after `patience` seconds."""
        deadline = monotonic() + self.patience
        while True:
            try:
                fcntl.lockf(self.descriptor, self.kind | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2)
                if monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
            sleep(PAUSE)


def check_permissions(directory: bytes) -> None:
    """Refuse a world-writable directory: any user of the host could let addresses relay. Raise StoreError."""
    try:
        status = os.stat(directory)
    except OSError as error:
        raise unable(b"read " + directory, error) from None
    if status.st_mode & stat.S_IWOTH:
        raise StoreError(b"directory is world-writable: ", directory)
