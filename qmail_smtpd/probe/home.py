"""What a qmail home says of its domains: control/rcpthosts and morercpthosts.cdb. Reads, and decides nothing."""

import os
from collections.abc import Callable

from qmail_smtpd.control import list_entries
from qmail_smtpd.probe.probes import is_name
from qmail_smtpd.smtp.policy import in_rcpthosts
from tcprules.lookup import Rules, open_rules

MOST_CANDIDATES = 5
OUTSIDERS = (b"example.net", b"example.org", b"example.com")  # RFC 2606
LAST_OUTSIDER = b"relaytest.invalid"  # RFC 2606: nobody's


class Home:
    """The lists of one home. `rcpthosts` is None where there is no such file. Raises OSError."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        content = self.read("rcpthosts")
        self.rcpthosts = None if content is None else frozenset(entry.lower() for entry in list_entries(content))
        self.more = self.open_more()
        self.is_strict = os.path.exists(self.control("relaystrict"))

    def control(self, name: str) -> str:
        """The path of a control file."""
        return os.path.join(self.path, "control", name)

    def read(self, name: str) -> bytes | None:
        """A control file, None where there is none."""
        try:
            with open(self.control(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def open_more(self) -> Rules | None:
        """morercpthosts.cdb: to a reader, a cdb is a cdb."""
        try:
            return open_rules(self.control("morercpthosts.cdb"))
        except FileNotFoundError:
            return None

    def takes(self, domain: bytes) -> bool:
        """Whether the lists have the domain. A home without rcpthosts has none of its own, and takes everything."""
        more: Callable[[bytes], bool] = lambda key: self.more is not None and self.more.get(key) is not None  # noqa: E731
        return self.rcpthosts is not None and in_rcpthosts(b"x@" + domain, self.rcpthosts, more)

    def listed(self) -> list[bytes]:
        """Domains to try as listed ones: plain entries, then names below the wildcards, then one of the cdb."""
        if self.rcpthosts is None:
            return [OUTSIDERS[-1]]  # any will do
        entries = sorted(self.rcpthosts)
        found = [entry for entry in entries if is_name(entry)]
        found += [b"relaytest" + entry for entry in entries if entry[:1] == b"." and is_name(entry[1:])]
        if not found and self.more is not None:
            found = [key for key, _ in self.more.records() if is_name(key)][:1]
        return found[:MOST_CANDIDATES]
