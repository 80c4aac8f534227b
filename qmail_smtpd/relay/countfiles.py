"""Counters in a directory, a file for each: `$RELAY_DIR/counts`. What is in a file: window.py.

A file is changed under its own lock, by one write for each limit: a killed process has counted, or has not. A process
that stops with the lock holds up one login or address, and that for a bounded time. Nothing is synced: after a crash of
the host the last counts may be missing.
"""

import binascii
import fcntl
import os
from time import time

from qmail_smtpd.relay import window
from qmail_smtpd.relay.counters import KINDS, Counters, Key
from qmail_smtpd.relay.errors import StoreError, unable
from qmail_smtpd.relay.files import Lock, check_permissions, remove
from qmail_smtpd.relay.limits import LIMITS_FOR_ONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qmail_smtpd.relay.limits import Limit, Limits
    from qmail_smtpd.relay.settings import Settings

DIRECTORY = b"/counts"
MODE = 0o660  # for the group: the accounts of several services may count here
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LARGEST = 4 * LIMITS_FOR_ONE * window.SIZE  # bytes of a file: also windows of limits that have been changed
LONGEST_NAME = 200  # bytes of a file name: file systems take 255
PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789@.:_-"
ESCAPES = {byte: b"%c" % byte if byte in PLAIN else b"%%%02X" % byte for byte in range(256)}


class CountFiles(Counters):
    """The counters in `$RELAY_DIR/counts`."""

    clock: "Callable[[], float]" = staticmethod(time)

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self.path = settings.directory + DIRECTORY
        self.patience = settings.timeout()
        check_permissions(self.path)

    def take(self, key: Key, limits: "Limits", count: int) -> "tuple[int, Limit | None]":
        """Count as many of `count` as all limits allow. See Counters."""
        granted, stopped_by = count, None
        with Counter(self.file(key), self.patience) as counter:
            now = self.clock()
            for limit in limits:
                room = max(limit[0] - counter.used(limit[1], now), 0)
                if room < granted:
                    granted, stopped_by = room, limit
            if granted:
                for _, seconds in limits:
                    counter.add(seconds, now, granted)
        return granted, stopped_by

    def add(self, key: Key, seconds: int) -> None:
        """Count one."""
        with Counter(self.file(key), self.patience) as counter:
            counter.add(seconds, self.clock(), 1)

    def used(self, questions: "Sequence[tuple[Key, int]]", writable: bool = False) -> list[int]:
        """Return what each counter has counted. Reading takes no lock: each slot is written in one piece."""
        if writable:
            self.count_nothing(*questions[0])
        return [self.read(self.file(key), seconds) for key, seconds in questions]

    def count_nothing(self, key: Key, seconds: int) -> None:
        """Make room for a count. Fail as it would: on a disk that is full or read-only, with another account's file."""
        with Counter(self.file(key), self.patience) as counter:
            counter.add(seconds, self.clock(), 0)

    def read(self, path: bytes, seconds: int) -> int:
        """Return what a file has counted in the window of so many seconds; 0 if there is no file."""
        content = self.content(path)
        offset = window.find(content, seconds)
        if offset is None:
            raise StoreError(b"not a counter: " + path)
        return window.used(content[offset : offset + window.SIZE], window.bucket_at(self.clock(), seconds))

    def content(self, path: bytes) -> bytes:
        """Return the content of a file, empty if it does not exist."""
        try:
            descriptor = os.open(path, READ_FLAGS)
            try:
                return os.read(descriptor, LARGEST)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise unable(b"read " + path, error) from None

    def counted(self) -> "Iterator[Key]":
        """Yield the keys of the files that count something now."""
        for path in self.files():
            kind, _, escaped = os.path.basename(path).partition(b"=")
            name = unescape(escaped)
            if name is not None and not self.is_over(self.content(path)):
                yield Key(kind, name)

    def files(self) -> "Iterator[bytes]":
        """Yield the paths of the files that are named like counters."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise unable(b"read " + self.path, error) from None
        return (self.path + b"/" + name for name in names if name.partition(b"=")[0] in KINDS)

    def reset(self, key: Key) -> bool:
        """Remove the file of a counter."""
        path = self.file(key)
        counted = not self.is_over(self.content(path))
        self.remove(path)
        return counted

    def expire(self) -> None:
        """Remove the files that count nothing any more.

        What is unreadable or locked must not prevent the removal of the others, as in Directory.expire: the last error
        is raised after all files have been tried.
        """
        failure = None
        for path in self.files():
            try:
                self.expire_one(path)
            except StoreError as error:
                failure = error
        if failure:
            raise failure

    def expire_one(self, path: bytes) -> None:
        """Remove a file if it counts nothing any more."""
        if self.is_over(self.content(path)):
            with Counter(path, self.patience) as counter:
                if self.is_over(counter.content):
                    self.remove(path)

    def is_over(self, content: bytes) -> bool:
        """Whether nothing in the file counts any more."""
        now = self.clock()
        return not any(window.used(found, window.bucket_at(now, length)) for length, found in window.windows(content))

    def remove(self, path: bytes) -> None:
        """Unlink a file."""
        try:
            remove(path)
        except OSError as error:
            raise unable(b"remove " + path, error) from None

    def file(self, key: Key) -> bytes:
        """Return the path of a counter's file. Names whose first 200 bytes, escaped, are the same share one."""
        return b"%b/%b=%b" % (self.path, key.kind, escape(key.name))


