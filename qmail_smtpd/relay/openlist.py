"""vpopmail's list of roaming addresses, format 1.2: `ADDRESS:allow,RELAYCLIENT="",RBLSMTPD=""<TAB>SECONDS`. Pure.

vchkpw 5.6 writes invalid lines for IPv6 clients: for `::1` a line without an address, which would be a rule for
every client, and for others a spelling of its own (`2001_db8__7`). Such lines are ignored.
"""

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.entry import parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VERDICT = b':allow,RELAYCLIENT="'  # of every release
RULE = b'%b:allow,RELAYCLIENT="",RBLSMTPD=""\t%d\n'  # vpopmail.c, open_smtp_relay


def parse(content: bytes) -> dict[bytes, int]:
    """Return the addresses, in the order of the lines, with the times of their logins.

    If two lines have the same address, the later login counts.
    """
    logins: dict[bytes, int] = {}
    for line in content.split(b"\n"):
        login = parse_line(line)
        if login:
            key, seen = login
            logins[key] = max(seen, logins.pop(key, 0))
    return logins


def parse_line(line: bytes) -> tuple[bytes, int] | None:
    """Return address and time of one line, or None. The time is the last word, after any white space."""
    address, verdict, rest = line.partition(VERDICT)
    words = rest.split()
    if not verdict or len(words) < 2:
        return None
    key, seen = normalise(address), parse_seconds(words[-1])
    return None if key is None or seen is None else (key, seen)


def find(content: bytes, key: bytes) -> int | None:
    """Return the time of the address's login, or None if it has no line.

    It parses only the lines of this address, and so is a hundred times as fast as `parse`.
    """
    seen = None
    start = -1
    content = b"\n" + content
    while (start := content.find(b"\n" + key + VERDICT, start + 1)) >= 0:
        end = content.find(b"\n", start + 1)
        login = parse_line(content[start + 1 : end if end >= 0 else len(content)])
        if login:
            seen = max(login[1], seen or 0)
    return seen


def compose(logins: "Mapping[bytes, int]") -> bytes:
    """Return the text of the list."""
    return b"".join([RULE % pair for pair in logins.items()])
