"""How much a session may relay: the limits of control/relaylimits against what the store has counted.

Whatever fails refuses: a limit that cannot be checked lets nothing pass.
"""

from qmail_smtpd.relay.counters import ADDRESS, LOGIN, Key
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.limits import text_of
from qmail_smtpd.relay.prepared import counters_for
from qmail_smtpd.smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.relay.counters import Counters
    from qmail_smtpd.relay.limits import RelayLimits

    Refusal = tuple[bytes, dict[bytes, bytes]]

UNCHECKED = replies.RELAY_UNCHECKED, {b"reason": b"relaystore"}


class Meter:
    """The limits for one session. `relaylimits` is None if the file cannot be used; `warn` logs a line."""

    __slots__ = ("environ", "relaylimits", "warn", "warned")

    def __init__(
        self, environ: dict[bytes, bytes], relaylimits: "RelayLimits | None", warn: "Callable[[bytes], None]"
    ) -> None:
        self.environ = environ
        self.relaylimits = relaylimits
        self.warn = warn
        self.warned = b""  # the last line that has been logged

    def take_relayed(self, user: bytes | None, count: int) -> "tuple[int, Refusal | None]":
        """Count recipients of a user, or of the client's address. See smtp/backend.py."""
        if self.relaylimits is None:
            return 0, UNCHECKED
        address = self.environ.get(b"TCPREMOTEIP", b"unknown")
        if user is None:
            kind, (name, limits) = ADDRESS, self.relaylimits.of_address(address)
        else:
            kind, (name, limits) = LOGIN, self.relaylimits.of_login(user)
        if not limits:
            return count, None
        try:
            granted, stopped_by = self.counters().take(Key(kind, name), limits, count)
        except StoreError as error:
            self.report(b"no relaying: " + error.text)
            return 0, UNCHECKED
        if stopped_by is None:
            return count, None
        facts = {b"reason": b"relaylimit", b"who": name, b"limit": text_of(stopped_by)}
        return granted, (replies.RELAY_LIMIT, facts)

    def counters(self) -> "Counters":
        """Return the store. Raise StoreError."""
        return counters_for(self.environ)

    def report(self, text: bytes) -> None:
        """Log why the store cannot be used, once for the same reason."""
        if text != self.warned:
            self.warned = text
            self.warn(text)
