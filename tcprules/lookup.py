"""Which rule is for this client: the search order of ucspi-tcp 0.88 (rules.c), the verdict, the open rules file.

Only `open_rules` touches a file. It reads no more than a search needs, and it maps nothing into memory: when somebody
truncates a mapped file, its reader dies.
"""

import errno
import os
from struct import Struct

from tcprules.network import canonical, containing, expand, ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ALLOWED", "Rules", "Verdict", "canonical", "expand", "ipv4", "judge", "keys", "open_rules"]

HEADER = 2048  # cdb.txt: 256 pairs of position and number of slots
PAIR = Struct("<LL")


def broken() -> OSError:
    """What is wrong with a cdb that is none: djb's `protocol error`."""
    return OSError(errno.EPROTO, os.strerror(errno.EPROTO))


class Memory:
    """The bytes of a cdb, all at hand."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, position: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises EPROTO where there are fewer."""
        if position + length > self.size:
            raise broken()
        return self.data[position : position + length]

    def close(self) -> None:
        """Nothing is held."""


class File:
    """A cdb on disk, read where a search asks for it."""

    __slots__ = ("descriptor", "size")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, position: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises EPROTO where there are fewer, be it that the file was cut short meanwhile."""
        if position + length > self.size:
            raise broken()
        data = os.pread(self.descriptor, length, position)
        if len(data) != length:
            raise broken()
        return data

    def close(self) -> None:
        """Close the descriptor; reading raises EBADF from now on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


class Rules:
    """An open rules file. Whatever is wrong with it is an OSError; a search always ends."""

    __slots__ = ("_hash", "_index", "source")

    def __init__(self, source: Memory | File) -> None:
        from cdblib import Reader  # 0.9 ms, and a server without rules does not need it

        reader = Reader(source.read(0, HEADER))
        self.source = source
        self._index: list[tuple[int, int]] = reader.index
        self._hash: Callable[[bytes], tuple[bytes, int]] = reader.hash_key
        # The tables end a cdb: this look at them finds every file that was cut short, and nearly every foreign one.
        if any(slots and table + PAIR.size * slots > source.size for table, slots in self._index):
            raise broken()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Rules":
        """Rules from what a file held. Raises EPROTO."""
        return cls(Memory(data))

    def get(self, key: bytes) -> bytes | None:
        """The data of the first record with this key, else None.

        Slot by slot as cdb_findnext of cdb.c. cdblib's own search never returns from a table without an empty slot,
        and from a broken file it gives short data, or errors of three kinds.
        """
        read = self.source.read
        _, wanted = self._hash(key)
        table, slots = self._index[wanted & 255]
        slot = (wanted >> 8) % slots if slots else 0
        for _ in range(slots):
            found, position = PAIR.unpack(read(table + PAIR.size * slot, PAIR.size))
            if not position:
                return None
            if found == wanted:
                key_length, data_length = PAIR.unpack(read(position, PAIR.size))
                position += PAIR.size
                if key_length == len(key) and read(position, key_length) == key:
                    return read(position + key_length, data_length)
            slot = (slot + 1) % slots
        return None

    def records(self) -> "Iterator[tuple[bytes, bytes]]":
        """All keys and data, in the order of the file. Raises EPROTO."""
        position = HEADER
        end = max(HEADER, min(table for table, _ in self._index))
        while position < end:
            key_length, data_length = PAIR.unpack(self.source.read(position, PAIR.size))
            position += PAIR.size
            yield self.source.read(position, key_length), self.source.read(position + key_length, data_length)
            position += key_length + data_length
        if position != end:
            raise broken()

    def close(self) -> None:
        """Give the file back."""
        self.source.close()


def open_rules(path: bytes | str) -> Rules:
    """Open a rules file. Raises OSError: what open(2) says, EISDIR, ESPIPE for a FIFO, EPROTO for what is no cdb."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not keep us waiting
    try:
        os.pread(descriptor, 1, 0)  # EISDIR, ESPIPE
        return Rules(File(descriptor))
    except OSError:
        os.close(descriptor)
        raise


def keys(ip: bytes, host: bytes | None, info: bytes | None) -> "Iterator[bytes]":
    """The keys to try, in order (rules.c). None is an unset variable; an empty one is set.

    For an IPv6 address the networks that it lies in, longest first, stand where 0.88 has the dotted prefixes.
    """
    if info is not None:
        yield info + b"@" + ip
        if host is not None:
            yield info + b"@=" + host
    yield ip
    if host is not None:
        yield b"=" + host
    if b":" in ip:
        yield from containing(ip)
    dot = ip.rfind(b".")
    while dot >= 0:
        yield ip[: dot + 1]
        dot = ip.rfind(b".", 0, dot)
    if host is not None:
        dot = host.find(b".")
        while dot >= 0:
            yield b"=" + host[dot:]
            dot = host.find(b".", dot + 1)
        yield b"="
    yield b""


class Verdict:
    """What the rules say about a client. Without a rule for it (`key` is None) it is allowed, as in 0.88."""

    __slots__ = ("data", "deny", "environment", "key", "tried", "unusable")

    def __init__(self, key: bytes | None, data: bytes, tried: list[bytes]) -> None:
        self.key = key
        self.data = data
        self.tried = tried
        self.deny = False
        self.environment: list[tuple[bytes, bytes]] = []
        self.unusable: list[bytes] = []  # variables without a name, which no environment can hold
        for text in instructions(data):
            if text[:1] == b"D":
                self.deny = True
            elif text[:1] == b"+" and b"=" in text:
                name, _, value = text[1:].partition(b"=")
                if name:
                    self.environment.append((name, value))
                else:
                    self.unusable.append(text[1:])

    def is_full(self, connected: int) -> bool:
        """Whether the rule's MAXCONIP (ucspi-tcp6's) forbids one more client than `connected`. No number: no limit."""
        for name, value in self.environment:
            if name == b"MAXCONIP" and value.isdigit():
                return connected >= int(value[:9])
        return False


def instructions(data: bytes) -> list[bytes]:
    """The NUL-terminated strings of a record: `D` denies, `+NAME=VALUE` sets. 0.88 ignores an unterminated last one."""
    return data.split(b"\0")[:-1]


def judge(rules: Rules, ip: bytes, host: bytes | None, info: bytes | None) -> Verdict:
    """The verdict for a client: that of the first key with a record. Raises OSError when the file is broken."""
    tried = []
    for key in keys(ip, host, info):
        tried.append(key)
        data = rules.get(key)
        if data is not None:
            return Verdict(key, data, tried)
    return Verdict(None, b"", tried)


ALLOWED = Verdict(None, b"", [])  # for a client without a rule, or of a server without rules
