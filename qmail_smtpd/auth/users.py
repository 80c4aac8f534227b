"""The users file, Dovecot's passwd-file: `user:{SCHEME}value[:uid:gid::home:shell:extra]`. Is a user's password right?

Read at each login and never kept: a change counts at once, and no server holds anybody's secret. Writes nothing.
"""

from qmail_smtpd.auth import secretfile
from qmail_smtpd.auth.secret import cram_matches, matches, split
from qmail_smtpd.auth.trouble import Trouble as Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_ENTRY = (b"", b"#", b":")  # what such a line begins with (Dovecot, db-passwd-file.c)
AFTER_NAME = (b":", b"\r", b"\n", b"")  # the first byte behind a name
SECRET, UID, HOME, SHELL, EXTRA = 1, 2, 5, 6, 7  # fields of a line
FOR_MAILBOXES = b"userdb_"  # extra fields that say where mail lies; any other one may restrict who logs in
SHELL_DEFAULT = b"/bin/sh"  # passwd(5) for an empty field
NOBODY = b"{PLAIN}-"


def verify(path: bytes, user: bytes, password: bytes) -> bool:
    """Is this the user's password? Raises Trouble for all that is not a wrong one."""
    return Users(path).check(user, lambda stored: matches(stored, password)) is not None


def verify_digest(path: bytes, user: bytes, challenge: bytes, digest: bytes) -> bool:
    """Is this CRAM-MD5 digest of the challenge the user's? Only who is stored as PLAIN has one. Raises Trouble."""
    return Users(path).check(user, lambda stored: cram_matches(stored, challenge, digest)) is not None


class Entry:
    """What the file says of a user. `start`: where the line begins."""

    __slots__ = ("fields", "start")

    def __init__(self, text: bytes, start: int) -> None:
        self.fields = text.split(b":")
        self.start = start

    def field(self, number: int) -> bytes:
        """Empty where the line ends before it."""
        return self.fields[number] if number < len(self.fields) else b""

    @property
    def secret(self) -> bytes:
        return self.field(SECRET)

    @property
    def shell(self) -> bytes:
        return self.field(SHELL) or SHELL_DEFAULT

    def insist(self) -> None:
        """Raises Trouble for what is no entry, and for what may keep its user out: nologin, allow_nets and others."""
        if len(self.fields) <= SECRET:
            raise Trouble(b"no password")
        extra = b":".join(self.fields[EXTRA:]).split()
        if not all(word.startswith(FOR_MAILBOXES) for word in extra):
            raise Trouble(b"extra fields other than userdb_ ones")


class place:
    """`with place(users, entry):` tells where the trouble of its body lies, by line: no client's text gets logged."""

    __slots__ = ("entry", "users")

    def __init__(self, users: "Users", entry: Entry) -> None:
        self.users = users
        self.entry = entry

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Trouble):
            raise Trouble(self.users.where(self.entry) + error.why) from None


class Users:
    """A users file as it is now. Raises Trouble where it cannot be read."""

    __slots__ = ("content", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.content = secretfile.read(path)

    def entries(self) -> "Iterator[Entry]":
        """All of them, also those that are no good."""
        start = 0
        while start < len(self.content):
            entry = self.entry(start)
            if entry:
                yield entry
            start = self.end(start) + 1

    def entry(self, start: int) -> Entry | None:
        """What the line that begins there says; None if it says nothing of a user."""
        line = self.content[start : self.end(start)]
        return None if line[:1] in NO_ENTRY else Entry(line.removesuffix(b"\r"), start)

    def end(self, start: int) -> int:
        """Where the line ends that begins there."""
        end = self.content.find(b"\n", start)
        return end if end >= 0 else len(self.content)

    def where(self, entry: Entry) -> bytes:
        """The place of an entry, for the administrator."""
        return b"%b, line %d: " % (self.path, self.content.count(b"\n", 0, entry.start) + 1)

    def find(self, user: bytes) -> Entry | None:
        """The first entry of this very name: upper and lower case differ. Raises Trouble for one that is no good."""
        for start in self.places(user):
            entry = self.entry(start)
            if entry and entry.fields[0] == user:
                with place(self, entry):
                    entry.insist()
                return entry
        return None

    def places(self, user: bytes) -> list[int]:
        """Where this name begins a line. The whole file is looked through: no time tells where, or whether, it is."""
        places = [0] if self.content.startswith(user) else []
        before = b"\n" + user
        newline = self.content.find(before)
        while newline >= 0:
            places.append(newline + 1)
            newline = self.content.find(before, newline + 1)
        behind = len(user)
        return [start for start in places if self.content[start + behind : start + behind + 1] in AFTER_NAME]

    def decoy(self) -> bytes:
        """The first secret whose checking takes time: what is spent on whom the file does not know."""
        return next((entry.secret for entry in self.entries() if takes_time(entry.secret)), NOBODY)

    def check(self, user: bytes, is_right: "Callable[[bytes], bool]") -> Entry | None:
        """The user's entry, if `is_right` of its secret. Raises Trouble, as `is_right` may.

        A no takes as long for a name that is not there as for one whose password is hashed.
        """
        decoy = self.decoy()
        entry = self.find(user)
        if entry and entry.secret:
            with place(self, entry):
                if is_right(entry.secret):
                    return entry
        if not entry or not takes_time(entry.secret):
            try:
                is_right(decoy)
            except Trouble:
                pass  # it is another user's
        return None


def takes_time(stored: bytes) -> bool:
    """Is it a hash, of a scheme that is known?"""
    try:
        scheme, value = split(stored)
    except Trouble:
        return False
    return scheme != b"PLAIN" and value != b""
