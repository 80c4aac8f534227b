"""A seeded day of a mail host, as its log: 10,000 sessions, and among them a stolen login. As text or as JSON.

The lines are made by the formatters of tcpserver and qmail-smtpd. In the incident, 203.0.113.77 tries the logins of
many users, gets in as joe@example.org, and then many addresses in other networks send spam with that login.
"""

import functools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest.mock import patch

from qmail_smtpd.log import json_line, line
from tcpserver.environ import Facts
from tcpserver.log import Lines
from tcpserver.log_json import JsonLines

MIDNIGHT = 1795478400  # 2026-11-24 00:00:00 UTC
DAY = 86400
VICTIM = "joe@example.org"
GUESSER = "203.0.113.77"
PROBER = "198.51.100.99"  # asks for recipients that do not exist
OFFICE = "192.0.2.10"  # may relay by its rule
INCIDENT = 14 * 3600  # seconds after midnight
USERS = [VICTIM, *(f"user{number:02d}@example.org" for number in range(40))]
TAI_EPOCH = 2**62 + 10
LIMIT = 40

Pairs = dict[str, str]
Call = tuple[float, Callable[[], bytes]]


class Client(NamedTuple):
    """One session: when, whose, for how long, its decisions. `denied`: why the rules or a limit deny it."""

    when: float
    address: str
    seconds: float
    tls: str
    helo: str
    decisions: list[Pairs]
    denied: str | None = None


def day(sessions: int = 10_000, seed: int = 7, incident: bool = True) -> list[Client]:
    """Return the clients of a day in the order of their arrival."""
    rng = random.Random(seed)
    crimes = list(stolen(rng)) if incident else []
    found = [client(rng) for _ in range(sessions - len(crimes))]
    return sorted([*found, *crimes])


def moment(rng: random.Random) -> float:
    """Return a time of the day: most mail comes in the working hours."""
    return MIDNIGHT + (rng.gauss(12.5, 4) * 3600 if rng.random() < 0.7 else rng.random() * DAY) % DAY


def outside_address(rng: random.Random) -> str:
    """Return the address of an outside client. A few of them send much."""
    place = int(rng.paretovariate(0.6)) % 4000
    return f"{60 + place % 100}.{place % 251}.{place // 40 % 250}.{1 + place % 200}"


def client(rng: random.Random) -> Client:
    """Return a client of a quiet day."""
    kinds = ("incoming", "submission", "office", "refused", "denied", "typo", "probe")
    kind = rng.choices(kinds, (58, 14, 3, 14, 7, 3, 1))[0]
    when, seconds = moment(rng), rng.lognormvariate(0.5, 1.2)
    tls = rng.choices(("TLSv1.3", "TLSv1.2", ""), (80, 12, 8))[0]
    address = outside_address(rng)
    helo = f"mx{rng.randrange(3)}.host{address.replace('.', '-')}.example"
    if kind == "denied":
        return Client(when, address, 0, "", helo, [], rng.choice(("", "", "rate", "limit-address")))
    if kind == "submission":
        user = rng.choice(USERS)
        home = f"100.{USERS.index(user)}.7.{1 + rng.randrange(3)}"
        return Client(when, home, seconds, "TLSv1.3", "laptop", submission(rng, user, rng.randint(1, 3)))
    if kind == "office":
        facts = {"relay": "address"}
        return Client(when, OFFICE, seconds, "", "printer.office", queued(rng, "scan@example.org", 1, facts))
    if kind == "typo":
        user = rng.choice(USERS)
        return Client(when, f"100.{USERS.index(user)}.7.1", seconds, "TLSv1.3", "laptop", [failed(user)])
    sender = f"s{rng.randrange(500)}@{helo.partition('.')[2]}"
    if kind == "refused":
        reason = rng.choices(
            ("rcpthosts", "unknown", "badmailfrom", "syntax", "tls:wrong_version_number"), (5, 3, 1, 1, 1)
        )[0]
        refused = {"event": "refused", "sender": sender, "recipient": "x@elsewhere.example", "reason": reason}
        return Client(when, address, seconds, tls, helo, [refused, end("quit", 0, 1)])
    if kind == "probe":
        names = [f"name{rng.randrange(10**6)}@example.org" for _ in range(8)]
        lost = [{"event": "refused", "sender": "", "recipient": name, "reason": "unknown"} for name in names]
        return Client(
            MIDNIGHT + 9 * 3600 + rng.random() * 3600, PROBER, seconds, "", "x", [*lost, end("brtlimit", 0, 8)]
        )
    if rng.random() < 0.02:
        aborted = {"event": "aborted", "sender": sender, "recipients": "1", "bytes": "512", "reason": "gone"}
        return Client(when, address, seconds, tls, helo, [aborted, end("gone", 0, 0)])
    return Client(when, address, seconds, tls, helo, queued(rng, sender, rng.randint(1, 2), {}))


