"""What `relay-list --limits` shows: how much of its limits each login and address has used; and `--reset`."""

from typing import TYPE_CHECKING, TypedDict

from qmail_smtpd import control
from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.counters import ADDRESS, KINDS, LOGIN, SCHEME, UNKNOWN, Key
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.limits import BadLimit, RelayLimits, group_of, parse_failures, text_of
from qmail_smtpd.relay.meter import SCHEME_FACTOR
from qmail_smtpd.smtp.settings import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmail_smtpd.relay.counters import Counters
    from qmail_smtpd.relay.limits import Limits

HEADINGS = ("kind", "who", "used", "limit")


class Use(TypedDict):
    """What a login or an address has used of one of its limits. `seconds` is the limit's window."""

    kind: str
    who: str
    used: int
    limit: int
    seconds: int


class Configured:
    """The limits that the control files of a home set. Creating it raises StoreError."""

    def __init__(self, home: bytes) -> None:
        self.relaylimits = RelayLimits(b"")
        self.failures: Limits = ()
        content, line = read(b"relaylimits", home), read(b"authfaillimit", home)
        self.brtlimit = control.unsigned(control.leading_digits(read(b"brtlimit", home) or b""))
        try:
            if content is not None:
                self.relaylimits = RelayLimits(content)
            if line is not None:
                self.failures = (parse_failures(line.partition(b"\n")[0]),)
        except BadLimit as error:
            raise StoreError(b"unable to parse control/relaylimits or authfaillimit: ", str(error).encode()) from None

    def limits_of(self, key: Key) -> "Limits":
        """Return the limits for a counter, none if it is no longer limited."""
        if key.kind == LOGIN:
            return self.relaylimits.of_login(key.name)[1]
        if key.kind == ADDRESS:
            return self.relaylimits.of_address(key.name)[1]
        if key.kind == UNKNOWN:
            return tuple((self.brtlimit, seconds) for _, seconds in self.failures if self.brtlimit)
        factor = SCHEME_FACTOR if key.kind == SCHEME else 1
        return tuple((failures * factor, seconds) for failures, seconds in self.failures)


def read(name: bytes, home: bytes) -> bytes | None:
    """Return the content of a control file, None if it does not exist. Raise StoreError."""
    try:
        return control.read(name, home)
    except Unreadable as error:
        raise StoreError(error.why) from None


def uses(counters: "Counters", configured: Configured) -> list[Use]:
    """Return what has been used of each limit, the fullest first. Raise StoreError."""
    found = [use for key in counters.counted() for use in uses_of(key, counters, configured)]
    return sorted(found, key=lambda use: (-use["used"] / max(use["limit"], 1), use["kind"], use["who"]))


def uses_of(key: Key, counters: "Counters", configured: Configured) -> "Iterator[Use]":
    """Yield what a counter has used of each of its limits, if it has used anything."""
    limits = configured.limits_of(key)
    for (limit, seconds), used in zip(limits, counters.used([(key, seconds) for _, seconds in limits]), strict=True):
        if used:
            who = key.name.decode("ascii", "backslashreplace")
            yield {"kind": key.kind.decode(), "who": who, "used": used, "limit": limit, "seconds": seconds}


def cells(use: Use) -> tuple[str, ...]:
    """Return the cells of one line."""
    return use["kind"], use["who"], str(use["used"]), text_of((use["limit"], use["seconds"])).decode()


def reset_all(counters: "Counters", who: bytes) -> bool:
    """Forget everything that is counted for a login or an address. Return False if nothing is. Raise StoreError."""
    names = {who, who.lower(), normalise(who) or who, group_of(who)}
    was_counted = [counters.reset(Key(kind, name)) for kind in KINDS for name in names]
    return any(was_counted)
