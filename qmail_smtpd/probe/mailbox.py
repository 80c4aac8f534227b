"""The messages of --send, and their addresses. A message names its sender and its purpose."""

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

{user} on {host} tests with the program relaytest (ucspi-smtpd)
whether {server} is an open relay.
If you read this, the server has accepted this message in the probe
{probe}, and the mail has been delivered.
Such messages are sent only to this address.
"""


class Mailbox(NamedTuple):
    """The recipient and the sender of messages. All text is printable ASCII without line ends."""

    address: str  # outside, for relay probes; empty to send none
    inside: bytes  # at the server's own domain, for smuggling probes; empty to send none
    server: str
    user: str
    host: str

    def message(self, probe: Probe) -> bytes:
        """Return the message with CRLF line ends, without its final dot."""
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
