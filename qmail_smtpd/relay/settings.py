"""Where the store is, how long a login counts, which addresses never do: $RELAY_..., else the control files.

cron has no environment: what it shall know stands in the control files.
"""

from qmail_smtpd import control
from qmail_smtpd.relay.address import NO_CLIENT, networks
from qmail_smtpd.relay.entry import moment
from qmail_smtpd.relay.trouble import Trouble
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 2400  # forty minutes, the article's window
LONGEST = 10**9  # seconds, thirty years: an entry's expiry has no more digits than entry.DIGITS
DIRECTORY = b"/var/lib/relay"
PROXIES = b"127.0.0.0/8 ::1"  # webmail and other programs of this host, behind which everybody is


class Settings:
    """The settings of a process. Raises Trouble.

    `store`: KIND or KIND:PLACE, empty for the default; `directory`: of the default store; `seconds`: the window, None
    where nobody has set one; `never`: the networks of addresses that are no client's, or everybody's.
    """

    __slots__ = ("directory", "environ", "home", "never", "seconds", "store")

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self.environ = environ
        self.home = control.home(environ)
        self.store = self.value(b"RELAY_STORE")
        self.directory = absolute(self.value(b"RELAY_DIR") or DIRECTORY)
        self.seconds = window(self.value(b"RELAY_SECONDS"))
        self.never = never(self.value(b"RELAY_PROXIES") or PROXIES)

    def value(self, variable: bytes) -> bytes:
        """What the variable says, else the control file, RELAY_DIR being relaydir; set but empty is unset."""
        return self.environ.get(variable) or self.file(variable.lower().replace(b"_", b"")) or b""

    def file(self, name: bytes) -> bytes | None:
        """A control file without blanks around it; None where there is none."""
        try:
            content = control.read(name, self.home)
        except Unreadable as trouble:
            raise Trouble(trouble.why) from None
        return content if content is None else content.strip()

    def may_relay(self, user: bytes) -> bool:
        """Whether control/norelay does not list the user."""
        return user.lower() not in control.list_entries((self.file(b"norelay") or b"").lower())


def variables(environ: "Mapping[bytes, bytes]") -> "tuple[bytes | None, ...]":
    """What the settings depend on, besides the control files."""
    get = environ.get  # a comprehension would be one more function, which each forked relay-check pays 12 us for
    return get(b"QMAILHOME"), get(b"RELAY_STORE"), get(b"RELAY_DIR"), get(b"RELAY_SECONDS"), get(b"RELAY_PROXIES")


def window(text: bytes) -> int | None:
    """A number of seconds, None for no text."""
    seconds = moment(text)
    if text and (seconds is None or seconds > LONGEST):
        raise Trouble(b"RELAY_SECONDS is no number of seconds, or more than thirty years")
    return seconds


def never(text: bytes) -> frozenset[bytes]:
    """The keys of the networks of which nobody is recorded."""
    try:
        return NO_CLIENT | networks(text)
    except ValueError as error:
        raise Trouble(b"RELAY_PROXIES has ", str(error).encode()) from None


def absolute(path: bytes) -> bytes:
    """The path, if all programs understand the same by it: their current directories differ."""
    if not path.startswith(b"/") or b"\0" in path:
        raise Trouble(b"the store's directory has to begin with a slash")
    return path
