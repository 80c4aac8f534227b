"""control/relaylimits: how many recipients each login, and each address without a login, may have relayed. Pure.

A line is `WHO: recipients/seconds`. A file with a line that is not understood has no meaning at all: half of the limits
would leave the host more open than its administrator believes.
"""

from qmail_smtpd.relay.address import normalise
from tcprules.lookup import canonical, keys, network_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    Limit = tuple[int, int]  # recipients or failures, and the seconds of the window
    Limits = tuple[Limit, ...]

MOST = 10**9  # recipients, and seconds: thirty years
DIGITS = len(str(MOST))
LIMITS_FOR_ONE = 8
EACH_LOGIN = b"*"
EACH_ADDRESS = b"."
ADDRESS_BYTES = b"0123456789.-/"
GROUP_NIBBLES = 16  # an IPv6 /64, in which a client can take any address (RFC 4291 section 2.5.1)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLimit(ValueError):
    """A text that is no limit. The message says why."""


class RelayLimits:
    """The limits of the file. `logins` are in lower case; `networks` are the keys of rules."""

    __slots__ = ("each_address", "each_login", "logins", "networks")

    def __init__(self, content: bytes) -> None:
        """Parse the file. Raise BadLimit, which names the first bad line."""
        self.logins: dict[bytes, Limits] = {}
        self.networks: dict[bytes, Limits] = {}
        self.each_login: Limits = ()
        self.each_address: Limits = ()
        for number, line in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), 1):
            text = without_comment(line)
            try:
                if text:
                    self.add(text)
            except ValueError as error:
                raise BadLimit(f"line {number}: {error}") from None

    def add(self, line: bytes) -> None:
        """Add the limits of a line to those that its WHO already has. Raise ValueError."""
        who, colon, rest = line.rpartition(b":")
        who = who.strip(b" \t")
        if not colon or not who:
            raise BadLimit("a line is WHO: recipients/seconds")
        limits = tuple(parse_limit(word) for word in rest.split())
        if not limits:
            raise BadLimit("no limit follows the colon")
        if who == EACH_LOGIN:
            self.each_login = joined(self.each_login, limits)
        elif who == EACH_ADDRESS:
            self.each_address = joined(self.each_address, limits)
        elif is_address_form(who):
            for key in network_keys(who):
                self.networks[key] = joined(self.networks.get(key, ()), limits)
        else:
            login = who.lower()
            self.logins[login] = joined(self.logins.get(login, ()), limits)

    def of_login(self, user: bytes) -> "tuple[bytes, Limits]":
        """Return the name under which this login is counted, and its limits. Letter case does not matter."""
        login = user.lower()
        return login, self.logins.get(login, self.each_login)

    def of_address(self, address: bytes) -> "tuple[bytes, Limits]":
        """Return the name under which this address is counted, and its limits.

        An IPv6 address counts with its /64, unless the line is for less than that.
        """
        group = group_of(address)
        if not self.networks:
            return group, self.each_address
        for key in keys(normalise(address) or address, None, None):
            if key in self.networks:
                narrow = b":" in key and (not key.endswith(b"/") or nibbles(key) > GROUP_NIBBLES)
                return network_text(key) if narrow else group, self.networks[key]
        return group, self.each_address


def without_comment(line: bytes) -> bytes:
    """Return the line without blanks around it, and without a comment, which begins a line or follows a blank."""
    text = line.replace(b"\t", b" ").strip(b" \r")
    return b"" if text.startswith(b"#") else text.partition(b" #")[0].rstrip(b" ")


def is_address_form(who: bytes) -> bool:
    """Whether WHO is meant as an address or a network, not as a login. A login may be a number."""
    return b"@" not in who and (b":" in who or (b"." in who and not who.strip(ADDRESS_BYTES)))


def parse_limit(text: bytes) -> "Limit":
    """Return the numbers of `recipients/seconds` or `failures/seconds`. Raise BadLimit."""
    count, slash, seconds = text.partition(b"/")
    if not slash or not is_number(count) or not is_number(seconds) or not int(seconds):
        raise BadLimit("a limit is two whole numbers, such as 300/3600")
    return int(count), int(seconds)


def parse_failures(line: bytes) -> "Limit":
    """Return the limit in control/authfaillimit. Raise BadLimit."""
    limit = parse_limit(without_comment(line.removeprefix(BYTE_ORDER_MARK)))
    if not limit[0]:
        raise BadLimit("the first number must be at least 1")
    return limit


def is_number(text: bytes) -> bool:
    """Whether the text is a decimal number up to MOST."""
    return text.isdigit() and len(text) <= DIGITS and int(text) <= MOST


def joined(first: "Limits", second: "Limits") -> "Limits":
    """Return the limits of two lines for one WHO, the shortest window first; of two for one window, the lower one.

    Raise BadLimit.
    """
    narrowest: dict[int, int] = {}
    for count, seconds in first + second:
        narrowest[seconds] = min(count, narrowest.get(seconds, count))
    if len(narrowest) > LIMITS_FOR_ONE:
        raise BadLimit(f"more than {LIMITS_FOR_ONE} limits")
    return tuple((narrowest[seconds], seconds) for seconds in sorted(narrowest))


def group_of(address: bytes) -> bytes:
    """Return the name under which an address is counted: its own, or for IPv6 that of its /64."""
    text = normalise(address) or address
    if b":" not in text:
        return text
    networks = (key for key in keys(text, None, None) if key.endswith(b"/") and nibbles(key) == GROUP_NIBBLES)
    return next(map(network_text, networks), text)


def network_text(key: bytes) -> bytes:
    """Return an IPv6 network's key as it is written: `2001:db8::/64`. Other keys are returned unchanged."""
    if not key.endswith(b"/"):
        return key
    digits = key.rstrip(b"/").replace(b":", b"")
    groups = [digits.ljust(32, b"0")[start : start + 4] for start in range(0, 32, 4)]
    return b"%b/%d" % (canonical(b":".join(groups)) or key, 4 * len(digits))


def nibbles(key: bytes) -> int:
    """Return the length of an IPv6 network's key in nibbles."""
    return len(key.rstrip(b"/").replace(b":", b""))


def text_of(limit: "Limit") -> bytes:
    """Return the limit as it is written in the file."""
    return b"%d/%d" % limit
