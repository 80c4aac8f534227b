"""What every store of logins does: allow, check, entries, deny, expire. Where it keeps them is each kind's own.

Addresses come as TCPREMOTEIP has them and are normalised here, once.
"""

from time import time

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.address import is_within, normalise
from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.settings import SECONDS
from qmail_smtpd.relay.trouble import Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qmail_smtpd.relay.settings import Settings

QUAD = b"0123456789."  # a dotted quad's bytes


class Store:
    """A store. Its methods raise Trouble; `clock` tells the time in seconds since 1970."""

    clock: "Callable[[], float]" = staticmethod(time)

    def __init__(self, settings: "Settings") -> None:
        self.settings = settings

    def allow(self, address: bytes, user: bytes, service: bytes) -> bool:
        """Let this client relay from now on, for the window. False for an address that is never recorded."""
        key = normalised(address)
        if is_within(key, self.settings.never):
            return False
        window = self.settings.seconds
        now = self.now()
        self.put(Entry(key, user, service, now, now + (SECONDS if window is None else window)))
        return True

    def check(self, address: bytes) -> Entry | None:
        """The entry by which this client may relay now, if it has one."""
        # Digits and dots alone are the text of one client or of none: nothing to take apart for each connection.
        entry = self.get(normalised(address) if not address or address.translate(None, QUAD) else address)
        settings = self.settings  # what follows is `counts` without its call
        if entry is None or not entry.is_live(int(self.clock()), settings.seconds):
            return None
        return None if is_within(entry.address, settings.never) else entry

    def entries(self) -> list[Entry]:
        """All entries by which somebody may relay now."""
        return [entry for entry in self.all() if self.counts(entry)]

    def deny(self, address: bytes) -> bool:
        """Forget this client, until it logs in again. False if nothing was known of it."""
        return self.remove(normalised(address))

    def expire(self) -> None:
        """Remove what counts no more. Nobody relays by it anyway."""
        raise NotImplementedError

    def now(self) -> int:
        """The time in whole seconds."""
        return int(self.clock())

    def counts(self, entry: Entry) -> bool:
        """Whether this entry is not too old, and of an address that may be recorded, whoever has recorded it."""
        settings = self.settings
        return entry.is_live(int(self.clock()), settings.seconds) and not is_within(entry.address, settings.never)

    def put(self, entry: Entry) -> None:
        """Keep the entry, in the place of an older one for its address."""
        raise NotImplementedError

    def get(self, key: bytes) -> Entry | None:
        """The entry for a normalised address, whatever its age."""
        raise NotImplementedError

    def all(self) -> "Iterable[Entry]":
        """All entries, whatever their age."""
        raise NotImplementedError

    def remove(self, key: bytes) -> bool:
        """Remove the entry for a normalised address. False if there was none."""
        raise NotImplementedError


def normalised(address: bytes) -> bytes:
    """The address as it names an entry."""
    key = normalise(address)
    if key is None:
        raise Trouble(b"this is no address: ", escaped(address))
    return key
