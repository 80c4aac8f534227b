"""The default store: a directory with one file per address. A login is one rename, a check one look at one file.

Checkers only read. Whoever removes an expired entry holds a lock against those who renew it at that moment.
"""

import errno
import fcntl
import os

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.entry import LONGEST, Entry, compose, parse
from qmail_smtpd.relay.place import Lock, discard, remove, remove_abandoned, sane, temporary_name, write_file
from qmail_smtpd.relay.store import Store
from qmail_smtpd.relay.trouble import Trouble, unable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmail_smtpd.relay.settings import Settings

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NO_ENTRY = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EAGAIN)  # none; a link, directory, socket, FIFO
LOCK = b".lock"
LOCK_MODE = 0o660  # for the group that records


class Directory(Store):
    """The store in the directory $RELAY_DIR."""

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self.path = settings.directory
        sane(self.path)

    def put(self, entry: Entry) -> None:
        """Write the file aside and move it to its place."""
        temporary = temporary_name(self.path)
        try:
            write_file(temporary, compose(entry))
            with self.lock(fcntl.LOCK_SH):
                os.rename(temporary, self.file(entry.address))
        except OSError as error:
            raise unable(b"write " + self.file(entry.address), error) from None
        finally:
            discard(temporary)

    def get(self, key: bytes) -> Entry | None:
        """What the file of this address says. What is no entry for it, a link, a directory, a long file, is none."""
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
        """The entries of all files that are named as addresses."""
        for key in self.keys():
            entry = self.get(key)
            if entry:
                yield entry

    def remove(self, key: bytes) -> bool:
        """Unlink the file of this address, whatever it holds."""
        return self.remove_file(self.file(key))

    def expire(self) -> None:
        """Unlink the files that nobody can relay by, and those that were never finished.

        A file that cannot be read, which a member of the group may have planted, does not keep the others.
        """
        trouble = None
        for key in self.keys():
            try:
                dead = self.is_dead(key)
            except Trouble as found:
                trouble = found
                continue
            if dead:
                self.remove_dead(key)
        try:
            remove_abandoned(self.path)
        except OSError as error:
            raise unable(b"clean " + self.path, error) from None
        if trouble:
            raise trouble

    def remove_dead(self, key: bytes) -> None:
        """Unlink the file of this address if it is still dead: its client may have come before we had the lock."""
        with self.lock(fcntl.LOCK_EX):
            if self.is_dead(key):
                self.remove_file(self.file(key))

    def is_dead(self, key: bytes) -> bool:
        """Whether the file is no entry, has expired, or comes from the future: when that is here, nobody remembers."""
        entry = self.get(key)
        return entry is None or not entry.is_live(self.now(), None)

    def keys(self) -> "Iterator[bytes]":
        """The file names that are addresses."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise unable(b"read " + self.path, error) from None
        return (name for name in names if normalise(name) == name)

    def file(self, key: bytes) -> bytes:
        """The path for a normalised address."""
        return self.path + b"/" + key

    def lock(self, kind: int) -> Lock:
        """Shared by those who renew entries, held alone by who removes one."""
        return Lock(self.path + b"/" + LOCK, kind, LOCK_MODE)

    def remove_file(self, path: bytes) -> bool:
        """Unlink a file of the store. False if it is not there."""
        try:
            return remove(path)
        except OSError as error:
            raise unable(b"remove " + path, error) from None
