"""Records -> cdb: the only writer of a cdb. What the rules mean, and how the file gets its place, is for others."""

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
        """Whoever wants to see each line on its way."""

        def rule(self, number: int, rule: Rule) -> None: ...
        def ignored(self, number: int, line: bytes) -> None: ...


__all__ = ["BadLine", "Unable", "records", "write_cdb"]

SIZE_MAX = 0xFFFFFFFF  # cdb.txt: positions have 32 bits
HASH_START = 5381  # cdb.txt
KNOWN_PREFIXES = 4096
pack_pair = Struct("<LL").pack


def write_cdb(
    cdb: bytes, tmp: bytes, pairs: Iterable[tuple[bytes, bytes]], warn: Callable[[bytes], None] = lambda text: None
) -> None:
    """Make `cdb` hold these (key, data) records, in this order. Raises Unable, and what `pairs` raises.

    The old file stays until the new one is whole and on disk; on failure `tmp` is removed. `warn` is told when the
    owner of the old file cannot be kept.
    """
    install(cdb, tmp, lambda: _image(pairs), warn)


def records(lines: Iterable[bytes], observer: "Observer | None" = None) -> Iterator[tuple[bytes, bytes]]:
    """The records of a rules file, in order. Raises BadLine, with the line's number."""
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
    """The bytes of a cdb. Raises OSError(ENOMEM) over 4 GiB, as cdb_make.c."""
    content = io.BytesIO()
    # Where cdblib could not compile its hash, it takes longer than all the rest of a record.
    writer = _Writer(content, strict=True, hashfn=_hash if isinstance(djb_hash, FunctionType) else djb_hash)
    put = writer.put
    for key, data in pairs:
        put(key, data)
    writer.finalize()
    return content.getbuffer()


def _hash(key: bytes) -> int:
    """djb's hash, with what comes before the last dot from memory: long rules files hold neighbours."""
    dot = key.rfind(b".") + 1
    state = _hash_prefix(key[:dot])
    for byte in key[dot:]:
        state = (state * 33 & SIZE_MAX) ^ byte
    return state


@lru_cache(KNOWN_PREFIXES)
def _hash_prefix(text: bytes) -> int:
    state = HASH_START
    for byte in text:
        state = (state * 33 & SIZE_MAX) ^ byte
    return state


class _Writer(Writer):  # type: ignore[misc]  # pure-cdb ships no types
    """cdblib's writer, but for the tables: cdblib takes a slot with hash 0 for a free one, and writes another over it.

    Such keys exist, an IPv4 address among them, and the rule would be lost.
    """

    def put(self, key: bytes, value: bytes = b"") -> None:
        """Append a record: in one write, where cdblib needs three."""
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
            tried: dict[int, int] = {}  # or a key that comes n times would cost n * n steps, as in cdb_make.c
            for hashed, position in table:
                slot = start = (hashed >> 8) % slots
                if positions[slot]:
                    slot = tried.get(start, slot)
                    while positions[slot]:
                        slot = (slot + 1) % slots
                    tried[start] = slot
                hashes[slot], positions[slot] = hashed, position
            header += [content.tell(), slots]
            pairs = [0] * (2 * slots)
            pairs[::2], pairs[1::2] = hashes, positions
            content.write(pack(f"<{2 * slots}L", *pairs))
        content.seek(0)
        content.write(pack("<512L", *header))
