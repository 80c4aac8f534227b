"""control/xclienthosts: the proxies that may give XCLIENT. Pure.

A line is an address or network in one of tcprules' forms, and may end with the word `login`. As in rules, the most
specific line decides. A line that is not understood lists nobody.
"""

from qmail_smtpd.smtp.xclient import ATTRIBUTES, WITHOUT_LOGIN
from tcprules.lookup import expand, keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WITH_LOGIN = b"login"
OCTET_MAX = 255


class Hosts:
    """The listed networks, as the keys of rules: whether a host in it may send LOGIN."""

    __slots__ = ("faults", "networks")

    def __init__(self, lines: "Iterable[bytes]") -> None:
        self.networks: dict[bytes, bool] = {}
        self.faults: list[tuple[bytes, str]] = []  # lines without effect, and why
        for line in lines:
            try:
                self.add(line)
            except ValueError as error:
                self.faults.append((line, str(error)))

    def add(self, line: bytes) -> None:
        """Add the network of a line. Raises ValueError."""
        network, *words = line.replace(b"\t", b" ").split(b" ")
        options = [word for word in words if word]
        if options not in ([], [WITH_LOGIN]):
            raise ValueError("only the word login may follow the address")
        for key in network_keys(network):
            # Of two lines for the same addresses, the stricter one counts.
            self.networks[key] = bool(options) and self.networks.get(key, True)

    def attributes(self, ip: bytes) -> tuple[bytes, ...]:
        """Return the attributes that a host with this address may send, none if it is not listed."""
        for key in keys(ip, None, None):
            if key in self.networks:
                return ATTRIBUTES if self.networks[key] else WITHOUT_LOGIN
        return ()


def network_keys(text: bytes) -> list[bytes]:
    """Return the keys of an address or network. Raises ValueError."""
    found = expand(text) if b"/" in text or b":" in text else prefix_keys(text)
    if b"" in found:
        raise ValueError("this is every client")
    return found


def prefix_keys(text: bytes) -> list[bytes]:
    """Return the keys of `10.0.0.1`, of a prefix `10.0.`, or of either with a range in one place: `10.0.0.1-9`."""
    prefix = text.endswith(b".")
    octets = text.removesuffix(b".").split(b".")
    if len(octets) not in ((1, 2, 3) if prefix else (4,)) or text.count(b"-") > 1:
        raise ValueError("not an address or a network")
    found = [b""]
    for place, octet in enumerate(octets):
        dot = b"." if prefix or place < len(octets) - 1 else b""
        found = [start + b"%d" % number + dot for start in found for number in octet_range(octet)]
    return found


def octet_range(text: bytes) -> range:
    """Return the numbers of `7` or `7-9`. Raises ValueError."""
    low, dash, high = text.partition(b"-")
    first = octet_number(low)
    last = octet_number(high) if dash else first
    if last < first:
        raise ValueError("a range goes from the lower number to the higher one")
    return range(first, last + 1)


def octet_number(text: bytes) -> int:
    """Return the number of an octet without leading zeros. Raises ValueError."""
    number = int(text) if text.isdigit() and len(text) <= len(b"%d" % OCTET_MAX) else OCTET_MAX + 1
    if number > OCTET_MAX or b"%d" % number != text:
        raise ValueError("not an address or a network")
    return number
