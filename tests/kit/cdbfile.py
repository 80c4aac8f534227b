"""Write cdbs directly from cdb.txt, also broken ones. Does not use cdblib."""

import struct
from collections.abc import Callable


def djb_hash(key: bytes) -> int:
    h = 5381
    for byte in key:
        h = (h * 33 & 0xFFFFFFFF) ^ byte
    return h


def make(records: list[tuple[bytes, bytes]]) -> bytes:
    body = b""
    tables: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for key, data in records:
        h = djb_hash(key)
        tables[h & 255].append((h, 2048 + len(body)))
        body += struct.pack("<LL", len(key), len(data)) + key + data
    header = b""
    for table in tables:
        slots = [(0, 0)] * (2 * len(table))
        for h, position in table:
            at = (h >> 8) % len(slots)
            while slots[at][1]:
                at = (at + 1) % len(slots)
            slots[at] = (h, position)
        header += struct.pack("<LL", 2048 + len(body), len(slots))
        body += b"".join(struct.pack("<LL", *slot) for slot in slots)
    return header + body


def with_table(key: bytes, slots: list[tuple[int, int]], body: bytes = b"") -> bytes:
    """Return a file whose only table, the one for `key`, has these slots. `body` is at position 2048."""
    number = djb_hash(key) & 255
    end = 2048 + len(body)
    header = b"".join(struct.pack("<LL", end, len(slots) if i == number else 0) for i in range(256))
    return header + body + b"".join(struct.pack("<LL", *slot) for slot in slots)


def record(key: bytes, data: bytes) -> bytes:
    return struct.pack("<LL", len(key), len(data)) + key + data


def error_of(call: Callable[[], object]) -> int | None:
    """Return the errno of the call's OSError, or None if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None
