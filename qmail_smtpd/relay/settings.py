"""The settings: where the store is, how long a login counts, and which addresses are never recorded.

They come from $RELAY_... or from the control files. Programs that cron runs have no such environment: for them the
control files are needed.
"""

from qmail_smtpd import control
from qmail_smtpd.relay.address import NEVER_CLIENTS, parse_networks
from qmail_smtpd.relay.entry import parse_seconds
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 2400  # 40 minutes, the window of the article about clearopensmtp
TIMEOUT = 1.0  # seconds that a session waits for counters, and a program for Redis
LONGEST_TIMEOUT = 60
LONGEST = 10**9  # seconds, about thirty years: with it an entry's expiry fits into entry.DIGITS digits
DIRECTORY = b"/var/lib/relay"
PROXIES = b"127.0.0.0/8 ::1"  # webmail and other programs on this host act for all users


class Settings:
    """The settings of a process. Creating them raises StoreError.

    `store` is KIND or KIND:LOCATION, empty for the default. `directory` is the default store's. `seconds` is the
    window, or None if it is not set. `unrecorded` has the keys of networks whose addresses are never recorded: those
    that no client can have, and those that many clients share.
    """

    __slots__ = ("directory", "environ", "home", "seconds", "store", "unrecorded")

    def __init__(self, environ: "Mapping[bytes, bytes]", home: bytes = b"") -> None:
        self.environ = environ
        self.home = home or control.home(environ)
        self.store = self.value(b"RELAY_STORE")
        self.directory = check_absolute(self.value(b"RELAY_DIR") or DIRECTORY)
        self.seconds = parse_window(self.value(b"RELAY_SECONDS"))
        self.unrecorded = never_recorded(self.value(b"RELAY_PROXIES") or PROXIES)

    def value(self, variable: bytes) -> bytes:
        """Return the variable's value, or the control file's: for RELAY_DIR that is relaydir.

        A variable that is set but empty counts as unset.
        """
        return self.environ.get(variable) or self.file(variable.lower().replace(b"_", b"")) or b""

    def file(self, name: bytes) -> bytes | None:
        """Return a control file's content, stripped of white space, or None if the file does not exist."""
        try:
            content = control.read(name, self.home)
        except Unreadable as error:
            raise StoreError(error.why) from None
        return content if content is None else content.removeprefix(control.BYTE_ORDER_MARK).strip()

    def timeout(self) -> float:
        """Return how many seconds the store may take to answer a question. Raise StoreError."""
        text = self.value(b"RELAY_TIMEOUT")
        seconds = parse_seconds(text)
        if text and (not seconds or seconds > LONGEST_TIMEOUT):
            raise StoreError(b"RELAY_TIMEOUT is not a number of seconds from 1 to 60")
        return float(seconds or TIMEOUT)

    def may_relay(self, user: bytes) -> bool:
        """Whether the user may relay: control/norelay lists those who may not.

        An entry with blanks around it, a CR at its end or a comment after it counts, because no user has such a name.
        """
        entries = control.list_entries((self.file(b"norelay") or b"").lower().replace(b"\t", b" "))
        return user.lower() not in [entry.partition(b" #")[0].strip(b" \r") for entry in entries]


def variables(environ: "Mapping[bytes, bytes]") -> "tuple[bytes | None, ...]":
    """Return the variables that the settings depend on, besides the control files."""
    get = environ.get  # no comprehension: as one more function it would cost each forked relay-check 12 us
    return (
        get(b"QMAILHOME"),
        get(b"RELAY_STORE"),
        get(b"RELAY_DIR"),
        get(b"RELAY_SECONDS"),
        get(b"RELAY_PROXIES"),
        get(b"RELAY_TIMEOUT"),
    )


def parse_window(text: bytes) -> int | None:
    """Return a number of seconds, or None for an empty text. Raise StoreError if the text is invalid."""
    seconds = parse_seconds(text)
    if text and (seconds is None or seconds > LONGEST):
        raise StoreError(b"RELAY_SECONDS is not a number of seconds, or more than thirty years")
    return seconds


def never_recorded(text: bytes) -> frozenset[bytes]:
    """Return the keys of networks whose addresses are never recorded. Raise StoreError for invalid text."""
    try:
        return NEVER_CLIENTS | parse_networks(text)
    except ValueError as error:
        raise StoreError(b"RELAY_PROXIES has ", str(error).encode()) from None


def check_absolute(path: bytes) -> bytes:
    """Return the path if it is absolute, because programs have different current directories.

    Raise StoreError if not.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise StoreError(b"the store's directory must begin with a slash")
    return path
