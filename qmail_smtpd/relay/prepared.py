"""Open the store in tcpserver's parent, for relay-check and relay-allow if they are preloaded.

Reading the settings would cost each forked child 60 pages of memory. The parent should not write to many pages either,
because a page that it writes to between forks is copied. So it opens the store only once a second.
"""

from time import monotonic

from qmail_smtpd import control
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import open_counters, open_store
from qmail_smtpd.relay.settings import Settings, variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmail_smtpd.relay.counters import Counters
    from qmail_smtpd.relay.store import Store

FRESH = 1.0  # seconds that the opened store stays in use


class Prepared:
    """The store, None if it cannot be opened, the variables that it was opened with, and until when it is used."""

    store: "Store | None" = None
    variables: "tuple[bytes | None, ...]" = ()
    until = 0.0


class Opened:
    """The counters that a session of this process has opened last, and the variables that it has opened them with."""

    counters: "Counters | None" = None
    variables: "tuple[bytes | None, ...]" = ()
    until = 0.0


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """In the parent: open the store, unless it was opened less than a second ago."""
    now = monotonic()
    if now < Prepared.until:
        return
    Prepared.until = now + FRESH
    Prepared.variables = variables(environ)
    try:
        Prepared.store = open_store(Settings(environ))
    except StoreError:
        Prepared.store = None  # the child gets the same error, and reports it


def load_counters(environ: "Mapping[bytes, bytes]") -> None:
    """In the parent: load what the counters of the children need. Connects to nothing."""
    now = monotonic()
    if now < Opened.until:
        return
    try:
        open_counters(Settings(environ))
    except StoreError:
        pass  # each child reports it
    Opened.until = now + FRESH


def store_for(environ: "Mapping[bytes, bytes]") -> "Store":
    """Return the store that was opened less than a second ago, else open it. Raise StoreError.

    It is opened again, too, if the environment has other variables: a rule may have set one for this client.
    """
    now, wanted = monotonic(), variables(environ)
    if Prepared.store and now < Prepared.until and Prepared.variables == wanted:
        return Prepared.store
    Prepared.store = open_store(Settings(environ))
    Prepared.variables, Prepared.until = wanted, now + FRESH
    return Prepared.store


def read_settings(environ: "Mapping[bytes, bytes]") -> None:
    """In the parent, which has entered the home: read the settings for the sessions of the children."""
    try:
        session_settings(environ)
    except StoreError:
        pass  # each child reports it


def session_settings(environ: "Mapping[bytes, bytes]") -> Settings:
    """Return the settings of a session that has entered its home. Raise StoreError.

    They are read again when the control files have changed: to read them takes 0.1 ms.
    """
    if not control.current_cache:
        return Settings(environ)
    return control.cached(f"relay {variables(environ)}", lambda: Settings(environ, b"."))


def counters_for(environ: "Mapping[bytes, bytes]") -> "Counters":
    """Return the counters that this process has opened less than a second ago, else open them. Raise StoreError."""
    now, wanted = monotonic(), variables(environ)
    if Opened.counters and now < Opened.until and Opened.variables == wanted:
        return Opened.counters
    Opened.counters = open_counters(session_settings(environ))
    Opened.variables, Opened.until = wanted, now + FRESH
    return Opened.counters
