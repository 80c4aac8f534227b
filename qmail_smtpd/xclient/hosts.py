"""control/xclienthosts: the proxies that may give XCLIENT. Pure.

A line is an address or network in one of tcprules' forms, and may end with the word `login`. As in rules, the most
specific line decides. A line that is not understood lists nobody.
"""

from qmail_smtpd.smtp.xclient import ATTRIBUTES, WITHOUT_LOGIN
from tcprules.lookup import keys, network_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WITH_LOGIN = b"login"


class Hosts:
    """The listed networks, as the keys of rules, and for each whether a host in it may send LOGIN."""

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
