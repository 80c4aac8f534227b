"""Write the page into a temporary file, which is then renamed, so that no reader sees a partial page.

Anything but a regular file (a pipe, /dev/stdout) is written directly. The file is created before the run, so that an
error is reported early.
"""

import os
import stat

from qmail_smtpd.probe.modes import unable
from qmail_smtpd.probe.text import octets, printable
from tcprules.termination import delayed

MODE = 0o666  # before the umask, as usual


class PageFile:
    """`with PageFile(path):` the file for a page, or nothing if the path is None. Raises Unable."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.descriptor = -1
        self.temporary: str | None = None

    def __enter__(self) -> "PageFile":
        opened = False
        try:
            with delayed():
                self.open()
            opened = True
        finally:
            if not opened:
                self.close()
        return self

    def open(self) -> None:
        """Create the file, or open what is no regular file."""
        if self.path is None:
            return
        temporary = f"{self.path}.{os.getpid()}.tmp" if is_file(self.path) else None
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if temporary else 0)
        try:
            self.descriptor = os.open(temporary or self.path, flags, MODE)
        except OSError as error:
            raise unable(f"create {printable(octets(self.path))}", error) from error
        self.temporary = temporary

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
                with delayed():
                    os.rename(self.temporary, self.path)
                    self.temporary = None
        except OSError as error:
            raise unable(f"write {printable(octets(self.path))}", error) from error

    def __exit__(self, *_: object) -> None:
        try:
            with delayed():
                self.close()
        finally:  # a signal may have been faster than `delayed`; a second one has no effect
            self.close()

    def close(self) -> None:
        """Close the file, and remove it unless it has been renamed. May be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self.temporary:
            os.unlink(self.temporary)
            self.temporary = None


def is_file(path: str) -> bool:
    """Whether the path is, or will be, a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
