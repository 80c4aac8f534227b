"""maildir-queue: qmail-queue's interface in front of the Maildir that $QUEUE_MAILDIR names.

A message becomes one file. Exit code 0 says that the file survives a power cut, any other that there is none.
Does not look into the message, and does not judge addresses.
"""

import os
import time

from qmail_smtpd.queue.intake import NOT_WRITTEN, Failure, attempt, read_envelope, read_message, run, unspool, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# qmail-queue.8's exit codes for what this program alone can meet.
NOT_CONFIGURED = 55
NO_MAILDIR = 61
NO_PARTS = 62
NO_FILE = 64
NOT_MOVED = 66

PARTS = (b"new", b"cur", b"tmp")
TRIES = 3  # names for one file: with 64 random bits in a name the second one is a formality
NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"__")  # as qmail-local.c: an address must not add lines to the header


def main() -> "NoReturn":
    """The program."""
    run("maildir-queue", deliver)


def deliver(deadline: float) -> None:
    """Take one message with its envelope, and store it."""
    maildir = os.environb.get(b"QUEUE_MAILDIR")
    if not maildir:
        raise Failure(NOT_CONFIGURED, "$QUEUE_MAILDIR is not set")
    enter(maildir)
    message, spooled = read_message(deadline, open_spool)
    sender, *recipients = read_envelope(deadline)
    store(header(sender, recipients) + message, spooled)


def enter(maildir: bytes) -> None:
    """Make the Maildir the current directory. What it lacks is made, and is on disk before mail goes there.

    tmp comes last, so that another process which finds all parts while this one makes them can rely on the others.
    """
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
    """mkdir, for which another process may be quicker."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def sync_directory(path: bytes) -> None:
    """Put the names in a directory on disk. One that cannot be read cannot be opened for that: then everything is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        os.sync()
        return
    os.fsync(descriptor)
    os.close(descriptor)


def open_spool() -> int:
    """A file in tmp without a name: whatever ends this process, nothing is left of it."""
    try:
        return os.open("tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        pass  # not every file system can; where the disk is at fault, the next open says so
    name, descriptor = create()
    attempt(NO_FILE, "unable to remove tmp/" + name, os.unlink, "tmp/" + name)
    return descriptor


def create() -> tuple[str, int]:
    """A new file in tmp: its name, and its descriptor."""
    return attempt(NO_FILE, "unable to create a file in tmp", open_unique)


def open_unique() -> tuple[str, int]:
    """Open a file of a name that no other has, or raise what stands against it."""
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
    """A name that no other message has, here or where this Maildir is mounted too: cr.yp.to/proto/maildir.html."""
    second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
    host = os.uname().nodename.replace("/", "\\057").replace(":", "\\072")
    return f"{second}.M{nanosecond // 1000}P{os.getpid()}R{os.urandom(8).hex()}.{host}"


def header(sender: bytes, recipients: list[bytes]) -> bytes:
    """The lines that hold the envelope, as qmail-local writes them, all recipients in one message."""
    lines = [b"Return-Path: <" + sender + b">"]
    lines += [b"Delivered-To: " + recipient for recipient in recipients]
    return b"".join(line.translate(NO_LINE_ENDS) + b"\n" for line in lines)


def store(text: bytes, spooled: int | None) -> None:
    """Make one file of the text and what was spooled: on disk in tmp, then moved to new, then its name on disk."""
    name, descriptor = create()
    leftover = "tmp/" + name
    try:
        write(descriptor, text)
        if spooled is not None:
            unspool(spooled, descriptor)
        attempt(NOT_WRITTEN, "unable to sync tmp/" + name, os.fsync, descriptor)
        attempt(NOT_WRITTEN, "unable to close tmp/" + name, os.close, descriptor)
        attempt(NOT_MOVED, "unable to move tmp/" + name + " to new", os.rename, "tmp/" + name, "new/" + name)
        leftover = "new/" + name
        attempt(NOT_WRITTEN, "unable to sync new", sync_directory, b"new")
        leftover = ""
    finally:
        if leftover:
            remove(leftover)


def remove(path: str) -> None:
    """Take back a file of which the caller is not told that it is there."""
    try:
        os.unlink(path)
    except OSError:
        pass  # the failure that led here is the one to tell
