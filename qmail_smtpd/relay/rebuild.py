"""The rules of tcp.smtp, and after them those of the live addresses -> tcp.smtp.cdb, for `tcpserver -x`.

A rule of a cdb hides the wider ones, so a live address gets its static rule's own variables, and RELAYCLIENT and
RBLSMTPD besides; one that is denied gets nothing.
"""

import os

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.place import discard, temporary_name
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
    temporary = temporary_name(os.path.dirname(cdb))
    umask = os.umask(UMASK)
    try:
        write_cdb(cdb, temporary, merged(static, live))
    except Unable as failure:
        raise Trouble(failure.text) from None
    except OSError as error:
        raise unable(b"make " + cdb, error) from None
    finally:
        os.umask(umask)
        discard(temporary)


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
    known: dict[bytes, bytes | None] = {}  # the data of static rules, of which there are few, as they are granted
    granted: dict[bytes, bytes] = {}
    for address in live:
        data = next((first[key] for key in keys(address, None, None) if key in first), b"")
        if data not in known:
            known[data] = grant(data)
        more = known[data]
        if more is not None:
            granted[address] = more
    for key, data in static:
        yield key, granted.pop(key, data)
    yield from granted.items()


def grant(data: bytes) -> bytes | None:
    """What a live address gets that has this static rule; None if that denies. Rules by name or ident are not known."""
    verdict = Verdict(None, data, [])
    if verdict.deny:
        return None
    names = {name for name, _ in verdict.environment}
    return data + b"".join(b"+%b=\0" % name for name in GRANTED if name not in names)