def stolen(rng: random.Random) -> Iterator[Client]:
    """Yield the incident."""
    start = MIDNIGHT + INCIDENT
    for number, user in enumerate(USERS[1:31]):
        yield Client(start + number * 7, GUESSER, 2, "TLSv1.3", "ylmf-pc", [failed(user)])
    yield Client(start + 300, GUESSER, 2, "TLSv1.3", "ylmf-pc", submission(rng, VICTIM, 1))
    for _ in range(180):
        place = rng.randrange(12)
        address = f"{110 + place}.{20 + place}.5.{1 + rng.randrange(4)}"
        decisions = submission(rng, VICTIM, rng.randint(20, 50), f"promo{rng.randrange(9)}@shop.example")
        yield Client(start + 600 + rng.random() * 9000, address, rng.uniform(2, 9), "TLSv1.2", "ylmf-pc", decisions)


def failed(user: str) -> Pairs:
    return {"event": "login", "result": "no", "reason": "password", "mechanism": "PLAIN", "user": user}


def submission(rng: random.Random, user: str, recipients: int, sender: str = "") -> list[Pairs]:
    """Return the decisions of a session with a login."""
    login = {"event": "login", "result": "yes", "mechanism": "PLAIN", "user": user}
    return [login, *queued(rng, sender or user, recipients, {"relay": "login", "user": user})]


def queued(rng: random.Random, sender: str, recipients: int, more: Pairs) -> list[Pairs]:
    """Return the decisions of a session that sends one message."""
    names = [f"r{rng.randrange(10**5)}@example.net" for _ in range(recipients)]
    size = str(int(rng.lognormvariate(9, 1.3)))
    message = {"event": "queued", "sender": sender, "recipients": str(recipients), "bytes": size, "qp": "4711", **more}
    accepted = [{"event": "accepted", "sender": sender, "recipient": name, **more} for name in names]
    return [*accepted, message, end("quit", recipients, 0)]


def end(reason: str, recipients: int, refused: int) -> Pairs:
    counts = {
        "messages": str(min(recipients, 1)),
        "recipients": str(recipients),
        "refused": str(refused),
        "errors": "0",
    }
    return {"event": "end", "reason": reason, **counts}


# the lines


def text(clients: list[Client]) -> bytes:
    """Return the log as multilog writes it."""
    return b"".join(stamped(when, entry) for when, entry in written(clients, Lines(), False))


def stamped(when: float, entry: bytes) -> bytes:
    seconds = int(when)
    return b"@%016x%08x " % (seconds + TAI_EPOCH, int((when - seconds) * 1e9)) + entry


def objects(clients: list[Client]) -> bytes:
    """Return the same log as JSON."""
    return b"".join(entry for _, entry in written(clients, JsonLines(), True))


def written(clients: list[Client], lines: Lines, as_json: bool) -> Iterator[tuple[float, bytes]]:
    """Yield times and lines in their order."""
    calls: list[Call] = []
    for number, one in enumerate(clients):
        pid = 2000 + number % 50  # reused processes
        calls += entries(one, pid, b"6a0b-%d" % number, lines, as_json)
    clock = [0.0]
    with patch("qmail_smtpd.log.time", lambda: clock[0]), patch("tcpserver.log_json.time.time", lambda: clock[0]):
        for when, make in sorted(calls, key=lambda call: call[0]):
            clock[0] = when
            yield when, make()


def entries(one: Client, pid: int, connection: bytes, lines: Lines, as_json: bool) -> list[Call]:
    """Return the lines of one client: times, and functions that make them."""
    address = one.address.encode()
    facts = Facts(b"192.0.2.25", 25, address, 40312)
    facts.connection = connection
    if one.denied is not None:
        reason = one.denied.encode()
        return [(one.when, lambda: lines.verdict(b"deny", 1000, facts, None, reason))]
    who = {b"connection": connection} if as_json else {}
    who |= {b"pid": b"%d" % pid, b"ip": address}
    if one.tls:
        who[b"tls"] = one.tls.encode()
    who[b"helo"] = one.helo.encode()
    form = json_line if as_json else line
    found: list[Call] = [
        (one.when, lambda: lines.arrival(pid, facts)),
        (one.when + 0.001, lambda: lines.verdict(b"ok", pid, facts, None)),
    ]
    step = one.seconds / (len(one.decisions) + 1)
    for place, decision in enumerate(one.decisions, 1):
        pairs = {name.encode(): value.encode() for name, value in decision.items()}
        whole = {b"event": pairs.pop(b"event"), **who, **pairs}
        found.append((one.when + 0.002 + place * step, functools.partial(form, whole)))
    return [*found, (one.when + 0.003 + one.seconds, lambda: lines.end(pid, 0, facts, one.seconds + 0.003))]
