"""The Maildir in the current directory, as one session sees it, while others deliver to it, read it and remove from it.

What is listed at the start stays the list. A message whose file was moved or got flags since is found again; one that
is gone is gone. Nothing is removed or moved before `close`. Knows no POP3.
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
NAME = len(b"new/")
ABANDONED = 129600  # seconds: maildir.c, maildir_clean, 36 hours
BLOCK = 65536
SETTLED = 1_000_000_000  # nanoseconds; a directory changed later than this may change again within its clock's tick
SEEN = b":2,"  # what a message is called that is in cur and has no flags: cr.yp.to/proto/maildir.html
VISIBLE = bytes(range(0x21, 0x7F))  # RFC 1939 section 7: what a unique-id may hold
ID_DIGITS = 32  # of a digest in place of such a name


class Message:
    """One file. `octets` as POP3 counts them, None until somebody asks; `inode` tells it from a namesake."""

    __slots__ = ("deleted", "inode", "modified", "octets", "path")

    def __init__(self, path: bytes, inode: int, modified: int) -> None:
        self.path = path
        self.inode = inode
        self.modified = modified
        self.octets: int | None = None
        self.deleted = False


class Mailbox:
    """The messages, the oldest first. Raises OSError where new or cur cannot be read."""

    __slots__ = ("messages", "state")

    def __init__(self) -> None:
        self.state = directories()
        self.messages = scan(int(time()))

    def open(self, message: Message) -> int:
        """A descriptor on the message's file, wherever that is by now. Raises OSError."""
        try:
            return open_regular(message.path)
        except FileNotFoundError:
            self.look_again()
            return open_regular(message.path)

    def look_again(self) -> None:
        """Give each message whose file has another name or directory by now its new path."""
        state = directories()
        if state is not None and state == self.state:
            return
        self.state = state
        ours = {(message.inode, unique(message.path)): message for message in self.messages}
        for entry in entries():
            message = ours.get((entry.inode(), unique(entry.path)))
            if message is not None:
                message.path = entry.path

    def octets(self, message: Message) -> int:
        """The length of the message as RETR sends it; 0 where it cannot be read (qmail-pop3d.c, getlist)."""
        if message.octets is None:
            try:
                message.octets = self.count(message)
            except OSError:
                message.octets = 0
        return message.octets

    def count(self, message: Message) -> int:
        """Read the message for its length. Raises OSError."""
        size = line_feeds = 0
        last = b"\n"
        descriptor = self.open(message)
        try:
            while block := os.read(descriptor, BLOCK):
                size += len(block)
                line_feeds += block.count(b"\n")
                last = block
        finally:
            os.close(descriptor)
        return octets(size, line_feeds, not last.endswith(b"\n"))

    def close(self) -> bool:
        """Remove what is marked, and make the rest old mail. False where some of it could not be removed.

        What is gone already needs no removing: two sessions may have had the same wish.
        """
        missing, removed = remove([message for message in self.messages if message.deleted])
        if missing:
            removed = self.remove_moved(missing) and removed
        for message in self.messages:
            if not message.deleted and message.path.startswith(NEW):
                make_old(message.path)
        return removed

    def remove_moved(self, missing: list[Message]) -> bool:
        """Remove those that lie somewhere else by now. False where that cannot be known, or done."""
        try:
            self.look_again()
        except OSError:
            return False
        return remove(missing)[1]


def entries() -> "Iterator[os.DirEntry[bytes]]":
    """What lies in new and cur. Raises OSError."""
    for directory in (NEW, CUR):
        with os.scandir(directory) as found:
            for entry in found:
                if not entry.name.startswith(b"."):
                    yield entry


def scan(now: int) -> list[Message]:
    """The messages in the order in which they came. Those of this second are left for the next session.

    In the next second another could come that would stand before them (maildir.c, append).
    """
    messages = []
    for entry in entries():
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # another reader was faster
        if S_ISREG(found.st_mode) and int(found.st_mtime) < now:
            messages.append(Message(entry.path, entry.inode(), int(found.st_mtime)))
    messages.sort(key=lambda message: message.path[NAME:])
    messages.sort(key=lambda message: message.modified)  # stable, and without a tuple for each
    return messages


def directories() -> tuple[int, int] | None:
    """When new and cur changed last, in nanoseconds; None where the next change could bear the same time."""
    changed = os.stat(NEW).st_mtime_ns, os.stat(CUR).st_mtime_ns
    return changed if max(changed) < time_ns() - SETTLED else None


def clean() -> None:
    """Remove from tmp what was never delivered."""
    try:
        with os.scandir(TMP) as found:
            for entry in found:
                if not entry.name.startswith(b"."):
                    remove_abandoned(entry)
    except OSError:
        pass  # the mail is elsewhere


def remove_abandoned(entry: "os.DirEntry[bytes]") -> None:
    """Remove a file that nobody has written to or read for 36 hours."""
    try:
        if entry.stat(follow_symlinks=False).st_atime + ABANDONED < int(time()):
            os.unlink(entry.path)
    except OSError:
        pass  # as the original: another session will try again


def open_regular(path: bytes) -> int:
    """A descriptor on a file that is nothing but a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, os.strerror(EINVAL))
    return descriptor


def remove(messages: list[Message]) -> tuple[list[Message], bool]:
    """Remove their files. Returns those that were not there, and whether all others could be removed."""
    missing, removed = [], True
    for message in messages:
        try:
            os.unlink(message.path)
        except FileNotFoundError:
            missing.append(message)
        except OSError:
            removed = False
    return missing, removed


def make_old(path: bytes) -> None:
    """Move a file from new to cur, where nothing is in its way there. "if it fails, bummer" (qmail-pop3d.c)."""
    name = path[NAME:]
    target = b"cur/" + (name if b":" in name else name + SEEN)
    try:
        if not os.path.lexists(target):
            os.rename(path, target)
    except OSError:
        pass


def unique(path: bytes) -> bytes:
    """The part of the name that stays the same while flags come and go."""
    return path[NAME:].partition(b":")[0]


def unique_id(path: bytes) -> bytes:
    """The unique part, or a digest of a name that cannot be said in one line of ASCII."""
    name = unique(path)
    if name and not name.translate(None, VISIBLE):
        return name
    from hashlib import sha256  # 5 ms, for names that no delivery makes

    return sha256(name or path[NAME:]).hexdigest()[:ID_DIGITS].encode()
