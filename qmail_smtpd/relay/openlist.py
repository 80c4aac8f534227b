"""vpopmail's list of roaming addresses, format 1.2: `ADDRESS:allow,RELAYCLIENT="",RBLSMTPD=""<TAB>SECONDS`. Pure.

What vchkpw 5.6 writes for `::1` (a line without an address, the rule for everybody) and for IPv6 clients in its own
spelling (`2001_db8__7`) names no client: such lines are left out.
"""

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.entry import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERDICT = b':allow,RELAYCLIENT="'  # in every release
RULE = b'%b:allow,RELAYCLIENT="",RBLSMTPD=""\t%d\n'  # vpopmail.c, open_smtp_relay


def parse(content: bytes) -> dict[bytes, int]:
    """Address -> when it was seen, in the order of the lines. Of two lines for one address the later login counts."""
    found: dict[bytes, int] = {}
    for line in content.split(b"\n"):
        login = parse_line(line)
        if login:
            key, seen = login
            found[key] = max(seen, found.pop(key, 0))
    return found


def parse_line(line: bytes) -> tuple[bytes, int] | None:
    """Address and time of one line, None if it has none. The time stands last, behind any white space."""
    address, verdict, rest = line.partition(VERDICT)
    words = rest.split()
    if not verdict or len(words) < 2:
        return None
    key, seen = normalise(address), moment(words[-1])
    return None if key is None or seen is None else (key, seen)


def find(content: bytes, key: bytes) -> int | None:
    """When the address was seen, None if no line is for it: without looking at the others, a hundred times as fast."""
    found = None
    start = -1
    content = b"\n" + content
    while (start := content.find(b"\n" + key + VERDICT, start + 1)) >= 0:
        end = content.find(b"\n", start + 1)
        login = parse_line(content[start + 1 : end if end >= 0 else len(content)])
        if login:
            found = max(login[1], found or 0)
    return found


def compose(found: "Mapping[bytes, int]") -> bytes:
    """The list."""
    return b"".join([RULE % pair for pair in found.items()])
