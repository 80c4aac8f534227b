"""What a probe is: the commands that are said, which answer decides, and what it means if that is yes. Pure.

The probes themselves are data: catalogue (addresses), tricks (everything else).
"""

import string
from typing import NamedTuple

# What a taken recipient means: where the mail would go by the readings that there are of its address.
OUTSIDE = "outside"  # every reading ends in a domain outside: a hole
OPAQUE = "opaque"  # the domain is the server's own, or there is none; what stands before it may be routed on, or not
UNCLEAR = "unclear"  # one reading ends outside and another here: whoever takes it must not be called closed
BELOW = "below"  # a domain below a listed one: right where the server wants it
HERE = "here"  # it names nobody outside
FORGED = "forged"  # the answer itself is the hole: the server has done what nobody may

# What a step's answer is for.
SENDER = "sender"  # MAIL: a refusal refuses the probe
ASK = "ask"  # this one decides
MUST = "must"  # without a yes the probe cannot be made
MAY = "may"  # whatever the answer, the probe goes on
LOGIN = "login"  # a yes is the hole: nobody has a password
DIALOGUE = "dialogue"  # said only where the answer before was 334

# How a probe is asked.
ENVELOPE = "envelope"
STARTTLS = "starttls"
SMUGGLING = "smuggling"


class Step(NamedTuple):
    """One command, without its line end. {user}, {out} and so on stand for what is asked about (Names)."""

    text: bytes
    role: str


class Probe(NamedTuple):
    """One question."""

    name: str
    group: str
    source: str  # RFC, CVE or tool
    why: str
    reading: str
    steps: tuple[Step, ...] = ()
    kind: str = ENVELOPE
    alone: bool = False  # on a connection of its own: it may leave the server in any state
    hello: bytes = b""  # the name in HELO, where that is the trick
    preamble: bytes = b""  # said before the greeting
    ending: bytes = b""  # of a message, in smuggling
    needs: str = ""  # "auth", "send": the option without which it is not asked

    @property
    def recipient(self) -> str:
        """The kind of recipient, whoever the sender is."""
        return self.name.rpartition("/")[2]


class Names(NamedTuple):
    """What a run asks about, as bytes that may stand in a command."""

    user: bytes = b"relaytest"
    out: bytes = b"example.net"  # a domain that the server does not take mail for
    listed: bytes = b"localhost"  # one that it does
    me: bytes = b"localhost"  # the server's own name
    ip: bytes = b"127.0.0.1"  # its address, as a literal has it
    sender: bytes = b"relaytest-sender"
    inside: bytes = b"postmaster@localhost"  # a recipient at the listed domain that is taken


LETTERS = (string.ascii_letters + string.digits + ".-").encode()
LONGEST_NAME = 255  # RFC 1035 section 2.3.4


def is_name(text: bytes) -> bool:
    """Whether this may stand in a command as a domain: what a server says of itself is not to be trusted."""
    return 0 < len(text) <= LONGEST_NAME and not text.strip(LETTERS) and text[:1] not in b".-"


def fill(template: bytes, names: Names) -> bytes:
    """A command with the names in it. {OUT} is the same domain in mixed case."""
    words = {**names._asdict(), "OUT": mixed_case(names.out)}
    for word, value in words.items():
        template = template.replace(b"{%b}" % word.encode(), value)
    return template


def mixed_case(domain: bytes) -> bytes:
    """eXaMpLe.nEt"""
    return bytes(byte ^ 0x20 if place % 2 and chr(byte).isalpha() else byte for place, byte in enumerate(domain))
