"""The definition of a probe: the commands to send, the reply that decides, and the meaning of an acceptance. Pure.

The probes themselves are data: catalogue has those of addresses, tricks the others.
"""

import string
from typing import NamedTuple

# The meaning of an accepted recipient: where the mail would go, in the possible readings of the address.
OUTSIDE = "outside"  # outside in every reading: an open relay
OPAQUE = "opaque"  # the domain is listed, or there is none; the local part may be routed onward
UNCLEAR = "unclear"  # outside in one reading, here in another: a server that accepts it cannot be called closed
BELOW = "below"  # a domain below a listed one: correct if intended
HERE = "here"  # no outside address in any reading
NOBODY = "nobody"  # a recipient at a listed domain that cannot exist: not relayed, but returned to a forged sender
FORGED = "forged"  # the acceptance itself is the fault: the server has executed something that no client may do

# The role of a step's reply.
SENDER = "sender"  # MAIL: a refusal is the result of the probe
DECIDES = "decides"  # its reply is the result of the probe
REQUIRED = "required"  # unless it is accepted, the probe is impossible
OPTIONAL = "optional"  # the probe goes on after any reply
LOGIN = "login"  # an acceptance is the fault: the login is invented
DIALOGUE = "dialogue"  # sent only after a 334

# The kind of a probe.
ENVELOPE = "envelope"
STARTTLS = "starttls"
SMUGGLING = "smuggling"


class Step(NamedTuple):
    """One command, without its line end. {user}, {out} and so on are replaced by the names."""

    text: bytes
    role: str


class Probe(NamedTuple):
    """One probe."""

    name: str
    group: str
    source: str  # RFC, CVE or tool
    why: str
    reading: str
    steps: tuple[Step, ...] = ()
    kind: str = ENVELOPE
    alone: bool = False  # on its own connection, because it may leave the server in any state
    hello: bytes = b""  # the name in EHLO, if the probe is about that
    preamble: bytes = b""  # sent before the greeting
    ending: bytes = b""  # the false end of a message, for smuggling
    chunked: bool = False  # whether the message comes by BDAT
    needs: str = ""  # "auth" or "send": the option that enables it

    @property
    def recipient(self) -> str:
        """The kind of recipient, without the sender."""
        return self.name.rpartition("/")[2]


class Names(NamedTuple):
    """The names that a run uses in commands."""

    user: bytes = b"relaytest"
    out: bytes = b"example.net"  # a domain that the server does not accept mail for
    listed: bytes = b"localhost"  # a domain that it accepts mail for
    me: bytes = b"localhost"  # the server's own name
    ip: bytes = b"127.0.0.1"  # its address, as in a literal
    sender: bytes = b"relaytest-sender"
    inside: bytes = b"postmaster@localhost"  # an accepted recipient at the listed domain


LETTERS = (string.ascii_letters + string.digits + ".-").encode()
LONGEST_NAME = 255  # RFC 1035 section 2.3.4


def is_name(text: bytes) -> bool:
    """Whether the text is safe as a domain in a command: names from a server's greeting are not trusted."""
    return 0 < len(text) <= LONGEST_NAME and not text.strip(LETTERS) and text[:1] not in b".-"


def fill(template: bytes, names: Names) -> bytes:
    """Return the command with the names filled in. {OUT} is the outside domain in mixed case."""
    words = {**names._asdict(), "OUT": mixed_case(names.out)}
    for word, value in words.items():
        template = template.replace(b"{%b}" % word.encode(), value)
    return template


def mixed_case(domain: bytes) -> bytes:
    """Return the domain as in `eXaMpLe.nEt`."""
    return bytes(byte ^ 0x20 if place % 2 and chr(byte).isalpha() else byte for place, byte in enumerate(domain))
