"""Compile rules into records, and records into a cdb. All cdbs are written here."""

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from struct import Struct, pack
from types import FunctionType

from cdblib import Writer, djb_hash

from tcprules.install import Unable, install
from tcprules.rules import BadLine, Rule, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Observer(Protocol):
        """Gets each line while it is compiled."""

        def rule(self, number: int, rule: Rule) -> None: ...
        def ignored(self, number: int, line: bytes) -> None: ...


__all__ = ["BadLine", "Unable", "records", "write_cdb"]

SIZE_MAX = 0xFFFFFFFF  # cdb.txt: positions have 32 bits
HASH_START = 5381  # cdb.txt
PREFIX_CACHE_SIZE = 4096
pack_pair = Struct("<LL").pack


def write_cdb(
    cdb: bytes, tmp: bytes, pairs: Iterable[tuple[bytes, bytes]], warn: Callable[[bytes], None] = lambda text: None
) -> None:
    """Make `cdb` contain these (key, data) records, in this order. Raise Unable, and what `pairs` raises.

    The old file stays until the new one is complete and on disk. On failure `tmp` is removed. `warn` is called if the
    owner of the old file cannot be kept.
    """
    install(cdb, tmp, lambda: _image(pairs), warn)


def records(lines: Iterable[bytes], observer: "Observer | None" = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a rules file, in order. Raise BadLine, which has the line's number."""
    for number, line in enumerate(lines, 1):
        try:
            rule = parse(line)
        except BadLine as bad:
            bad.locate(number, line)
            raise
        if rule is None:
            if observer:
                observer.ignored(number, line)
            continue
        if observer:
            observer.rule(number, rule)
        data = rule.data
        for key in rule.keys:
            yield key, data


def _image(pairs: Iterable[tuple[bytes, bytes]]) -> memoryview:
    """Return the bytes of a cdb. Raise OSError(ENOMEM) above 4 GiB, as cdb_make.c does."""
    content = io.BytesIO()
    # Without its C extension, cdblib's hash takes longer than all other work for a record.
    writer = _Writer(content, strict=True, hashfn=_hash if isinstance(djb_hash, FunctionType) else djb_hash)
    put = writer.put
    for key, data in pairs:
        put(key, data)
    writer.finalize()
    return content.getbuffer()


def _hash(key: bytes) -> int:
    """djb's hash. The state up to the last dot is cached, because long rules files have many neighbouring addresses."""
    dot = key.rfind(b".") + 1
    state = _hash_prefix(key[:dot])
    for byte in key[dot:]:
        state = (state * 33 & SIZE_MAX) ^ byte
    return state


@lru_cache(PREFIX_CACHE_SIZE)
def _hash_prefix(text: bytes) -> int:
    state = HASH_START
    for byte in text:
        state = (state * 33 & SIZE_MAX) ^ byte
    return state


class _Writer(Writer):  # type: ignore[misc]  # pure-cdb ships no types
    """cdblib's writer with different tables: cdblib treats a slot with hash 0 as free, and overwrites it.

    Keys with this hash exist, one of them an IPv4 address, and their rules would be lost.
    """

    def put(self, key: bytes, value: bytes = b"") -> None:
        """Append a record in one write; cdblib needs three."""
        hashed = self.hashfn(key)
        self._unordered[hashed & 255].append((hashed, self.fp.tell()))
        self.fp.write(pack_pair(len(key), len(value)) + key + value)

    def finalize(self) -> None:
        """Append the 256 tables and write the header (cdb_make_finish)."""
        content, tables = self.fp, self._unordered
        if content.tell() + 16 * sum(map(len, tables)) > SIZE_MAX:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        header = []
        for table in tables:
            slots = 2 * len(table)
            hashes, positions = [0] * slots, [0] * slots
            last_slot: dict[int, int] = {}  # without it n records with one key would cost n * n steps, as in cdb_make.c
            for hashed, position in table:
                slot = start = (hashed >> 8) % slots
                if positions[slot]:
                    slot = last_slot.get(start, slot)
                    while positions[slot]:
                        slot = (slot + 1) % slots
                    last_slot[start] = slot
                hashes[slot], positions[slot] = hashed, position
            header += [content.tell(), slots]
            pairs = [0] * (2 * slots)
            pairs[::2], pairs[1::2] = hashes, positions
            content.write(pack(f"<{2 * slots}L", *pairs))
        content.seek(0)
        content.write(pack("<512L", *header))
