"""Counters of relayed recipients and failed logins: the operations of every store of them.

A counter has a kind and a name, and a window for each of its limits.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qmail_smtpd.relay.limits import Limit, Limits
    from qmail_smtpd.relay.settings import Settings

LOGIN, ADDRESS = b"login", b"address"  # kinds: recipients relayed for a login, or for an address without one
FAILED, SCHEME = b"failed", b"scheme"  # kinds: failed logins of an address
UNKNOWN = b"unknown"  # kind: recipients that do not exist, named by an address
KINDS = (LOGIN, ADDRESS, FAILED, SCHEME, UNKNOWN)


class Key:
    """The key of a counter."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: bytes, name: bytes) -> None:
        self.kind = kind
        self.name = name


class Counters:
    """A store of counters. Its methods raise StoreError."""

    def __init__(self, settings: "Settings") -> None:
        self.settings = settings
        self.warnings: list[bytes] = []  # lines for the log, which the caller takes out

    def take(self, key: Key, limits: "Limits", count: int) -> "tuple[int, Limit | None]":
        """Count as many of `count` as all limits allow, in one atomic step.

        Return that number, and the limit that has stopped the others.
        """
        raise NotImplementedError

    def add(self, key: Key, seconds: int) -> None:
        """Count one in a window of this length, without a limit."""
        raise NotImplementedError

    def used(self, questions: "Sequence[tuple[Key, int]]", writable: bool = False) -> list[int]:
        """Return what each counter has counted in its window of so many seconds.

        `writable`: the caller may have to count for the first one. Raise StoreError, too, if that would fail now.
        """
        raise NotImplementedError

    def counted(self) -> "Iterable[Key]":
        """Return the keys of all counters that have counted something lately."""
        raise NotImplementedError

    def reset(self, key: Key) -> bool:
        """Forget what a counter has counted. Return False if it has counted nothing."""
        raise NotImplementedError

    def expire(self) -> None:
        """Remove the counters that no longer count anything."""
