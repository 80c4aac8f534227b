"""Look up a user in the users file, Dovecot's passwd-file: `user:{SCHEME}value[:uid:gid::home:shell:extra]`.

The file is read at each login and not kept: a change takes effect at once, and no server holds secrets of users.
"""

from qmail_smtpd.auth import secretfile
from qmail_smtpd.auth.errors import CannotVerify as CannotVerify
from qmail_smtpd.auth.errors import UnsuitableScheme
from qmail_smtpd.auth.secret import cram_matches, matches, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_ENTRY = (b"", b"#", b":")  # first bytes of lines that are no entries (Dovecot, db-passwd-file.c)
AFTER_NAME = (b":", b"\r", b"\n", b"")  # the first byte after a name
SECRET, UID, HOME, SHELL, EXTRA = 1, 2, 5, 6, 7  # fields of a line
MAILBOX_FIELD = b"userdb_"  # prefix of extra fields about the mailbox; other extra fields may restrict logins
SHELL_DEFAULT = b"/bin/sh"  # passwd(5) for an empty field
DUMMY = b"{PLAIN}-"
SCRAM_SCHEMES = (b":{SCRAM-SHA-256}", b":{PLAIN}")


def verify(path: bytes, user: bytes, password: bytes) -> bool:
    """Whether this is the user's password. Raises CannotVerify."""
    return Users(path).check(user, lambda stored: matches(stored, password)) is not None


def verify_digest(path: bytes, user: bytes, challenge: bytes, digest: bytes) -> bool:
    """Whether this is the user's CRAM-MD5 digest of the challenge. Raises CannotVerify, UnsuitableScheme."""
    users = Users(path)
    right = users.check(user, lambda stored: cram_matches(stored, challenge, digest)) is not None
    if not right:
        users.require_plaintext(user)
    return right


def has_scram_password(path: bytes) -> bool:
    """Whether an entry's scheme can be used for SCRAM-SHA-256. Raises CannotVerify.

    Reads only up to the first such entry: this is asked in every session that offers AUTH.
    """
    rest = b""
    for block in secretfile.blocks(path):
        lines, _, rest = (rest + block).rpartition(b"\n")
        if holds_scram_password(lines):
            return True
        rest = rest[: secretfile.BLOCK]  # the name and the scheme are at the beginning of a line
    return holds_scram_password(rest)


def holds_scram_password(lines: bytes) -> bool:
    """Whether one of these lines is an entry whose scheme can be used for SCRAM-SHA-256."""
    upper = lines.upper()
    for scheme in SCRAM_SCHEMES:
        found = upper.find(scheme)
        while found >= 0:
            start = lines.rfind(b"\n", 0, found) + 1
            if lines.find(b":", start) == found and lines[start : start + 1] not in NO_ENTRY:
                return True
            found = upper.find(scheme, found + 1)
    return False


class Entry:
    """A user's line in the file. `start`: its offset."""

    __slots__ = ("fields", "start")

    def __init__(self, text: bytes, start: int) -> None:
        self.fields = text.split(b":")
        self.start = start

    def field(self, number: int) -> bytes:
        """Return a field, empty if the line has fewer."""
        return self.fields[number] if number < len(self.fields) else b""

    @property
    def secret(self) -> bytes:
        return self.field(SECRET)

    @property
    def shell(self) -> bytes:
        return self.field(SHELL) or SHELL_DEFAULT

    def check_fields(self) -> None:
        """Raise CannotVerify for an incomplete entry, and for extra fields that may forbid the login (nologin, ...)."""
        if len(self.fields) <= SECRET:
            raise CannotVerify(b"no password")
        extra = b":".join(self.fields[EXTRA:]).split()
        if not all(word.startswith(MAILBOX_FIELD) for word in extra):
            raise CannotVerify(b"extra fields other than userdb_ ones")


class naming_line:
    """Context manager: add path and line number to a CannotVerify. The text of the line must not be logged."""

    __slots__ = ("entry", "users")

    def __init__(self, users: "Users", entry: Entry) -> None:
        self.users = users
        self.entry = entry

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, CannotVerify):
            raise CannotVerify(self.users.location(self.entry) + error.why) from None


class Users:
    """The current content of a users file. Raises CannotVerify if it cannot be read."""

    __slots__ = ("content", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.content = secretfile.read(path)

    def entries(self) -> "Iterator[Entry]":
        """Yield all entries, also invalid ones."""
        start = 0
        while start < len(self.content):
            entry = self.entry(start)
            if entry:
                yield entry
            start = self.line_end(start) + 1

    def entry(self, start: int) -> Entry | None:
        """Return the entry in the line at this offset, None for an empty line or a comment."""
        line = self.content[start : self.line_end(start)]
        return None if line[:1] in NO_ENTRY else Entry(line.removesuffix(b"\r"), start)

    def line_end(self, start: int) -> int:
        """Return the offset of the line's end."""
        end = self.content.find(b"\n", start)
        return end if end >= 0 else len(self.content)

    def location(self, entry: Entry) -> bytes:
        """Return path and line number of an entry, as a prefix for a message."""
        return b"%b, line %d: " % (self.path, self.content.count(b"\n", 0, entry.start) + 1)

    def find(self, user: bytes) -> Entry | None:
        """Return the first entry with exactly this name; case matters. Raises CannotVerify for an invalid entry."""
        for start in self.line_starts(user):
            entry = self.entry(start)
            if entry and entry.fields[0] == user:
                with naming_line(self, entry):
                    entry.check_fields()
                return entry
        return None

    def line_starts(self, user: bytes) -> list[int]:
        """Return the offsets of the lines that begin with this name.

        The whole file is searched, so the time does not show whether, or where, the name is found.
        """
        starts = [0] if self.content.startswith(user) else []
        before = b"\n" + user
        newline = self.content.find(before)
        while newline >= 0:
            starts.append(newline + 1)
            newline = self.content.find(before, newline + 1)
        length = len(user)
        return [start for start in starts if self.content[start + length : start + length + 1] in AFTER_NAME]

    def require_plaintext(self, user: bytes) -> None:
        """Raise UnsuitableScheme if the user's password is stored as a hash, which no digest can be computed from."""
        entry = self.find(user)
        if entry and is_hash(entry.secret):
            raise UnsuitableScheme

    def decoy(self) -> bytes:
        """Return the file's first hash: checking an unknown user's password against it takes the usual time."""
        return next((entry.secret for entry in self.entries() if is_hash(entry.secret)), DUMMY)

    def check(self, user: bytes, is_right: "Callable[[bytes], bool]") -> Entry | None:
        """Return the user's entry if `is_right` accepts its secret, else None. Raises CannotVerify, as `is_right` may.

        A refusal takes as long for an unknown user as for one with a password hash.
        """
        decoy = self.decoy()
        entry = self.find(user)
        if entry and entry.secret:
            with naming_line(self, entry):
                if is_right(entry.secret):
                    return entry
        if not entry or not is_hash(entry.secret):
            try:
                is_right(decoy)
            except CannotVerify:
                pass  # another user's entry is invalid
        return None


def is_hash(stored: bytes) -> bool:
    """Whether the secret is a hash in a known scheme, so that checking it takes time."""
    try:
        scheme, value = split(stored)
    except CannotVerify:
        return False
    return scheme != b"PLAIN" and value != b""
