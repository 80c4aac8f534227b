"""What tcpserver's parent has ready for relay-check and relay-allow where it has preloaded them: their store.

To read the settings would cost every forked child 60 pages of memory. The parent must not touch many either: what it
writes to between forks is copied, too. So it reads them once a second.
"""

from time import monotonic

from qmail_smtpd.relay.kinds import open_store
from qmail_smtpd.relay.settings import Settings, variables
from qmail_smtpd.relay.trouble import Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmail_smtpd.relay.store import Store

FRESH = 1.0  # seconds


class Prepared:
    """The store, None if there is trouble with it, and the variables that have led to it."""

    store: "Store | None" = None
    variables: "tuple[bytes | None, ...]" = ()
    until = 0.0


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """In the parent: have the store ready."""
    now = monotonic()
    if now < Prepared.until:
        return
    Prepared.until = now + FRESH
    Prepared.variables = variables(environ)
    try:
        Prepared.store = open_store(Settings(environ))
    except Trouble:
        Prepared.store = None  # the child meets it, too, and says so


def store_for(environ: "Mapping[bytes, bytes]") -> "Store":
    """The store that is prepared, unless a rule has changed something for this client. Raises Trouble."""
    if Prepared.store and Prepared.variables == variables(environ):
        return Prepared.store
    return open_store(Settings(environ))
