"""A page on its way to its file: written beside it, and moved when it is whole, so that nobody reads half of it.

What is no regular file (a pipe, /dev/stdout) is written as it is. Whether it can be written is known before the run.
"""

import os
import stat

from qmail_smtpd.probe.modes import unable
from qmail_smtpd.probe.text import octets, shown

MODE = 0o666  # with the umask, as for any file that a program makes


class PageFile:
    """With a path of None nothing is written. Raises Unable."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.descriptor = -1
        self.temporary: str | None = None
        if path is None:
            return
        if is_file(path):
            self.temporary = f"{path}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if self.temporary else 0)
        try:
            self.descriptor = os.open(self.temporary or path, flags, MODE)
        except OSError as error:
            self.temporary = None
            raise unable(f"create {shown(octets(path))}", error) from error

    def __enter__(self) -> "PageFile":
        return self

    def write(self, text: str) -> None:
        """All of it."""
        if self.path is None:
            return
        try:
            data = text.encode()
            while data:
                data = data[os.write(self.descriptor, data) :]
            if self.temporary:
                os.fsync(self.descriptor)
                os.rename(self.temporary, self.path)
                self.temporary = None
        except OSError as error:
            raise unable(f"write {shown(octets(self.path))}", error) from error

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self.temporary:
            os.unlink(self.temporary)


def is_file(path: str) -> bool:
    """Whether it is, or will be, a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
