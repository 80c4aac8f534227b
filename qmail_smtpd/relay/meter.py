"""What a session may do: the limits of control/relaylimits and authfaillimit against what the store has counted.

A limit that cannot be checked lets nothing pass, except that of unknown recipients, which each session also counts for
itself. If a failed login or an unknown recipient cannot be counted, that is logged, and the session may not try
another one.
"""

from time import monotonic

from qmail_smtpd.relay.address import is_within, normalise
from qmail_smtpd.relay.counters import ADDRESS, FAILED, LOGIN, SCHEME, UNKNOWN, Key
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.limits import group_of, text_of
from qmail_smtpd.relay.prepared import counters_for
from qmail_smtpd.smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.relay.counters import Counters
    from qmail_smtpd.relay.limits import Limit, RelayLimits

    Refusal = tuple[bytes, dict[bytes, bytes]]

UNCHECKED = replies.RELAY_UNCHECKED, {b"reason": b"relaystore"}
LOGINS_UNCHECKED = replies.LOGINS_UNCHECKED, {b"reason": b"relaystore"}
WRONG_SCHEME = b"scheme"  # auth/errors.py
SCHEME_FACTOR = 10  # times as many of these failures: the client has only chosen a mechanism that was offered
FRESH = 1.0  # seconds: the counters are read again if the next line of an exchange comes later


class Meter:
    """The limits for one session. `relaylimits` and `authfaillimit` are None if they cannot be used.

    `warn` logs a line.
    """

    __slots__ = ("authfaillimit", "checked", "environ", "relaylimits", "uncounted", "warn", "warned")

    def __init__(
        self,
        environ: dict[bytes, bytes],
        relaylimits: "RelayLimits | None",
        authfaillimit: "Limit | None",
        warn: "Callable[[bytes], None]",
    ) -> None:
        self.environ = environ
        self.relaylimits = relaylimits
        self.authfaillimit = authfaillimit
        self.warn = warn
        self.warned = b""  # the last line that has been logged
        self.uncounted = False  # whether a failed login could not be counted
        self.checked = 0.0  # when the client was last allowed to try a login, on the monotonic clock

    def take_relayed(self, user: bytes | None, count: int) -> "tuple[int, Refusal | None]":
        """Count recipients of a user, or of the client's address. See smtp/backend.py."""
        if self.relaylimits is None:
            return 0, UNCHECKED
        if user is None:
            kind, (name, limits) = ADDRESS, self.relaylimits.of_address(self.address())
        else:
            kind, (name, limits) = LOGIN, self.relaylimits.of_login(user)
        if not limits:
            return count, None
        try:
            counters = self.counters()
            granted, stopped_by = counters.take(Key(kind, name), limits, count)
            self.log_warnings(counters)
        except StoreError as error:
            self.report(b"no relaying: " + error.text)
            return 0, UNCHECKED
        if stopped_by is None:
            return count, None
        facts = {b"reason": b"relaylimit", b"who": name, b"limit": text_of(stopped_by)}
        return granted, (replies.RELAY_LIMIT, facts)

    def attempt_refusal(self) -> "Refusal | None":
        """Return None if the client may try a login, else the reply and the facts for the log."""
        if self.authfaillimit is None or self.uncounted:
            return LOGINS_UNCHECKED
        if monotonic() - self.checked < FRESH:
            return None
        most, seconds = self.authfaillimit
        name = group_of(self.address())
        try:
            counters = self.counters()
            if self.is_shared(counters):
                return None
            failed, scheme = counters.used([(Key(FAILED, name), seconds), (Key(SCHEME, name), seconds)], writable=True)
            self.log_warnings(counters)
        except StoreError as error:
            self.report(b"no logins: " + error.text)
            return LOGINS_UNCHECKED
        if failed >= most or scheme >= most * SCHEME_FACTOR:
            facts = {b"reason": b"authfaillimit", b"who": name, b"limit": text_of(self.authfaillimit)}
            return replies.TOO_MANY_LOGINS, facts
        self.checked = monotonic()
        return None

    def count_failure(self, reason: bytes) -> None:
        """Count a failed login of the client. If that fails, the session may try no other one."""
        if self.authfaillimit is None:
            return
        self.checked = 0.0  # this failure may have been the last one
        kind = SCHEME if reason == WRONG_SCHEME else FAILED
        try:
            counters = self.counters()
            if not self.is_shared(counters):
                counters.add(Key(kind, group_of(self.address())), self.authfaillimit[1])
        except StoreError as error:
            self.uncounted = True
            self.report(b"a failed login is not counted: " + error.text)

    def unknown_recipients(self) -> int:
        """Return how many unknown recipients the address has named in the window of authfaillimit.

        0 if that cannot be found out: mail is still accepted, and the session counts its own.
        """
        if self.authfaillimit is None:
            return 0
        try:
            counters = self.counters()
            if self.is_shared(counters):
                return 0
            used = counters.used([(Key(UNKNOWN, group_of(self.address())), self.authfaillimit[1])])[0]
            self.log_warnings(counters)
        except StoreError as error:
            self.report(b"unknown recipients are counted in this session alone: " + error.text)
            return 0
        return used

    def count_unknown(self) -> bool:
        """Count an unknown recipient. Return False if that fails: the session may not name another one."""
        if self.authfaillimit is None:
            return False
        try:
            counters = self.counters()
            if not self.is_shared(counters):
                counters.add(Key(UNKNOWN, group_of(self.address())), self.authfaillimit[1])
        except StoreError as error:
            self.report(b"an unknown recipient is not counted: " + error.text)
            return False
        return True

    def address(self) -> bytes:
        """Return the client's address."""
        return self.environ.get(b"TCPREMOTEIP", b"unknown")

    def is_shared(self, counters: "Counters") -> bool:
        """Whether the client is one of RELAY_PROXIES, which act for many."""
        address = normalise(self.address())
        return address is not None and is_within(address, counters.settings.unrecorded)

    def counters(self) -> "Counters":
        """Return the store. Raise StoreError."""
        return counters_for(self.environ)

    def log_warnings(self, counters: "Counters") -> None:
        """Log the warnings of the store."""
        while counters.warnings:
            self.warn(counters.warnings.pop())

    def report(self, text: bytes) -> None:
        """Log why the store cannot be used, once for the same reason."""
        if text != self.warned:
            self.warned = text
            self.warn(text)
