"""Answers about recipients that are remembered for some minutes, in a file or in this process. Bounded in size.

The file has a header and slots: a keyed hash of the address gives an answer's place, where it replaces another one. So
it needs no lock and no cleaning, and nobody outside can choose which answer is replaced. It contains no addresses.
"""

import errno
import os
from struct import Struct
from time import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = 8192
MAGIC = b"rcptcheck answers 1\n"
KEY_SIZE = 16
HEADER_SIZE = 64
SLOT = Struct("<16sd?7x")  # digest, time of expiry in seconds, whether the recipient exists
DIGEST_SIZE = 16


class Unusable(Exception):
    """Why the file cannot be used."""


class Answers:
    """The answers of one server. `path`: a file that is created, None: the memory of this process."""

    __slots__ = ("accepted_seconds", "path", "refused_seconds", "scope")

    def __init__(self, path: bytes | None, scope: bytes, accepted_seconds: int, refused_seconds: int) -> None:
        self.path, self.scope = path, scope
        self.accepted_seconds, self.refused_seconds = accepted_seconds, refused_seconds

    def find(self, mailbox: bytes) -> bool | None:
        """Return the remembered answer, None if there is none. Raises Unusable."""
        if self.path is None:
            return self.valid(memory.get((self.scope, mailbox)))
        return self.with_file(mailbox, self.read)

    def remember(self, mailbox: bytes, exists: bool) -> None:
        """Remember an answer. Raises Unusable."""
        expiry = time() + self.seconds(exists)
        if self.path is not None:
            self.with_file(mailbox, lambda descriptor, place, digest: write(descriptor, place, digest, expiry, exists))
            return
        if len(memory) >= SLOTS:
            memory.clear()
        memory[self.scope, mailbox] = expiry, exists

    def seconds(self, exists: bool) -> int:
        """Return for how long an answer is remembered."""
        return self.accepted_seconds if exists else self.refused_seconds

    def valid(self, answer: tuple[float, bool] | None) -> bool | None:
        """Return the answer if it has not expired. One that expires too late is from before a change of the clock."""
        if answer is None or not 0 < answer[0] - time() <= self.seconds(answer[1]):
            return None
        return answer[1]

    def with_file(self, mailbox: bytes, use: "Callable[[int, int, bytes], bool | None]") -> bool | None:
        """Call `use` with the open file, the place of the slot and the digest."""
        from hashlib import blake2b

        assert self.path is not None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            try:
                text = self.scope + b"\0" + mailbox
                digest = blake2b(text, digest_size=DIGEST_SIZE, key=read_key(descriptor)).digest()
                place = HEADER_SIZE + SLOT.size * (int.from_bytes(digest[:4], "little") % SLOTS)
                return use(descriptor, place, digest)
            finally:
                os.close(descriptor)
        except OSError as error:
            from tcprules.strerr import reason

            raise Unusable(f"unable to use {os.fsdecode(self.path)}: {reason(error)}") from error

    def read(self, descriptor: int, place: int, digest: bytes) -> bool | None:
        """Return the answer in a slot, None if it is another recipient's."""
        slot = os.pread(descriptor, SLOT.size, place)
        if len(slot) < SLOT.size:
            return None
        found, expiry, exists = SLOT.unpack(slot)
        return self.valid((expiry, exists)) if found == digest else None


memory: dict[tuple[bytes, bytes], tuple[float, bool]] = {}  # server and mailbox: time of expiry, whether it exists


def read_key(descriptor: int) -> bytes:
    """Return the key of the file. Make one for an empty file. Raises OSError for a file with other content.

    Of two processes that make one at the same time, the last one's counts, and the other's answers are lost.
    """
    header = os.pread(descriptor, HEADER_SIZE, 0)
    if not header:
        os.pwrite(descriptor, (MAGIC + os.urandom(KEY_SIZE)).ljust(HEADER_SIZE, b"\0"), 0)
        header = os.pread(descriptor, HEADER_SIZE, 0)
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    return header[len(MAGIC) : len(MAGIC) + KEY_SIZE]


def write(descriptor: int, place: int, digest: bytes, expiry: float, exists: bool) -> None:
    """Fill a slot, by one write."""
    os.pwrite(descriptor, SLOT.pack(digest, expiry, exists), place)
