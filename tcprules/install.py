"""Put new content in the place of a file: lock, write, fsync, close, rename, fsync the directory.

Whoever dies where, the old content or the new is there, whole. What the content is, is for others.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from tcprules import strerr

MODE = 0o644  # open_trunc.c
PERMISSIONS = 0o777  # not the set-id bits: the owner may be another one now
CHUNK = 1 << 20

Make = Callable[[], memoryview]
Warn = Callable[[bytes], None]


class Unable(Exception):
    """What could not be done, in djb's words: `unable to create rules.tmp: access denied`."""

    def __init__(self, what: bytes, why: str) -> None:
        self.text = b"unable to %b: %b" % (what, why.encode())
        super().__init__(self.text)


class trying:
    """`with trying(b"create x"):` turns the OSErrors of its body into Unable."""

    def __init__(self, what: bytes) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise Unable(self.what, strerr.reason(error)) from None


def install(path: bytes, tmp: bytes, make: Make, warn: Warn) -> None:
    """Give `path` the content that `make` returns, by way of `tmp`, with the mode and owner that `path` has now.

    Raises Unable, and what `make` raises (its OSErrors as `unable to write to`). On failure `path` is as before and
    `tmp` is gone. `warn` is told when the owner cannot be kept.
    """
    descriptor, first = _open_locked(tmp, path)
    installed = False
    try:
        if _is_at(descriptor, path):  # `tcprules x x`: the old content stays in force until the new is whole
            install(path, tmp + b".new", make, warn)
        else:
            _write(descriptor, tmp, path, make, warn)
            _move(descriptor, tmp, path)
        installed = True
        _sync_directory(path)
    finally:
        if not installed and (first or not _is_at(descriptor, path)):
            _remove(descriptor, tmp)
        os.close(descriptor)  # not before the rename: whoever waits for the lock would write into the file we move


def _open_locked(tmp: bytes, path: bytes) -> tuple[int, bool]:
    """Open `tmp` as its only user. Also: was there nothing at `path` before, not even from whom we waited for?"""
    while True:
        first = not os.path.lexists(path)
        with trying(b"create " + tmp):
            descriptor = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            _lock(descriptor, tmp, path)
        except Unable:
            os.close(descriptor)
            raise
        if not _is_file(descriptor) or _is_at(descriptor, tmp):
            return descriptor, first
        os.close(descriptor)  # the one we waited for has moved it to its place, or removed it


def _lock(descriptor: int, tmp: bytes, path: bytes) -> None:
    """Wait until nobody else writes this file. What is no file (/dev/full, a FIFO) will fail when it is written."""
    if not _is_file(descriptor):
        return
    status = os.fstat(descriptor)
    if status.st_uid not in _trusted_owners(path):
        raise Unable(b"create " + tmp, "it belongs to another user")
    if status.st_nlink > 1:
        raise Unable(b"create " + tmp, "it is a link to another file")
    with trying(b"lock " + tmp):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _trusted_owners(path: bytes) -> set[int]:
    """Ourselves, and the owner of the file to be replaced: root was killed between giving it away and the rename."""
    try:
        return {os.geteuid(), os.lstat(path).st_uid}
    except OSError:
        return {os.geteuid()}


def _is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _is_at(descriptor: int, path: bytes) -> bool:
    """Is the open file the one at `path`?"""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _write(descriptor: int, tmp: bytes, path: bytes, make: Make, warn: Warn) -> None:
    """Fill the file, and have it on disk."""
    with trying(b"write to " + tmp):
        os.lseek(descriptor, 0, os.SEEK_SET)  # a FIFO fails here and reads no input, as in 0.88
        if _is_file(descriptor):
            os.ftruncate(descriptor, 0)
            _keep_mode_and_owner(descriptor, path, warn)
        content = make()
        while content:
            content = content[os.write(descriptor, content[:CHUNK]) :]
        os.fsync(descriptor)
        os.close(os.dup(descriptor))  # NFS tells of failed writes at close; the lock outlives this one


def _move(descriptor: int, tmp: bytes, path: bytes) -> None:
    """Rename our file. 0.88 asks for no lock: it may have moved the file, and have begun another one."""
    what = b"move " + tmp + b" to " + path
    with trying(what):
        if not os.path.samestat(os.lstat(tmp), os.fstat(descriptor)):
            raise Unable(what, "somebody else has replaced it")
        os.rename(tmp, path)


def _keep_mode_and_owner(descriptor: int, path: bytes, warn: Warn) -> None:
    """Before the first byte: who may not read the old content shall not read the new. Owner first: it resets modes."""
    try:
        old = os.stat(path)
    except OSError:
        return  # there is none, or the rename will say what is wrong
    if not stat.S_ISREG(old.st_mode):
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError as error:  # EINVAL: a user namespace that does not know the owner
            warn(b"unable to keep the owner of %b: %b" % (path, strerr.reason(error).encode()))
            _keep_group(descriptor, old.st_gid)
    os.fchmod(descriptor, old.st_mode & PERMISSIONS)


def _keep_group(descriptor: int, group: int) -> None:
    try:
        os.fchown(descriptor, -1, group)
    except OSError:
        pass  # the warning has been given


def _remove(descriptor: int, tmp: bytes) -> None:
    """Remove our file, and nothing else that has got its name."""
    if _is_file(descriptor) and _is_at(descriptor, tmp):
        try:
            os.unlink(tmp)
        except OSError:
            pass  # the failure that brought us here is what is told


def _sync_directory(path: bytes) -> None:
    """Have the new name on disk."""
    directory = os.path.dirname(path) or b"."
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # we may write into a directory that we may not read; 0.88 never syncs one
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync directories
            raise Unable(b"write to " + directory, strerr.reason(error)) from None
    finally:
        os.close(descriptor)
