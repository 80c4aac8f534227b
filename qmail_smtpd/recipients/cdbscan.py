"""Whether a cdb of another program has a key that ends with `@` and a domain: reads the file from its beginning.

It takes about 10 ms for a million keys. A cdb of qmail-newvrt has records for its domains instead (listed.py).
"""

from qmail_smtpd.control import unreadable
from qmail_smtpd.recipients.cdb import PAIR_SIZE, Cdb

HEADER = 2048  # cdb.txt: 256 pairs, then the records, then the tables
BLOCK = 1 << 20
LONGEST_KEY = 1000  # bytes: the longest address that qmail-smtpd.c accepts has 899


def names_domain(cdb: Cdb, domain: bytes) -> bool:
    """Whether there is such a key. Raises Unreadable."""
    suffix = b"@" + domain
    try:
        end = cdb.read_pair(0)[0]  # the first table
        position = HEADER
        while position < end:
            size = min(BLOCK, end - position)
            if any(ends_key(cdb, place, suffix) for place in places(cdb.read(position, size), position, suffix)):
                return True
            if size < BLOCK:
                break
            position += BLOCK - len(suffix) + 1  # the suffix may begin in this block and end in the next one
        return False
    except OSError as error:
        raise unreadable(b"control/" + cdb.name, error) from error


def places(block: bytes, position: int, suffix: bytes) -> list[int]:
    """Return where in the file the suffix begins, for a block at this position."""
    found = []
    place = block.find(suffix)
    while place >= 0:
        found.append(position + place)
        place = block.find(suffix, place + 1)
    return found


def ends_key(cdb: Cdb, place: int, suffix: bytes) -> bool:
    """Whether the text at this place is the end of a key.

    A key contains no NUL, and follows its length and that of its data, whose last byte is a NUL.
    """
    start = max(HEADER, place - LONGEST_KEY)
    before = cdb.read(start, place - start)
    key = start + before.rfind(b"\0") + 1
    if key < HEADER + PAIR_SIZE:
        return False
    return key + cdb.read_pair(key - PAIR_SIZE)[0] == place + len(suffix)
