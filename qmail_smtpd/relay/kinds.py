"""The kinds of stores, by their names in the settings. A process imports only the kind that it uses."""

import os

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.errors import StoreError

NO_PACKAGE = b"the Python package redis is missing: install ucspi-smtpd[redis]"
REDIS = (b"redis", b"rediss", b"unix", b"redis+sentinel")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.relay.counters import Counters
    from qmail_smtpd.relay.settings import Settings
    from qmail_smtpd.relay.store import Store


def open_store(settings: "Settings") -> "Store":
    """Return the store that RELAY_STORE names. Raise StoreError.

    The values are: empty or `directory`, `open-smtp:DIR`, `open-smtp:DIR:RULES`, and those of redistarget.py.
    """
    kind, _, location = settings.store.partition(b":")
    if settings.store in (b"", b"directory"):
        from qmail_smtpd.relay.directory import Directory

        return Directory(settings)
    if kind == b"open-smtp":
        from qmail_smtpd.relay.opensmtp import OpenSmtp

        return OpenSmtp(settings, location)
    if is_redis(settings):
        try:
            from qmail_smtpd.relay.redisstore import RedisStore
        except ImportError:
            raise StoreError(NO_PACKAGE) from None
        return RedisStore(settings)
    raise StoreError(b"RELAY_STORE is not a known store: ", escaped(settings.store))


def open_counters(settings: "Settings") -> "Counters":
    """Return the counters of the store that RELAY_STORE names. Raise StoreError.

    vpopmail's list has no room for them: with `open-smtp:DIR` they are in the default directory.
    """
    if is_redis(settings):
        try:
            from qmail_smtpd.relay.redisstore import RedisCounters
        except ImportError:
            raise StoreError(NO_PACKAGE) from None
        return RedisCounters(settings)
    from qmail_smtpd.relay.countfiles import CountFiles

    return CountFiles(settings)


def has_counters(settings: "Settings") -> bool:
    """Whether the store has a place for counters. A directory without one has never counted."""
    from qmail_smtpd.relay.countfiles import DIRECTORY

    return os.path.lexists(settings.directory + DIRECTORY)


def is_redis(settings: "Settings") -> bool:
    """Whether RELAY_STORE names a Redis server."""
    scheme, marks, _ = settings.store.partition(b"://")
    return bool(marks) and scheme in REDIS
