"""vpopmail's own files as a store: open-smtp, under the lock that vchkpw takes, and the cdb that is made of it.

Beside a real vchkpw, in the place of clearopensmtp. Checks take no lock: everybody moves the list into its place.
"""

import fcntl
import os
from time import time_ns

from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.openlist import compose, find, parse
from qmail_smtpd.relay.place import MODE, Lock, discard, read_file, remove_abandoned, sane, temporary_name, write_file
from qmail_smtpd.relay.settings import SECONDS, absolute
from qmail_smtpd.relay.store import Store
from qmail_smtpd.relay.trouble import Trouble, unable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.relay.settings import Settings

LIST, LOCK, RULES = b"/open-smtp", b"/open-smtp.lock", b"/tcp.smtp"
LOCK_MODE = 0o600  # vpopmail.c
PERMISSIONS = 0o777  # of a mode: not the set-id bits
LARGEST = 64 << 20  # bytes of a list: more than a million addresses
Seen = dict[bytes, int]


class OpenSmtp(Store):
    """The store in vpopmail's directory, `DIR` or `DIR:RULES`; RULES is tcp.smtp where that lies elsewhere."""

    def __init__(self, settings: "Settings", place: bytes) -> None:
        super().__init__(settings)
        directory, _, rules = place.partition(b":")
        self.directory = absolute(directory)
        sane(self.directory)
        self.list = self.directory + LIST
        self.rules = absolute(rules or self.directory + RULES)
        self.cdb = self.rules + b".cdb"

    def put(self, entry: Entry) -> None:
        """Move the address to the end of the list."""

        def renew(seen: Seen) -> None:
            seen.pop(entry.address, None)
            seen[entry.address] = entry.seen

        self.change(renew)

    def get(self, key: bytes) -> Entry | None:
        """What the list says of the address."""
        seen = find(self.read()[0], key)
        return None if seen is None else self.entry(key, seen)

    def all(self) -> list[Entry]:
        """The whole list."""
        return [self.entry(*pair) for pair in parse(self.read()[0]).items()]

    def remove(self, key: bytes) -> bool:
        """Take the address out of the list, and its rule out of the cdb."""
        known: list[int | None] = []
        self.change(lambda seen: known.append(seen.pop(key, None)))
        return known != [None]

    def expire(self) -> None:
        """Take everything out of the list that does not count, and see that the cdb says the same."""
        self.change(lambda seen: None)
        try:
            remove_abandoned(self.directory)
        except OSError as error:
            raise unable(b"clean " + self.directory, error) from None

    def entry(self, key: bytes, seen: int) -> Entry:
        """A line of the list, which holds no more than this."""
        window = self.settings.seconds
        return Entry(key, b"", b"", seen, seen + (SECONDS if window is None else window))

    def read(self) -> tuple[bytes, os.stat_result | None]:
        """The list and its status; nothing and None where there is none yet."""
        try:
            found = read_file(self.list, LARGEST)
        except FileNotFoundError:
            return b"", None
        except OSError as error:
            raise unable(b"read " + self.list, error) from None
        if not found:
            raise Trouble(b"this is no list: ", self.list)
        return found

    def change(self, edit: "Callable[[Seen], object]") -> None:
        """Edit what counts of the list and write it, and the cdb if that is not what it was made of."""
        with Lock(self.directory + LOCK, fcntl.LOCK_EX, LOCK_MODE):
            content, old = self.read()
            before = parse(content)
            seen = {key: time for key, time in before.items() if self.counts(self.entry(key, time))}
            edit(seen)
            stale = self.has_rules() and (before.keys() != seen.keys() or old is None or self.is_stale(old))
            text = compose(seen)
            if old is None or text != content:
                self.write(text, old, stale)
            if stale:
                self.rebuild(seen)

    def write(self, text: bytes, old: os.stat_result | None, stale: bool) -> None:
        """Put the new list in its place, with the old one's time if the cdb is right for both."""
        temporary = temporary_name(self.directory)
        try:
            owner = os.stat(self.directory) if old is None else old
            write_file(temporary, text, MODE if old is None else old.st_mode & PERMISSIONS, owner)
            if old is not None and not stale:
                os.utime(temporary, ns=(old.st_mtime_ns, old.st_mtime_ns))
            os.rename(temporary, self.list)
        except OSError as error:
            discard(temporary)
            raise unable(b"write " + self.list, error) from None

    def has_rules(self) -> bool:
        """Whether there are rules to make a cdb of. With relay-check before qmail-smtpd no cdb is needed."""
        return os.path.exists(self.rules) or os.path.exists(self.cdb)

    def is_stale(self, old: os.stat_result) -> bool:
        """Whether the cdb is not the one that was made of this list, or the rules are newer than it."""
        try:
            cdb, rules = os.stat(self.cdb), os.stat(self.rules)
        except OSError:
            return True  # to make it will tell why
        same = old.st_mtime_ns == cdb.st_mtime_ns <= time_ns()
        return not same or max(rules.st_mtime_ns, rules.st_ctime_ns) >= cdb.st_mtime_ns

    def rebuild(self, seen: Seen) -> None:
        """Make the cdb, and let the list bear its time: as long as nobody else touches one of them they agree."""
        from qmail_smtpd.relay.rebuild import rebuild  # 6 ms with cdblib, and most logins do not need it

        before = self.rules_version()
        rebuild(self.rules, self.cdb, seen)
        if before != self.rules_version():
            return  # edited meanwhile: what does not agree is made again
        try:
            made = os.stat(self.cdb).st_mtime_ns
            os.utime(self.list, ns=(made, made))
        except OSError:
            pass  # somebody else's list: the next one makes the cdb again

    def rules_version(self) -> tuple[int, ...]:
        """What changes when the rules do; nothing where there are none."""
        try:
            status = os.stat(self.rules)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
