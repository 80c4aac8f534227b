"""Follow logs as `tail -F` does, also when they are rotated by multilog, svlogd, s6-log and logrotate."""

import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.sources import CHUNK, CURRENT, STDIN, archived, expand, opened, read, unable

INTERVAL = 1.0  # seconds between two reads of a file


class Follower:
    """One log: a file, or a directory's `current`. Reads what is added, and what was rotated away meanwhile."""

    def __init__(self, path: str, reader: Reader, from_start: bool) -> None:
        self.directory = path if os.path.isdir(path) else None
        self.path = os.path.join(path, CURRENT) if self.directory else path
        self.reader = reader
        self.descriptor = -1
        self.newest = max(self.archived(), default="")
        self.open()
        if self.descriptor >= 0 and not from_start:
            os.lseek(self.descriptor, 0, os.SEEK_END)

    def archived(self) -> list[str]:
        """Return the names of the finished files."""
        return archived(self.directory) if self.directory else []

    def open(self) -> None:
        """Open the file, if it exists."""
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.descriptor = -1  # it has been moved away, and the next one is not there yet
        except OSError as error:
            raise unable("read", self.path, error) from error

    def step(self) -> None:
        """Read what has been written since the last step."""
        if self.descriptor < 0:
            self.open()
        while self.descriptor >= 0:
            self.read_on()
            if not self.is_replaced():
                return
            self.read_on()  # what was written between the last read and the rotation
            self.reader.finish()
            self.read_missed()
            os.close(self.descriptor)
            self.open()

    def read_on(self) -> None:
        """Read to the present end of the open file, or from its start if it has been truncated."""
        if os.fstat(self.descriptor).st_size < os.lseek(self.descriptor, 0, os.SEEK_CUR):
            os.lseek(self.descriptor, 0, os.SEEK_SET)
        while data := os.read(self.descriptor, CHUNK):
            self.reader.feed(data)

    def is_replaced(self) -> bool:
        """Whether another file has the name, or none."""
        return not self.is_open(self.path)

    def is_open(self, path: str) -> bool:
        """Whether the open file is the one at this path."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def read_missed(self) -> None:
        """Read files of the directory that were begun and finished since the last rotation."""
        for name in self.archived():
            if name > self.newest:
                self.newest = name
                path = os.path.join(self.directory or "", name)
                if not self.is_open(path):
                    read(path, self.reader)


def begin(paths: tuple[str, ...], since: float | None, make_reader: Callable[[], Reader]) -> list[Follower]:
    """Return the followers of these logs: at their ends, or with `since` after reading what they have."""
    followers = []
    for path in paths:
        reader = make_reader()
        if since is not None and os.path.isdir(path):
            for source in expand(path):
                if not source.path.endswith(CURRENT) and (source.changed or 0) >= since:
                    read(source.path, reader)
        followers.append(Follower(path, reader, since is not None))
    return followers


def follow(followers: list[Follower], lock: threading.Lock) -> NoReturn:
    """Read what is added to the logs."""
    while True:
        for follower in followers:
            with lock:
                try:
                    follower.step()
                except OSError as error:
                    raise unable("follow", follower.path, error) from error
        time.sleep(INTERVAL)


def follow_input(reader: Reader, lock: threading.Lock) -> None:
    """Read standard input to its end."""
    with opened(STDIN) as file:
        while data := os.read(file.fileno(), CHUNK):
            with lock:
                reader.feed(data)
    reader.finish()
