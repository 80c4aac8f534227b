"""Write the page into a temporary file, which is then renamed, so that no reader sees a partial page.

Anything but a regular file (a pipe, /dev/stdout) is written directly. The file is created before the run, so that an
error is reported early.
"""

import os
import stat

from qmail_smtpd.probe.modes import unable
from qmail_smtpd.probe.text import octets, printable

MODE = 0o666  # before the umask, as usual


class PageFile:
    """The file for a page, or nothing if the path is None. Raises Unable."""

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
            raise unable(f"create {printable(octets(path))}", error) from error

    def __enter__(self) -> "PageFile":
        return self

    def write(self, text: str) -> None:
        """Write the page."""
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
            raise unable(f"write {printable(octets(self.path))}", error) from error

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self.temporary:
            os.unlink(self.temporary)


def is_file(path: str) -> bool:
    """Whether the path is, or will be, a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
