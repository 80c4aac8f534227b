"""The entries of control/validrcptto, and the keys under which a recipient is looked up. Pure.

An entry is `joe@example.org`, `@example.org` (every recipient of the domain), `joe-*@example.org` (qmail's extensions),
or one of these after a `-`, which refuses. Keys are those of John Simpson's validrcptto.cdb patch: lower case, and
`joe-default@example.org` for the extensions, as qmail's file .qmail-default has that name.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REFUSES = b"-"
ANY_EXTENSION, KEY_OF_EXTENSIONS = b"-*", b"-default"
MOST_DASHES = 16  # of a local part that are examined; each is a key to look up
# Text that no recipient's key contains: an entry with it matches nothing.
STRAY = {
    b"\xef\xbb\xbf": "a byte order mark at the beginning",
    b"\r": "a CR at the end",
    b" ": "a blank",
    b"\t": "a tab",
    b"*": "a *; the extensions of a user are joe-*@example.org, all of a domain is @example.org",
}


class Entries:
    """The entries of a list: each key, and whether it accepts or refuses."""

    __slots__ = ("domains", "faults", "keys")

    def __init__(self, lines: "Iterable[bytes]") -> None:
        self.keys: dict[bytes, bool] = {}
        self.faults: list[tuple[bytes, str]] = []  # lines without effect, and why
        for line in lines:
            try:
                self.add(line.lower())
            except ValueError as error:
                self.faults.append((line, str(error)))
        self.domains = frozenset(map(domain_of, self.keys))

    def add(self, line: bytes) -> None:
        """Add an entry. Of two for the same recipients, the one that refuses counts. Raises ValueError."""
        refuses = line.startswith(REFUSES)
        key = key_of(line.removeprefix(REFUSES))
        self.keys[key] = not refuses and self.keys.get(key, True)

    def closed_domains(self) -> list[bytes]:
        """Return the domains of which no entry accepts anything, sorted: probably a mistake."""
        return sorted(self.domains - {domain_of(key) for key, accepts in self.keys.items() if accepts})


def key_of(entry: bytes) -> bytes:
    """Return the key of an entry. Raises ValueError if no recipient has it."""
    local, at, domain = entry.rpartition(b"@")
    if not at:
        raise ValueError("no @; a domain is written @example.org")
    if not domain:
        raise ValueError("no domain after the @")
    if local.endswith(ANY_EXTENSION):
        local = local.removesuffix(ANY_EXTENSION) + KEY_OF_EXTENSIONS
    key = local + at + domain
    for text, why in STRAY.items():
        if text in key:
            raise ValueError(why)
    return key


def domain_of(address: bytes) -> bytes:
    """Return what follows the last @."""
    return address[address.rfind(b"@") + 1 :]


def keys(recipient: bytes) -> "Iterator[bytes]":
    """Yield the keys of a recipient with a domain, in lower case. The first that is found counts, else the domain's.

    The address itself; for `joe-a-b@example.org` also `joe-a-default@...` and `joe-default@...`.
    """
    yield recipient
    at = recipient.rfind(b"@")
    dashes: list[int] = []
    dash = recipient.find(REFUSES, 0, at)
    while dash >= 0 and len(dashes) < MOST_DASHES:
        dashes.append(dash)
        dash = recipient.find(REFUSES, dash + 1, at)
    for dash in reversed(dashes):
        yield recipient[:dash] + KEY_OF_EXTENSIONS + recipient[at:]
