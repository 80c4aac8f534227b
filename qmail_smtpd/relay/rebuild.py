"""The rules of tcp.smtp, and after them those of the live addresses -> tcp.smtp.cdb, for `tcpserver -x`.

A rule of a cdb hides the wider ones, so a live address gets its static rule's own variables, and RELAYCLIENT and
RBLSMTPD besides; one that is denied gets nothing.
"""

import os

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.place import temporary_name
from qmail_smtpd.relay.trouble import Trouble, unable
from tcprules.compile import BadLine, Unable, records, write_cdb
from tcprules.lookup import Verdict, keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UMASK = 0o022  # a new cdb is for tcpserver's account to read
GRANTED = (b"RELAYCLIENT", b"RBLSMTPD")


def rebuild(rules: bytes, cdb: bytes, live: "Iterable[bytes]") -> None:
    """Make the cdb anew. Raises Trouble; then it is as it was."""
    static = read_rules(rules)
    umask = os.umask(UMASK)
    try:
        write_cdb(cdb, temporary_name(os.path.dirname(cdb)), merged(static, live))
    except Unable as failure:
        raise Trouble(failure.text) from None
    finally:
        os.umask(umask)


def read_rules(rules: bytes) -> list[tuple[bytes, bytes]]:
    """The records of the static rules. Raises Trouble, which names a line that is no rule."""
    try:
        with open(rules, "rb") as file:
            return list(records(line.rstrip(b"\n") for line in file))
    except BadLine as bad:
        where = b"unable to parse line %d of %b: " % (bad.number, rules)
        raise Trouble(where, escaped(bad.line)) from None
    except OSError as error:
        raise unable(b"read " + rules, error) from None


def merged(static: list[tuple[bytes, bytes]], live: "Iterable[bytes]") -> "Iterator[tuple[bytes, bytes]]":
    """The static records, and then those of the live addresses. Of a key that comes twice the first record counts."""
    first = dict(reversed(static))
    granted = {address: data for address in live if (data := grant(first, address)) is not None}
    for key, data in static:
        yield key, granted.pop(key, data)
    yield from granted.items()


def grant(static: dict[bytes, bytes], address: bytes) -> bytes | None:
    """The data for a live address, None if the static rules deny it. Rules by name or ident are not known here."""
    data = next((static[key] for key in keys(address, None, None) if key in static), b"")
    verdict = Verdict(None, data, [])
    if verdict.deny:
        return None
    names = {name for name, _ in verdict.environment}
    return data + b"".join(b"+%b=\0" % name for name in GRANTED if name not in names)
