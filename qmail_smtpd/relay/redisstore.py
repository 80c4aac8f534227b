"""Logins and counters in Redis or Valkey, for several hosts. Times are those of the server; it removes expired keys."""

from qmail_smtpd.relay.counters import KINDS, Counters, Key
from qmail_smtpd.relay.countfiles import escape, unescape
from qmail_smtpd.relay.entry import VERSION, Entry, parse
from qmail_smtpd.relay.limits import MOST
from qmail_smtpd.relay.redisclient import client_for
from qmail_smtpd.relay.redisline import words
from qmail_smtpd.relay.redisscripts import ALLOW, CHECK, COUNT_PREFIX, LOGIN_PREFIX, NEVER, TAKE, USED, USED_IF_WRITABLE
from qmail_smtpd.relay.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qmail_smtpd.relay.limits import Limit, Limits
    from qmail_smtpd.relay.redisclient import Client
    from qmail_smtpd.relay.settings import Settings

BATCH = 1000  # keys that are asked for at once


class RedisStore(Store):
    """The logins."""

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self.client = client_for(settings.store, settings.timeout())
        self.warnings = self.client.warnings
        self.server_time = 0
        self.clock = lambda: self.server_time

    def put(self, entry: Entry) -> None:
        """Store the entry, with the server's time in place of its own."""
        head = b"%b %b %b " % (VERSION, entry.address, entry.service)
        window = b"%d" % (entry.expires - entry.seen)
        self.client.run(ALLOW, [LOGIN_PREFIX + entry.address], window, head, b" %b\n" % entry.user)

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, and set the clock."""
        line, now = self.client.run(CHECK, [LOGIN_PREFIX + key, NEVER])
        self.server_time = int(now)
        return None if line is None else parse(line, key)

    def all(self) -> "Iterator[Entry]":
        """Yield all entries, and set the clock."""
        self.server_time = int(self.client.ask(b"TIME")[0])
        for keys in scan(self.client, LOGIN_PREFIX + b"*"):
            for key, line in zip(keys, self.client.ask(b"MGET", *keys), strict=True):
                entry = None if line is None else parse(line, key.removeprefix(LOGIN_PREFIX))
                if entry:
                    yield entry

    def remove(self, key: bytes) -> bool:
        """Delete the entry."""
        return bool(self.client.ask(b"DEL", LOGIN_PREFIX + key))

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class RedisCounters(Counters):
    """The counters: a hash for each window."""

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self.client = client_for(settings.store, settings.timeout())
        self.warnings = self.client.warnings
        self.questions: dict[Limits, Question] = {}

    def take(self, key: Key, limits: "Limits", count: int) -> "tuple[int, Limit | None]":
        """Count as many of `count` as all limits allow. See Counters."""
        question = self.questions.get(limits)
        if question is None:
            question = self.questions[limits] = Question(limits)
        answer = self.client.run_words(TAKE, question.count, question.words(key, count))
        granted, stopped_by = map(int, answer.split())
        return granted, limits[stopped_by - 1] if stopped_by else None

    def add(self, key: Key, seconds: int) -> None:
        """Count one. It is sent, and the answer is not waited for."""
        self.client.run_without_answer(TAKE, [key_of(key, seconds)], b"%d" % MOST, b"%d" % seconds, b"1")

    def used(self, questions: "Sequence[tuple[Key, int]]", writable: bool = False) -> list[int]:
        """Return what each counter has counted."""
        if not questions:
            return []
        keys = [key_of(key, seconds) for key, seconds in questions]
        script = USED_IF_WRITABLE if writable else USED
        answer: list[int] = self.client.run(script, [*keys, NEVER], *[b"%d" % seconds for _, seconds in questions])
        return answer

    def counted(self) -> "Iterator[Key]":
        """Yield the keys of all counters."""
        seen = set()
        for keys in scan(self.client, COUNT_PREFIX + b"*"):
            for found in keys:
                kind, _, rest = found.removeprefix(COUNT_PREFIX).partition(b":{")
                name = unescape(rest.rpartition(b"}:")[0])
                if kind in KINDS and name is not None and (kind, name) not in seen:
                    seen.add((kind, name))
                    yield Key(kind, name)

    def reset(self, key: Key) -> bool:
        """Delete the windows of a counter."""
        found = [name for names in scan(self.client, key_of(key, None)) for name in names]
        return bool(found and self.client.ask(b"DEL", *found))


class Question:
    """The words of TAKE for the same limits: only the counter and the count are filled in."""

    __slots__ = ("count", "lengths", "template")

    def __init__(self, limits: "Limits") -> None:
        self.count = 3 * len(limits) + 2
        ends = [b":%d" % seconds for _, seconds in limits]
        self.lengths = [len(COUNT_PREFIX) + len(end) for end in ends]
        keys = b"".join([b"$%d\r\n" + COUNT_PREFIX + b"%b" + end + b"\r\n" for end in ends])
        numbers = words(*[b"%d" % number for limit in limits for number in limit])
        self.template = words(b"%d" % len(limits)) + keys + numbers + b"$%d\r\n%b\r\n"

    def words(self, key: Key, count: int) -> bytes:
        """Return the words that count so many."""
        name, number = name_of(key), b"%d" % count
        values: list[int | bytes] = []
        for length in self.lengths:
            values += (length + len(name), name)
        return self.template % (*values, len(number), number)


def name_of(key: Key) -> bytes:
    """Return what the keys of a counter's windows have in common. An escaped name has no braces."""
    return b"%b:{%b}" % (key.kind, escape(key.name))


def key_of(key: Key, seconds: int | None) -> bytes:
    """Return the key of a window; None: the pattern for all windows of the counter."""
    return b"%b%b:%b" % (COUNT_PREFIX, name_of(key), b"*" if seconds is None else b"%d" % seconds)


def scan(client: "Client", pattern: bytes) -> "Iterator[list[bytes]]":
    """Yield the keys that match the pattern, in batches."""
    cursor = b"0"
    while True:
        cursor, keys = client.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % BATCH)
        if keys:
            yield keys
        if cursor == b"0":
            return
