"""The one message that --send may send, to the one address that somebody has named. Says who sends it, and why."""

from email.utils import formatdate, make_msgid
from typing import NamedTuple

from qmail_smtpd.probe.probes import Probe

TEXT = """\
From: relaytest <{address}>
To: {address}
Subject: relaytest of {server}: {probe}
Date: {date}
Message-ID: {number}
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii
Auto-Submitted: auto-generated

{user} on {host} asks with the program relaytest (ucspi-smtpd)
whether {server} is an open relay.
If you read this, the server has taken it with the probe
{probe}, and the mail has gone through.
Nobody but this address gets such messages.
"""


class Mailbox(NamedTuple):
    """Where messages go, and who sends them. All text is printable ASCII without line ends."""

    address: str  # outside: of what is relayed; empty, and nothing is
    inside: bytes  # a mailbox of the server's own: of what is smuggled; empty, and nothing is
    server: str
    user: str
    host: str

    def message(self, probe: Probe) -> bytes:
        """The message, with CRLF, not yet ended by its dot."""
        text = TEXT.format(
            address=self.address or self.inside.decode(),
            server=self.server,
            probe=probe.name,
            date=formatdate(),
            number=make_msgid(domain="relaytest.invalid"),
            user=self.user,
            host=self.host,
        )
        return text.encode("ascii", "replace").replace(b"\n", b"\r\n")
