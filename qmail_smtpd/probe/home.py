"""The domains of a qmail home: control/rcpthosts and morercpthosts.cdb. Reads them, decides nothing."""

import os

from qmail_smtpd import control
from qmail_smtpd.probe.probes import is_name
from qmail_smtpd.smtp.policy import in_rcpthosts
from tcprules.lookup import Rules, is_missing, open_rules

MAX_CANDIDATES = 5
OUTSIDE_DOMAINS = (b"example.net", b"example.org", b"example.com")  # RFC 2606
LAST_OUTSIDE_DOMAIN = b"relaytest.invalid"  # RFC 2606: can never exist


class Home:
    """The lists of one home. `rcpthosts` is None if the file is missing. Creating it raises OSError and Unreadable."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        content = control.read(b"rcpthosts", os.fsencode(self.path))
        entries = () if content is None else control.list_entries(content)
        self.rcpthosts = None if content is None else frozenset(entry.lower() for entry in entries)
        self.more = self.open_more()
        self.is_strict = control.read(b"relaystrict", os.fsencode(self.path)) is not None

    def control_path(self, name: str) -> str:
        """Return the path of a control file."""
        return os.path.join(self.path, "control", name)

    def open_more(self) -> Rules | None:
        """Open morercpthosts.cdb. The reader of rules can read any cdb."""
        path = self.control_path("morercpthosts.cdb")
        try:
            return open_rules(path)
        except OSError as error:
            if not is_missing(error, path):
                raise
            return None

    def accepts(self, domain: bytes) -> bool:
        """Whether the lists contain the domain.

        Without rcpthosts they contain none, although everything is accepted.
        """
        return self.rcpthosts is not None and in_rcpthosts(b"x@" + domain, self.rcpthosts, self.in_more)

    def in_more(self, key: bytes) -> bool:
        """Whether morercpthosts.cdb has the key."""
        return self.more is not None and self.more.get(key) is not None

    def listed(self) -> list[bytes]:
        """Return listed domains to try: plain entries, then names below the wildcards, or else one from the cdb."""
        if self.rcpthosts is None:
            return [OUTSIDE_DOMAINS[-1]]  # any domain is accepted
        entries = sorted(self.rcpthosts)
        domains = [entry for entry in entries if is_name(entry)]
        domains += [b"relaytest" + entry for entry in entries if entry[:1] == b"." and is_name(entry[1:])]
        if not domains and self.more is not None:
            domains = [key for key, _ in self.more.records() if is_name(key)][:1]
        return domains[:MAX_CANDIDATES]
