"""Which kind of store the settings name. A process loads the one that it uses."""

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.trouble import Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.relay.settings import Settings
    from qmail_smtpd.relay.store import Store


def open_store(settings: "Settings") -> "Store":
    """The store of RELAY_STORE: nothing, `directory`, `open-smtp:DIR` or `open-smtp:DIR:RULES`. Raises Trouble."""
    kind, _, place = settings.store.partition(b":")
    if settings.store in (b"", b"directory"):
        from qmail_smtpd.relay.directory import Directory

        return Directory(settings)
    if kind == b"open-smtp":
        from qmail_smtpd.relay.opensmtp import OpenSmtp

        return OpenSmtp(settings, place)
    raise Trouble(b"RELAY_STORE names no store: ", escaped(settings.store))
