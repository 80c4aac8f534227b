"""Counting in a sliding window of 60 buckets. Pure.

A count belongs to the bucket of its moment, a sixtieth of the window. What is used is the sum of the current bucket and
the 60 before it. So no period as long as the window counts more than a limit allows. A count is forgotten after one
window at the earliest, and after 61 sixtieths of it at the latest.

As bytes a window is a header and SLOTS slots: the number of a bucket, since 1970, and its count. A bucket's slot is its
number modulo SLOTS, so that one small write counts.
"""

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKETS = 60
SLOTS = 64  # at least BUCKETS + 1, so that no two buckets that count share a slot
HEADER = Struct("<8sQ")  # the mark, and the seconds of the window
SLOT = Struct("<QQ")
MARK = b"counts1\n"
SIZE = HEADER.size + SLOTS * SLOT.size


def bucket_at(now: float, seconds: int) -> int:
    """Return the number of the bucket of this time, in seconds since 1970."""
    return int(now * BUCKETS // seconds)


def empty(seconds: int) -> bytes:
    """Return a window without counts."""
    return HEADER.pack(MARK, seconds) + bytes(SLOTS * SLOT.size)


def find(content: bytes, seconds: int) -> int | None:
    """Return the offset of the window of this length in a file, or where to add it. None for a file of another kind.

    An incomplete window at the end was being added when its process was killed: it is where to add one.
    """
    for offset in range(0, len(content) - SIZE + 1, SIZE):
        mark, length = HEADER.unpack_from(content, offset)
        if mark != MARK:
            return None
        if length == seconds:
            return offset
    return len(content) // SIZE * SIZE


def windows(content: bytes) -> "Iterator[tuple[int, bytes]]":
    """Yield the length in seconds and the bytes of each window of a file."""
    for offset in range(0, len(content) - SIZE + 1, SIZE):
        mark, seconds = HEADER.unpack_from(content, offset)
        if mark == MARK and seconds:
            yield seconds, content[offset : offset + SIZE]


def used(window: bytes, bucket: int) -> int:
    """Return what the window has counted, at the time of this bucket. An incomplete one has counted nothing.

    Buckets of the future count, too: they are those of a clock that has been set back. Those more than a window ahead
    do not: that clock was wrong.
    """
    if len(window) < SIZE:
        return 0
    first, last = bucket - BUCKETS, bucket + BUCKETS
    return sum(count for number, count in SLOT.iter_unpack(window[HEADER.size :]) if first <= number <= last)


def added(window: bytes, bucket: int, count: int) -> tuple[int, bytes]:
    """Return the slot that counts `count` more in this bucket, and its offset in the window."""
    offset = HEADER.size + bucket % SLOTS * SLOT.size
    number, old = SLOT.unpack_from(window, offset)
    return offset, SLOT.pack(bucket, count + (old if number == bucket else 0))
