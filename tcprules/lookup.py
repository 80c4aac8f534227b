"""Find the rule for a client: the search order of ucspi-tcp 0.88 (rules.c), the verdict, the open rules file.

Only `open_rules` opens a file. It is read where needed, and never mapped into memory: a process dies if another one
truncates the file that it has mapped.
"""

import errno
import os
from struct import Struct

from tcprules.network import canonical, containing_networks, expand, ipv4
from tcprules.network import network_keys as network_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ALLOWED", "Rules", "Verdict", "canonical", "expand", "ipv4", "is_missing", "judge", "keys", "open_rules"]

HEADER = 2048  # cdb.txt: 256 pairs of position and number of slots
PAIR = Struct("<LL")


def protocol_error() -> OSError:
    """Return the exception for an invalid cdb, with djb's text `protocol error`."""
    return OSError(errno.EPROTO, os.strerror(errno.EPROTO))


class Memory:
    """The bytes of a cdb in memory."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, position: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raise EPROTO if there are fewer."""
        if position + length > self.size:
            raise protocol_error()
        return self.data[position : position + length]

    def close(self) -> None:
        """Do nothing."""


class File:
    """A cdb on disk, of which only the needed parts are read."""

    __slots__ = ("descriptor", "size")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, position: int, length: int) -> bytes:
        """Return exactly `length` bytes.

        Raise EPROTO if there are fewer, also if the file has been truncated meanwhile.
        """
        if position + length > self.size:
            raise protocol_error()
        data = os.pread(self.descriptor, length, position)
        if len(data) != length:
            raise protocol_error()
        return data

    def close(self) -> None:
        """Close the descriptor. Later reads raise EBADF."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


class Rules:
    """An open rules file. Any fault of the file raises OSError, and every search terminates."""

    __slots__ = ("_hash", "_index", "source")

    def __init__(self, source: Memory | File) -> None:
        from cdblib import Reader  # 0.9 ms, which a server without rules saves

        reader = Reader(source.read(0, HEADER))
        self.source = source
        self._index: list[tuple[int, int]] = reader.index
        self._hash: Callable[[bytes], tuple[bytes, int]] = reader.hash_key
        # The tables are the end of a cdb: this check finds every truncated file, and nearly every foreign one.
        if any(slots and table + PAIR.size * slots > source.size for table, slots in self._index):
            raise protocol_error()
        # A file of zeros, as a crash may leave it, would be a cdb without rules, which allows every client.
        if source.size > HEADER and not any(map(any, self._index)):
            raise protocol_error()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Rules":
        """Return the rules in the bytes of a cdb. Raise EPROTO."""
        return cls(Memory(data))

    def get(self, key: bytes) -> bytes | None:
        """Return the data of the first record with this key, or None.

        The search goes slot by slot, as cdb_findnext in cdb.c. cdblib's own search never ends on a table without an
        empty slot, and a broken file makes it return short data or raise three kinds of errors.
        """
        read = self.source.read
        _, hashed = self._hash(key)
        table, slots = self._index[hashed & 255]
        slot = (hashed >> 8) % slots if slots else 0
        for _ in range(slots):
            slot_hash, position = PAIR.unpack(read(table + PAIR.size * slot, PAIR.size))
            if not position:
                return None
            if slot_hash == hashed:
                key_length, data_length = PAIR.unpack(read(position, PAIR.size))
                position += PAIR.size
                if key_length == len(key) and read(position, key_length) == key:
                    return read(position + key_length, data_length)
            slot = (slot + 1) % slots
        return None

    def records(self) -> "Iterator[tuple[bytes, bytes]]":
        """Yield all keys and data, in the order of the file. Raise EPROTO."""
        position = HEADER
        end = max(HEADER, min(table for table, _ in self._index))
        while position < end:
            key_length, data_length = PAIR.unpack(self.source.read(position, PAIR.size))
            position += PAIR.size
            yield self.source.read(position, key_length), self.source.read(position + key_length, data_length)
            position += key_length + data_length
        if position != end:
            raise protocol_error()

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def __enter__(self) -> "Rules":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_rules(path: bytes | str) -> Rules:
    """Open a rules file. Raise OSError: that of open(2), EISDIR, ESPIPE for a FIFO, or EPROTO if it is no cdb."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not wait for a FIFO
    try:
        os.pread(descriptor, 1, 0)  # EISDIR, ESPIPE
        return Rules(File(descriptor))
    except OSError:
        os.close(descriptor)
        raise


def is_missing(error: OSError, path: bytes | str) -> bool:
    """Whether the error says that the file does not exist. A dangling link is a mistake, and does not count."""
    existing = os.fsencode(path)
    while existing and not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return error.errno == errno.ENOENT and (not existing or os.path.exists(existing))


def keys(ip: bytes, host: bytes | None, info: bytes | None) -> "Iterator[bytes]":
    """Yield the keys to try, in the order of rules.c. None is an unset variable; an empty variable counts as set.

    For an IPv6 address the networks that contain it, longest first, take the place of 0.88's dotted prefixes.
    """
    if info is not None:
        yield info + b"@" + ip
        if host is not None:
            yield info + b"@=" + host
    yield ip
    if host is not None:
        yield b"=" + host
    if b":" in ip:
        yield from containing_networks(ip)
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
    """The rules' decision about a client. Without a rule (`key` is None) the client is allowed, as in 0.88."""

    __slots__ = ("data", "deny", "environment", "key", "unusable")

    def __init__(self, key: bytes | None, data: bytes) -> None:
        self.key = key
        self.data = data
        self.deny = False
        self.environment: list[tuple[bytes, bytes]] = []
        self.unusable: list[bytes] = []  # variables without a name, which an environment cannot contain
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
        """Whether the rule's MAXCONIP (as in ucspi-tcp6) forbids one more than `connected` clients.

        An invalid number is no limit.
        """
        for name, value in self.environment:
            if name == b"MAXCONIP" and value.isdigit():
                return connected >= int(value.lstrip(b"0")[:9] or b"0")
        return False


def instructions(data: bytes) -> list[bytes]:
    """Return the NUL-terminated strings of a record: `D` denies, `+NAME=VALUE` sets.

    As in 0.88, an unterminated last one is ignored.
    """
    return data.split(b"\0")[:-1]


def judge(rules: Rules, ip: bytes, host: bytes | None, info: bytes | None) -> Verdict:
    """Return the verdict for a client: that of the first key with a record. Raise OSError if the file is broken."""
    for key in keys(ip, host, info):
        data = rules.get(key)
        if data is not None:
            return Verdict(key, data)
    return Verdict(None, b"")


ALLOWED = Verdict(None, b"")  # for a client without a rule, or a server without rules
