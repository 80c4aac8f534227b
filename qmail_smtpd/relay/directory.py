"""The default store: a directory with one file per address. A login costs one rename, a check one read.

Checks take no lock. A shared lock protects each login from the removal of the expired entry that it renews; a removal
takes the lock exclusively.
"""

import errno
import fcntl
import os

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.entry import LONGEST, Entry, compose, parse
from qmail_smtpd.relay.errors import StoreError, unable
from qmail_smtpd.relay.files import (
    Lock,
    Temporary,
    check_permissions,
    remove,
    remove_abandoned,
    write_file,
)
from qmail_smtpd.relay.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmail_smtpd.relay.settings import Settings

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NO_ENTRY = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EAGAIN)  # none; a link, directory, socket, FIFO
LOCK = b".lock"
LOCK_MODE = 0o660  # for the group whose programs record logins


class Directory(Store):
    """The store in the directory $RELAY_DIR."""

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self.path = settings.directory
        check_permissions(self.path)

    def put(self, entry: Entry) -> None:
        """Write a temporary file, then rename it to the entry's name."""
        with Temporary(self.path) as temporary:
            try:
                write_file(temporary, compose(entry))
                with self.lock(fcntl.LOCK_SH):
                    os.rename(temporary, self.file(entry.address))
            except OSError as error:
                raise unable(b"write " + self.file(entry.address), error) from None

    def get(self, key: bytes) -> Entry | None:
        """Return the entry in the file of this address. A link, a directory or any other content is no entry."""
        path = self.path + b"/" + key
        try:
            descriptor = os.open(path, FLAGS)
            try:
                line = os.read(descriptor, LONGEST + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in NO_ENTRY:
                return None
            raise unable(b"read " + path, error) from None
        return parse(line, key)

    def all(self) -> "Iterator[Entry]":
        """Yield the entries of all files that are named after addresses."""
        for key in self.keys():
            entry = self.get(key)
            if entry:
                yield entry

    def remove(self, key: bytes) -> bool:
        """Unlink the file of this address, whatever it contains."""
        return self.remove_file(self.file(key))

    def expire(self) -> None:
        """Unlink the files without a live entry, and abandoned temporary files.

        An unreadable file, which a member of the group may have planted, must not prevent the removal of the others:
        the error is raised after all files have been tried.
        """
        failure = None
        for key in self.keys():
            try:
                dead = self.is_dead(key)
            except StoreError as error:
                failure = error
                continue
            if dead:
                self.remove_dead(key)
        try:
            remove_abandoned(self.path)
        except OSError as error:
            raise unable(b"clean " + self.path, error) from None
        if failure:
            raise failure

    def remove_dead(self, key: bytes) -> None:
        """Unlink the file of this address if its entry is still dead.

        A login may have renewed it before the lock was taken.
        """
        with self.lock(fcntl.LOCK_EX):
            if self.is_dead(key):
                self.remove_file(self.file(key))

    def is_dead(self, key: bytes) -> bool:
        """Whether the file holds no entry, or one that has expired or lies in the future.

        An entry of the future is removed, because it would become valid at a time when the address may be another
        client's.
        """
        entry = self.get(key)
        return entry is None or not entry.is_live(self.now(), None)

    def keys(self) -> "Iterator[bytes]":
        """Yield the file names that are addresses. Raise StoreError if the directory cannot be read."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise unable(b"read " + self.path, error) from None
        return (name for name in names if normalise(name) == name)

    def file(self, key: bytes) -> bytes:
        """Return the path of the file for a normalised address."""
        return self.path + b"/" + key

    def lock(self, kind: int) -> Lock:
        """Return the store's lock: logins take it shared, removals exclusively."""
        return Lock(self.path + b"/" + LOCK, kind, LOCK_MODE)

    def remove_file(self, path: bytes) -> bool:
        """Unlink a file of the store. Return False if it does not exist."""
        try:
            return remove(path)
        except OSError as error:
            raise unable(b"remove " + path, error) from None
