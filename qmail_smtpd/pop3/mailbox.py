"""The Maildir in the current directory as one session sees it, while other processes deliver, read and delete mail.

The list of messages is fixed at the start. A message whose file has been moved or given flags since then is found
again. Nothing is removed or moved before `close`. Does not know POP3.
"""

import os
from errno import EINVAL
from stat import S_ISREG
from time import time, time_ns

from qmail_smtpd.pop3.outgoing import octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NEW, CUR, TMP = b"new", b"cur", b"tmp"
NAME_START = len(b"new/")  # where a file's name begins in a path
ABANDONED = 129600  # seconds, that is 36 hours: maildir.c, maildir_clean
BLOCK = 65536
SETTLED = 1_000_000_000  # nanoseconds; a directory changed more recently may change again without a new time stamp
SEEN = b":2,"  # ends the name of a message in cur without flags: cr.yp.to/proto/maildir.html
VISIBLE = bytes(range(0x21, 0x7F))  # characters allowed in a unique-id: RFC 1939 section 7
ID_DIGITS = 32  # hexadecimal digits of the digest that replaces a name with other characters


class Message:
    """One message, which is a file.

    `octets` is its length as POP3 counts it, or None until it is needed. `inode` and the unique part of its name
    identify the file.
    """

    __slots__ = ("deleted", "inode", "modified", "octets", "path")

    def __init__(self, path: bytes, inode: int, modified: int) -> None:
        self.path = path
        self.inode = inode
        self.modified = modified
        self.octets: int | None = None
        self.deleted = False


class Mailbox:
    """The messages, oldest first. Creating it raises OSError if new or cur cannot be read."""

    __slots__ = ("last_changes", "messages")

    def __init__(self) -> None:
        self.last_changes = last_changes()
        self.messages = scan(int(time()))

    def open(self, message: Message) -> int:
        """Return a descriptor of the message's file, even if the file has been moved. Raise OSError if that fails."""
        try:
            return open_regular(message.path)
        except FileNotFoundError:
            self.refresh_paths()
            return open_regular(message.path)

    def refresh_paths(self) -> None:
        """Update the path of each message whose file has been moved or renamed."""
        changes = last_changes()
        if changes is not None and changes == self.last_changes:
            return
        self.last_changes = changes
        known = {(message.inode, unique_part(message.path)): message for message in self.messages}
        for entry in entries():
            message = known.get((entry.inode(), unique_part(entry.path)))
            if message is not None:
                message.path = entry.path

    def octets(self, message: Message) -> int:
        """Return the length of the message as RETR sends it, or 0 if it cannot be read (qmail-pop3d.c, getlist)."""
        if message.octets is None:
            try:
                message.octets = self.measure(message)
            except OSError:
                message.octets = 0
        return message.octets

    def measure(self, message: Message) -> int:
        """Read the message to find its length. Raise OSError if that fails."""
        size = bare_line_feeds = 0
        last = b"\n"
        descriptor = self.open(message)
        try:
            while block := os.read(descriptor, BLOCK):
                size += len(block)
                bare_line_feeds += block.count(b"\n") - block.count(b"\r\n")
                bare_line_feeds -= last.endswith(b"\r") and block.startswith(b"\n")
                last = block
        finally:
            os.close(descriptor)
        return octets(size, bare_line_feeds, not last.endswith(b"\n"))

    def close(self) -> bool:
        """Remove the messages that are marked as deleted, and move the other new messages to cur.

        Return False if a marked message could not be removed. A file that is already gone is no failure: another
        session may have deleted it.
        """
        missing, removed = remove([message for message in self.messages if message.deleted])
        if missing:
            removed = self.remove_moved(missing) and removed
        for message in self.messages:
            if not message.deleted and message.path.startswith(NEW):
                move_to_cur(message.path)
        return removed

    def remove_moved(self, missing: list[Message]) -> bool:
        """Remove the messages whose files are no longer at their known paths. Return False if that fails."""
        try:
            self.refresh_paths()
        except OSError:
            return False
        return remove(missing)[1]


def entries() -> "Iterator[os.DirEntry[bytes]]":
    """Yield the files in new and cur, without hidden ones. Raise OSError if a directory cannot be read."""
    for directory in (NEW, CUR):
        with os.scandir(directory) as files:
            for entry in files:
                if not entry.name.startswith(b"."):
                    yield entry


def scan(now: int) -> list[Message]:
    """Return the messages in order of their time, and of their names within one second.

    A message of the current second is left for the next session: another message could still arrive in this second and
    sort before it (maildir.c, append).
    """
    messages = []
    for entry in entries():
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # another process has moved or removed it
        if S_ISREG(status.st_mode) and int(status.st_mtime) < now:
            messages.append(Message(entry.path, entry.inode(), int(status.st_mtime)))
    messages.sort(key=lambda message: message.path[NAME_START:])
    messages.sort(key=lambda message: message.modified)  # a stable sort needs no tuple for each message
    return messages


def last_changes() -> tuple[int, int] | None:
    """Return the modification times of new and cur in nanoseconds.

    Return None if one of them is so recent that a later change could get the same time stamp.
    """
    changes = os.stat(NEW).st_mtime_ns, os.stat(CUR).st_mtime_ns
    return changes if max(changes) < time_ns() - SETTLED else None


def clean() -> None:
    """Remove abandoned deliveries from tmp."""
    try:
        with os.scandir(TMP) as files:
            for entry in files:
                if not entry.name.startswith(b"."):
                    remove_abandoned(entry)
    except OSError:
        pass  # tmp is not needed to read mail


def remove_abandoned(entry: "os.DirEntry[bytes]") -> None:
    """Remove a file that has not been accessed for 36 hours."""
    try:
        if entry.stat(follow_symlinks=False).st_atime + ABANDONED < int(time()):
            os.unlink(entry.path)
    except OSError:
        pass  # as in the original: another session will try again


def open_regular(path: bytes) -> int:
    """Open a regular file for reading. Never follow a link, never wait for a FIFO. Raise OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, os.strerror(EINVAL))
    return descriptor


def remove(messages: list[Message]) -> tuple[list[Message], bool]:
    """Remove the files of the messages. Return the messages without a file, and whether all others could be removed."""
    missing, removed = [], True
    for message in messages:
        try:
            os.unlink(message.path)
        except FileNotFoundError:
            missing.append(message)
        except OSError:
            removed = False
    return missing, removed


def move_to_cur(path: bytes) -> None:
    """Move a file from new to cur unless the target exists. "if it fails, bummer" (qmail-pop3d.c)."""
    name = path[NAME_START:]
    target = b"cur/" + (name if b":" in name else name + SEEN)
    try:
        if not os.path.lexists(target):
            os.rename(path, target)
    except OSError:
        pass


def unique_part(path: bytes) -> bytes:
    """Return the part of the file's name that does not change with its flags."""
    return path[NAME_START:].partition(b":")[0]


def unique_id(path: bytes) -> bytes:
    """Return the unique-id of a message: the unique part of its name if that is visible ASCII, otherwise a digest."""
    name = unique_part(path)
    if name and not name.translate(None, VISIBLE):
        return name
    from hashlib import sha256  # costs 5 ms, and only for names that no delivery program makes

    return sha256(name or path[NAME_START:]).hexdigest()[:ID_DIGITS].encode()