def escape(name: bytes) -> bytes:
    """Return a counter's name as a part of a file name or key: at most LONGEST_NAME bytes, none of them special."""
    if len(name) <= LONGEST_NAME and not name.translate(None, PLAIN):
        return name
    escaped = b"".join([ESCAPES[byte] for byte in name[:LONGEST_NAME]])[:LONGEST_NAME]
    return escaped[: escaped.rindex(b"%")] if b"%" in escaped[-2:] else escaped  # no half of an escape


def unescape(name: bytes) -> bytes | None:
    """Return a counter's name from that of its file, None if no counter has such a file."""
    first, *parts = name.split(b"%")
    try:
        return first + b"".join([binascii.unhexlify(part[:2]) + part[2:] for part in parts])
    except binascii.Error:
        return None


class Counter:
    """A locked file, which is created if necessary: `with Counter(path, patience) as counter:`. Raises StoreError."""

    __slots__ = ("content", "lock", "path")

    def __init__(self, path: bytes, patience: float) -> None:
        self.path = path
        self.lock = Lock(path, fcntl.LOCK_EX, MODE, patience)
        self.content = b""

    def __enter__(self) -> "Counter":
        while True:
            self.lock.__enter__()
            try:
                if os.fstat(self.lock.descriptor).st_nlink:
                    self.content = os.pread(self.lock.descriptor, LARGEST, 0)
                    return self
            except OSError as error:
                self.lock.__exit__()
                raise unable(b"read " + self.path, error) from None
            self.lock.__exit__()  # it has been removed before it was locked

    def __exit__(self, *_: object) -> None:
        self.lock.__exit__()

    def used(self, seconds: int, now: float) -> int:
        """Return what has been counted in the window of so many seconds."""
        offset = self.offset(seconds)
        return window.used(self.content[offset : offset + window.SIZE], window.bucket_at(now, seconds))

    def add(self, seconds: int, now: float, count: int) -> None:
        """Count in the window of so many seconds. Raise StoreError."""
        offset = self.offset(seconds)
        found = self.content[offset : offset + window.SIZE]
        if len(found) < window.SIZE:
            found = window.empty(seconds)
            place, slot = window.added(found, window.bucket_at(now, seconds), count)
            new = found[:place] + slot + found[place + len(slot) :]
            self.write(offset, new)
            self.content = self.content[:offset] + new
        else:
            place, slot = window.added(found, window.bucket_at(now, seconds), count)
            self.write(offset + place, slot)

    def offset(self, seconds: int) -> int:
        """Return the offset of the window, or where it has to be added. Raise StoreError."""
        offset = window.find(self.content, seconds)
        if offset is None or offset + window.SIZE > LARGEST:
            raise StoreError(b"not a counter: " + self.path)
        return offset

    def write(self, offset: int, data: bytes) -> None:
        """Write at this offset. Raise StoreError."""
        try:
            if os.pwrite(self.lock.descriptor, data, offset) < len(data):
                raise StoreError(b"unable to write " + self.path)
        except OSError as error:
            raise unable(b"write " + self.path, error) from None
