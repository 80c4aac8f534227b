"""Replace a file: lock, write, fsync, close, rename, fsync the directory.

Whenever the process is killed, either the complete old content or the complete new one is there. Does not know what
the content is.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from tcprules import strerr
from tcprules.termination import delayed, delivered

MODE = 0o644  # open_trunc.c
PERMISSIONS = 0o777  # without the set-id bits, because the owner may have changed
CHUNK = 1 << 20

Make = Callable[[], memoryview]
Warn = Callable[[bytes], None]


class Unable(Exception):
    """Something could not be done. `text` is in djb's words: `unable to create rules.tmp: access denied`."""

    def __init__(self, what: bytes, why: str) -> None:
        self.text = b"unable to %b: %b" % (what, why.encode())
        super().__init__(self.text)


class trying:
    """`with trying(b"create x"):` converts OSErrors of its body to Unable."""

    def __init__(self, what: bytes) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise Unable(self.what, strerr.reason(error)) from None


def install(path: bytes, tmp: bytes, make: Make, warn: Warn) -> None:
    """Replace the content of `path` by what `make` returns, by way of `tmp`, keeping the mode and owner of `path`.

    Raise Unable, and what `make` raises (its OSErrors as `unable to write to`). On failure `path` is unchanged and
    `tmp` is removed. `warn` is called if the owner cannot be kept. Signals that end the process are delayed, except
    while it waits for the lock.
    """
    with delayed():
        descriptor, was_missing = _open_locked(tmp, path)
        installed = False
        try:
            if _is_at(descriptor, path):  # `tcprules x x`: the old content stays until the new one is complete
                install(path, tmp + b".new", make, warn)
            else:
                _write(descriptor, tmp, path, make, warn)
                _move(descriptor, tmp, path)
            installed = True
            _sync_directory(path)
        finally:
            if not installed and (was_missing or not _is_at(descriptor, path)):
                _remove(descriptor, tmp)
            os.close(descriptor)  # after the rename, or the next process would lock and write the moved file


def _open_locked(tmp: bytes, path: bytes) -> tuple[int, bool]:
    """Open `tmp` and lock it. Return the descriptor, and whether `path` was missing before the lock was taken."""
    while True:
        was_missing = not os.path.lexists(path)
        with trying(b"create " + tmp):
            descriptor = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            _lock(descriptor, tmp, path)
        except Unable:
            os.close(descriptor)
            raise
        if not _is_file(descriptor) or _is_at(descriptor, tmp):
            return descriptor, was_missing
        os.close(descriptor)  # the process that held the lock has renamed or removed the file


def _lock(descriptor: int, tmp: bytes, path: bytes) -> None:
    """Wait until no other process writes this file. Refuse one that must not be written to.

    Anything but a regular file (/dev/full, a FIFO) fails later, at the write.
    """
    if not _is_file(descriptor):
        return
    status = os.fstat(descriptor)
    if _is_input(status):
        raise Unable(b"create " + tmp, "the input is read from it")
    if status.st_uid not in _trusted_owners(path):
        raise Unable(b"create " + tmp, "it belongs to another user")
    if status.st_nlink > 1:
        raise Unable(b"create " + tmp, "it is a link to another file")
    with trying(b"lock " + tmp):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with delivered():  # the process that has the lock cleans up
                fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_input(status: os.stat_result) -> bool:
    """Whether descriptor 0 is this file. 0.88 would empty it and compile no rules, which allows every client."""
    try:
        return os.path.samestat(status, os.fstat(0))
    except OSError:  # it is closed
        return False


def _trusted_owners(path: bytes) -> set[int]:
    """Return the user ids that may own `tmp`: this process's, and that of the file to be replaced.

    If root is killed between changing the owner and the rename, `tmp` is left with that owner.
    """
    try:
        return {os.geteuid(), os.lstat(path).st_uid}
    except OSError:
        return {os.geteuid()}


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _is_at(descriptor: int, path: bytes) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _write(descriptor: int, tmp: bytes, path: bytes, make: Make, warn: Warn) -> None:
    """Write the content and fsync it."""
    with trying(b"write to " + tmp):
        os.lseek(descriptor, 0, os.SEEK_SET)  # on a FIFO this fails before any input is read, as in 0.88
        if _is_file(descriptor):
            os.ftruncate(descriptor, 0)
            _keep_mode_and_owner(descriptor, path, warn)
        content = make()
        while content:
            content = content[os.write(descriptor, content[:CHUNK]) :]
        os.fsync(descriptor)
        os.close(os.dup(descriptor))  # NFS reports failed writes at close; closing a duplicate keeps the lock


def _move(descriptor: int, tmp: bytes, path: bytes) -> None:
    """Rename the file. A tcprules 0.88 takes no lock: it may have renamed this file, and begun another one."""
    what = b"move " + tmp + b" to " + path
    with trying(what):
        if not os.path.samestat(os.lstat(tmp), os.fstat(descriptor)):
            raise Unable(what, "another process has replaced it")
        os.rename(tmp, path)


def _keep_mode_and_owner(descriptor: int, path: bytes, warn: Warn) -> None:
    """Set mode and owner before the first byte is written, so that the new content is as private as the old one.

    The owner comes first, because changing it resets mode bits.
    """
    try:
        old = os.stat(path)
    except OSError:
        return  # it does not exist, or the rename will report the error
    if not stat.S_ISREG(old.st_mode):
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError as error:  # EINVAL: a user namespace without this owner
            warn(b"unable to keep the owner of %b: %b" % (path, strerr.reason(error).encode()))
            _keep_group(descriptor, old.st_gid)
    os.fchmod(descriptor, old.st_mode & PERMISSIONS)


def _keep_group(descriptor: int, group: int) -> None:
    try:
        os.fchown(descriptor, -1, group)
    except OSError:
        pass  # the warning has been given


def _remove(descriptor: int, tmp: bytes) -> None:
    """Remove the file, unless another one has taken its name."""
    if _is_file(descriptor) and _is_at(descriptor, tmp):
        try:
            os.unlink(tmp)
        except OSError:
            pass  # the failure that led here is the one to report


def _sync_directory(path: bytes) -> None:
    """fsync the directory, so that the new name is on disk."""
    directory = os.path.dirname(path) or b"."
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # a writable directory may be unreadable; 0.88 never syncs it
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system cannot sync directories
            raise Unable(b"write to " + directory, strerr.reason(error)) from None
    finally:
        os.close(descriptor)
