"""vpopmail's own files as a store: open-smtp, locked with the lock that vchkpw takes, and the cdb compiled from it.

Works beside a real vchkpw, and replaces clearopensmtp. Checks take no lock, because all programs replace the list by a
rename.
"""

import fcntl
import os
from time import time_ns

from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.errors import StoreError, unable
from qmail_smtpd.relay.files import (
    MODE,
    TEMPORARY_PREFIX,
    Lock,
    Temporary,
    check_permissions,
    read_file,
    remove_abandoned,
    temporary_prefix,
    write_file,
)
from qmail_smtpd.relay.openlist import compose, find, parse
from qmail_smtpd.relay.settings import SECONDS, check_absolute
from qmail_smtpd.relay.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.relay.settings import Settings

LIST, LOCK, RULES = b"/open-smtp", b"/open-smtp.lock", b"/tcp.smtp"
LOCK_MODE = 0o600  # vpopmail.c
PERMISSIONS = 0o777  # bits of a mode that are kept: not the set-id bits
LARGEST = 64 << 20  # bytes of the list: enough for a million addresses
Seen = dict[bytes, int]  # address -> time of the login


class OpenSmtp(Store):
    """The store in vpopmail's directory, given as `DIR` or `DIR:RULES`.

    RULES is the path of tcp.smtp if it is not in DIR.
    """

    def __init__(self, settings: "Settings", location: bytes) -> None:
        super().__init__(settings)
        directory, _, rules = location.partition(b":")
        self.directory = check_absolute(directory)
        check_permissions(self.directory)
        self.list = self.directory + LIST
        self.rules = check_absolute(rules or self.directory + RULES)
        self.cdb = self.rules + b".cdb"

    def put(self, entry: Entry) -> None:
        """Add the address at the end of the list, and remove its older line."""

        def renew(seen: Seen) -> None:
            seen.pop(entry.address, None)
            seen[entry.address] = entry.seen

        self.change(renew)

    def get(self, key: bytes) -> Entry | None:
        """Return the list's entry for the address."""
        seen = find(self.read()[0], key)
        return None if seen is None else self.entry(key, seen)

    def all(self) -> list[Entry]:
        """Return all entries of the list."""
        return [self.entry(*pair) for pair in parse(self.read()[0]).items()]

    def remove(self, key: bytes) -> bool:
        """Remove the address from the list, and its rule from the cdb."""
        removed: list[int | None] = []
        self.change(lambda seen: removed.append(seen.pop(key, None)))
        return removed != [None]

    def expire(self) -> None:
        """Remove all entries that no longer count from the list, and update the cdb."""
        self.change(lambda seen: None)
        self.clean(self.directory, TEMPORARY_PREFIX)
        if self.has_rules():
            self.clean(os.path.dirname(self.cdb), temporary_prefix(self.cdb))

    def clean(self, directory: bytes, prefix: bytes) -> None:
        """Remove abandoned temporary files. Raise StoreError."""
        try:
            remove_abandoned(directory, prefix)
        except OSError as error:
            raise unable(b"clean " + directory, error) from None

    def entry(self, key: bytes, seen: int) -> Entry:
        """Return the entry for a line of the list, which holds only these two values."""
        window = self.settings.seconds
        return Entry(key, b"", b"", seen, seen + (SECONDS if window is None else window))

    def read(self) -> tuple[bytes, os.stat_result | None]:
        """Return the list and its status, or b"" and None if there is no list."""
        try:
            list_and_status = read_file(self.list, LARGEST)
        except FileNotFoundError:
            return b"", None
        except OSError as error:
            raise unable(b"read " + self.list, error) from None
        if not list_and_status:
            raise StoreError(b"not a list: ", self.list)
        return list_and_status

    def change(self, edit: "Callable[[Seen], object]") -> None:
        """Edit the entries that count and write the list. Compile the cdb again if it does not match the result.

        The lock is held all the time, so that no other program's change is lost.
        """
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
        """Replace the list.

        If the cdb stays valid, the new list keeps the old one's time, which is what `is_stale` compares.
        """
        with Temporary(self.directory) as temporary:
            try:
                owner = os.stat(self.directory) if old is None else old
                write_file(temporary, text, MODE if old is None else old.st_mode & PERMISSIONS, owner)
                if old is not None and not stale:
                    os.utime(temporary, ns=(old.st_mtime_ns, old.st_mtime_ns))
                os.rename(temporary, self.list)
            except OSError as error:
                raise unable(b"write " + self.list, error) from None

    def has_rules(self) -> bool:
        """Whether there are rules or a cdb.

        Without them nothing is compiled: relay-check before qmail-smtpd needs no cdb.
        """
        return os.path.lexists(self.rules) or os.path.lexists(self.cdb)

    def is_stale(self, old: os.stat_result) -> bool:
        """Whether the cdb was not compiled from this list, or the rules are newer than the cdb."""
        try:
            cdb, rules = os.stat(self.cdb), os.stat(self.rules)
        except OSError:
            return True  # compiling it will report the reason
        matches = old.st_mtime_ns == cdb.st_mtime_ns <= time_ns()
        return not matches or max(rules.st_mtime_ns, rules.st_ctime_ns) >= cdb.st_mtime_ns

    def rebuild(self, seen: Seen) -> None:
        """Compile the cdb, and give the list the cdb's time.

        Equal times say that the two match: another program that changes one of them changes its time.
        """
        from qmail_smtpd.relay.rebuild import rebuild  # 6 ms with cdblib, which most logins do not need

        before = self.rules_version()
        rebuild(self.rules, self.cdb, seen)
        if before != self.rules_version():
            return  # the rules were edited meanwhile: the times stay different, so the next change compiles again
        try:
            compiled = os.stat(self.cdb).st_mtime_ns
            os.utime(self.list, ns=(compiled, compiled))
        except OSError:
            pass  # the list belongs to another user: the next change compiles the cdb again

    def rules_version(self) -> tuple[int, ...]:
        """Return values that change whenever the rules change. Return an empty tuple if there are no rules."""
        try:
            status = os.stat(self.rules)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
