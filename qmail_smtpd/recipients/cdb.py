"""Search the cdb files of control/ in place: morercpthosts.cdb and validrcptto.cdb."""

import os

from qmail_smtpd import control

SLOTS_AT_ONCE = 4
PAIR_SIZE = 8  # cdb.txt: two numbers of four bytes
LONGEST_DATA = 64  # bytes of a record's data that are read: a broken file may say four gigabytes
LONGEST_DOMAIN = 255  # RFC 1035 section 2.3.4. 900 dots would be 900 keys to hash: 40 ms if cdblib has no hash in C


class Cdb:
    """A cdb in control/, opened at the start of a session. Descriptor -1: there is no file, and no key is found."""

    __slots__ = ("descriptor", "name")

    def __init__(self, name: bytes, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor

    def close(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def has(self, key: bytes) -> bool:
        """Whether the file has the key. Raises Unreadable for a broken file too."""
        try:
            return self.descriptor >= 0 and self.locate(key) is not None
        except OSError as error:
            raise control.unreadable(b"control/" + self.name, error) from error

    def find(self, key: bytes) -> bytes | None:
        """Return the data of the first record with this key, cut to LONGEST_DATA; None: no key. Raises as `has`."""
        try:
            found = self.locate(key) if self.descriptor >= 0 else None
            return None if found is None else self.read(found[0], min(found[1], LONGEST_DATA)) if found[1] else b""
        except OSError as error:
            raise control.unreadable(b"control/" + self.name, error) from error

    def locate(self, key: bytes) -> tuple[int, int] | None:
        """Return position and length of the first record's data, None if the key is not there. Raises OSError.

        Searches slot by slot like cdb_seek.c: always terminates, and in a truncated file still finds what is left.
        """
        from cdblib import djb_hash  # 0.9 ms, and most sessions never need it

        hashed = djb_hash(key)
        table, slots = self.read_pair(PAIR_SIZE * (hashed & 255))
        slot = first = (hashed >> 8) % slots if slots else 0
        while slots:
            # Half of the slots are free, so that this read mostly has the one that ends the search.
            block = self.read(table + PAIR_SIZE * slot, PAIR_SIZE * min(SLOTS_AT_ONCE, slots - slot))
            for place in range(0, len(block), PAIR_SIZE):
                position = int.from_bytes(block[place + 4 : place + 8], "little")
                if not position:
                    return None
                if int.from_bytes(block[place : place + 4], "little") == hashed:
                    key_length, length = self.read_pair(position)
                    if key_length == len(key) and self.read(position + PAIR_SIZE, key_length) == key:
                        return position + PAIR_SIZE + key_length, length
                slot += 1
                if slot % slots == first:
                    return None
            slot %= slots
        return None

    def read_pair(self, position: int) -> tuple[int, int]:
        """Read two numbers of four bytes."""
        pair = self.read(position, PAIR_SIZE)
        return int.from_bytes(pair[:4], "little"), int.from_bytes(pair[4:], "little")

    def read(self, position: int, length: int) -> bytes:
        """Read by pread: a file that shrinks is an error, while a mapped one would raise SIGBUS."""
        data = os.pread(self.descriptor, length, position)
        if len(data) < length:
            raise OSError("not a cdb")
        return data


class MoreRcpthosts(Cdb):
    """control/morercpthosts.cdb: read when a domain is not in rcpthosts."""

    __slots__ = ()

    def __init__(self, descriptor: int) -> None:
        super().__init__(b"morercpthosts.cdb", descriptor)

    def has(self, key: bytes) -> bool:
        """Whether the file has the key. Raises Unreadable for a broken file too."""
        return len(key) <= LONGEST_DOMAIN and super().has(key)
