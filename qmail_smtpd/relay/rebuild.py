"""Compile tcp.smtp.cdb for `tcpserver -x` from the rules of tcp.smtp and the live addresses.

In a cdb a narrow rule hides the wider ones. So a live address gets the variables of its static rule, plus RELAYCLIENT
and RBLSMTPD. An address that the static rules deny stays denied.
"""

import os

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.errors import StoreError, unable
from qmail_smtpd.relay.files import Temporary, temporary_prefix
from tcprules.compile import BadLine, Unable, records, write_cdb
from tcprules.lines import read_file
from tcprules.lookup import Verdict, keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UMASK = 0o022  # tcpserver's account must be able to read a new cdb
GRANTED = (b"RELAYCLIENT", b"RBLSMTPD")


def rebuild(rules: bytes, cdb: bytes, live: "Iterable[bytes]") -> None:
    """Compile the cdb. Raise StoreError and leave the old cdb in place if that fails."""
    static = read_rules(rules)
    umask = os.umask(UMASK)
    try:
        with Temporary(os.path.dirname(cdb), temporary_prefix(cdb)) as temporary:
            write_cdb(cdb, temporary, merged(static, live))
    except Unable as failure:
        raise StoreError(failure.text) from None
    except OSError as error:
        raise unable(b"make " + cdb, error) from None
    finally:
        os.umask(umask)


def read_rules(rules: bytes) -> list[tuple[bytes, bytes]]:
    """Return the records of the static rules. Raise StoreError, which names an invalid line."""
    try:
        return list(records(read_file(rules, patience=0)))  # the lock is held: do not wait for a FIFO
    except BadLine as bad:
        message = b"unable to parse line %d of %b: " % (bad.number, rules)
        raise StoreError(message, escaped(bad.line)) from None
    except OSError as error:
        raise unable(b"read " + rules, error) from None


def merged(static: list[tuple[bytes, bytes]], live: "Iterable[bytes]") -> "Iterator[tuple[bytes, bytes]]":
    """Yield the static records, then those of the live addresses.

    In a cdb the first record with a key counts. So a live address that has a static record gets its variables there.
    """
    first = dict(reversed(static))
    with_grant: dict[bytes, bytes | None] = {}  # cache: a static rule's data -> its data with GRANTED
    granted: dict[bytes, bytes] = {}
    for address in live:
        data = next((first[key] for key in keys(address, None, None) if key in first), b"")
        if data not in with_grant:
            with_grant[data] = grant(data)
        data_with_grant = with_grant[data]
        if data_with_grant is not None:
            granted[address] = data_with_grant
    for key, data in static:
        yield key, granted.pop(key, data)
    yield from granted.items()


def grant(data: bytes) -> bytes | None:
    """Return the data of a static rule with GRANTED added, or None if the rule denies.

    Rules by host name or ident are not considered: the address's name and ident are not known here.
    """
    verdict = Verdict(None, data)
    if verdict.deny:
        return None
    names = {name for name, _ in verdict.environment}
    return data + b"".join(b"+%b=\0" % name for name in GRANTED if name not in names)
