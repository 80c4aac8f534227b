"""maildir-queue: qmail-queue's interface for storing mail in the Maildir that $QUEUE_MAILDIR names.

Each message becomes one file. Exit code 0 promises that the file survives a power failure; after any other code there
is no file. Neither parses the message nor checks addresses.
"""

import os
import time

from qmail_smtpd.queue.intake import NOT_WRITTEN, Failure, attempt, read_envelope, read_message, run, unspool, write
from tcprules.termination import delay, delayed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from qmail_smtpd.queue.inprocess import Message

# qmail-queue.8's exit codes for failures of this program alone.
NOT_CONFIGURED = 55
NO_MAILDIR = 61
NO_PARTS = 62
NO_FILE = 64
NOT_MOVED = 66

PARTS = (b"new", b"cur", b"tmp")
TRIES = 3  # names tried for one file; with 64 random bits in each, a second try is hardly ever needed
NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"__")  # as qmail-local.c: an address must not add lines to the header


def main() -> "NoReturn":
    """Run the program."""
    run("maildir-queue", deliver)


def deliver(deadline: float) -> None:
    """Read one message with its envelope, and store it."""
    enter(os.environb.get(b"QUEUE_MAILDIR"))
    message, spooled = read_message(deadline, open_spool)
    sender, *recipients = read_envelope(deadline)
    deliver_message(sender, recipients, message, spooled)


def open_message(environ: "Mapping[bytes, bytes]") -> "Message":
    """Begin a message, in the process of the session that receives it (inprocess.py)."""
    from qmail_smtpd.queue.inprocess import Message  # the program itself does not need it

    maildir = environ.get(b"QUEUE_MAILDIR")
    return Message("maildir-queue", lambda: enter(maildir), open_spool, deliver_message)


def deliver_message(sender: bytes, recipients: list[bytes], text: bytes, spooled: int | None) -> None:
    """Store one message in the current directory. `spooled`: a descriptor with the rest of the text, or None."""
    store(header(sender, recipients) + text, spooled)


def enter(maildir: bytes | None) -> None:
    """Make the Maildir the current directory. Create its missing parts, and sync them before any mail is stored.

    tmp is created last: another process that finds all three parts can then rely on new and cur being synced.
    """
    if not maildir:
        raise Failure(NOT_CONFIGURED, "$QUEUE_MAILDIR is not set")
    if not os.path.isdir(maildir):
        attempt(NO_MAILDIR, b"unable to create " + maildir, make_directory, maildir)
    attempt(NO_MAILDIR, b"unable to switch to " + maildir, os.chdir, maildir)
    if all(os.path.isdir(part) for part in PARTS):
        return
    attempt(NO_MAILDIR, b"unable to sync the directory of " + maildir, sync_directory, b"..")
    for part in PARTS:
        if part == b"tmp":
            attempt(NO_PARTS, b"unable to sync " + maildir, sync_directory, b".")
        attempt(NO_PARTS, b"unable to create " + maildir + b"/" + part, make_directory, part)


def make_directory(path: bytes) -> None:
    """Create the directory, unless another process has just done so."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def sync_directory(path: bytes) -> None:
    """fsync a directory, so that the names in it are on disk.

    A directory without read permission cannot be opened for that; then all file systems are synced.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        os.sync()
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_spool() -> int:
    """Open an unnamed file in tmp: nothing of it is left, however this process ends."""
    try:
        return os.open("tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        pass  # not every file system supports it; if the disk is at fault, the next open reports that
    with delayed():
        name, descriptor = create()
        try:
            attempt(NO_FILE, "unable to remove tmp/" + name, os.unlink, "tmp/" + name)
        except Failure:
            os.close(descriptor)
            raise
    return descriptor


def create() -> tuple[str, int]:
    """Create a file in tmp. Return its name and its descriptor."""
    return attempt(NO_FILE, "unable to create a file in tmp", open_unique)


def open_unique() -> tuple[str, int]:
    """Open a file under a name that no other file has. Raise OSError if that is impossible."""
    tries = TRIES
    while True:
        name = unique_name()
        try:
            return name, os.open("tmp/" + name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            tries -= 1
            if not tries:
                raise


def unique_name() -> str:
    """Return a name that is unique across all hosts that mount this Maildir: cr.yp.to/proto/maildir.html."""
    second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
    host = os.uname().nodename.replace("/", "\\057").replace(":", "\\072")
    return f"{second}.M{nanosecond // 1000}P{os.getpid()}R{os.urandom(8).hex()}.{host}"


def header(sender: bytes, recipients: list[bytes]) -> bytes:
    """Return the header lines for the envelope, as qmail-local writes them, but with all recipients in one message."""
    lines = [b"Return-Path: <" + sender + b">"]
    lines += [b"Delivered-To: " + recipient for recipient in recipients]
    return b"".join(line.translate(NO_LINE_ENDS) + b"\n" for line in lines)


def store(text: bytes, spooled: int | None) -> None:
    """Store the text and the spooled rest as one file.

    The order makes it durable: write to tmp, fsync, rename to new, fsync new. On failure the file is removed.
    """
    delay()  # of SIGTERM, until the exit: a stored message must not be reported as failed
    name, descriptor = create()
    leftover = "tmp/" + name
    try:
        fill(descriptor, leftover, text, spooled)
        attempt(NOT_MOVED, "unable to move tmp/" + name + " to new", os.rename, "tmp/" + name, "new/" + name)
        leftover = "new/" + name
        attempt(NOT_WRITTEN, "unable to sync new", sync_directory, b"new")
        leftover = ""
    finally:
        if leftover:
            remove(leftover)


def fill(descriptor: int, path: str, text: bytes, spooled: int | None) -> None:
    """Write the message to its file, fsync and close that.

    It is closed after a failure, too: a session that has this program loaded goes on, and would keep the disk blocks.
    """
    try:
        write(descriptor, text)
        if spooled is not None:
            unspool(spooled, descriptor)
        attempt(NOT_WRITTEN, "unable to sync " + path, os.fsync, descriptor)
    finally:
        attempt(NOT_WRITTEN, "unable to close " + path, os.close, descriptor)


def remove(path: str) -> None:
    """Remove the file of a message that could not be stored."""
    try:
        os.unlink(path)
    except OSError:
        pass  # the failure that led here is the one to report
