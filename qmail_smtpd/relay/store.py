"""The operations of every store of logins: allow, check, entries, deny, expire.

Each kind of store keeps its entries in its own format.

Addresses come in as TCPREMOTEIP spells them, and are normalised here, once.
"""

from time import time

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.address import is_within, normalise
from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.settings import SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qmail_smtpd.relay.settings import Settings

QUAD = b"0123456789."  # the bytes of a dotted quad


class Store:
    """A store. Its methods raise StoreError. `clock` returns the time in seconds since 1970."""

    clock: "Callable[[], float]" = staticmethod(time)

    def __init__(self, settings: "Settings") -> None:
        self.settings = settings
        self.warnings: list[bytes] = []  # lines for the log, which the caller takes out

    def allow(self, address: bytes, user: bytes, service: bytes) -> bool:
        """Let this client relay for the window. Return False for an address that is never recorded."""
        key = key_of(address)
        if is_within(key, self.settings.unrecorded):
            return False
        window = self.settings.seconds
        now = self.now()
        self.put(Entry(key, user, service, now, now + (SECONDS if window is None else window)))
        return True

    def check(self, address: bytes) -> Entry | None:
        """Return the live entry by which this client may relay, or None."""
        # Digits and dots alone are a canonical address or none at all, so most connections need no parsing.
        entry = self.get(key_of(address) if not address or address.translate(None, QUAD) else address)
        settings = self.settings  # the rest is `counts` without the cost of its call
        if entry is None or not entry.is_live(int(self.clock()), settings.seconds):
            return None
        return None if is_within(entry.address, settings.unrecorded) else entry

    def entries(self) -> list[Entry]:
        """Return all entries by which clients may relay now."""
        return [entry for entry in self.all() if self.counts(entry)]

    def deny(self, address: bytes) -> bool:
        """Remove the entry of this client. Return False if it has none. Its next login makes a new one."""
        return self.remove(key_of(address))

    def expire(self) -> None:
        """Remove the entries that no longer count. They allow nothing even before that."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what the store keeps open."""

    def now(self) -> int:
        """Return the time in whole seconds."""
        return int(self.clock())

    def counts(self, entry: Entry) -> bool:
        """Whether the entry is live and its address may be recorded, whichever program has recorded it."""
        settings = self.settings
        return entry.is_live(int(self.clock()), settings.seconds) and not is_within(entry.address, settings.unrecorded)

    def put(self, entry: Entry) -> None:
        """Store the entry in place of an older one for its address."""
        raise NotImplementedError

    def get(self, key: bytes) -> Entry | None:
        """Return the entry for a normalised address, live or not."""
        raise NotImplementedError

    def all(self) -> "Iterable[Entry]":
        """Return all entries, live or not."""
        raise NotImplementedError

    def remove(self, key: bytes) -> bool:
        """Remove the entry for a normalised address. Return False if there is none."""
        raise NotImplementedError


def key_of(address: bytes) -> bytes:
    """Return the address's canonical text, which is the key of its entry. Raise StoreError if it is no address."""
    key = normalise(address)
    if key is None:
        raise StoreError(b"not an address: ", escaped(address))
    return key
