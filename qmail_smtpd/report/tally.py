"""Counts the events of a log. Pure: takes events, keeps counters within bounds, and knows nothing of the form of lines.

A time is seconds since 1970, or None in a log without stamps. A value is as the text log has it: escaped ASCII.
"""

from collections.abc import Iterable

from qmail_smtpd.report.networks import network
from qmail_smtpd.report.relayers import Relayers, identity, number
from qmail_smtpd.report.suspects import Suspects, make_room
from qmail_smtpd.report.tables import Table

# The counters of an hour.
CONNECTIONS, DENIED, REFUSED, SESSIONS, MESSAGES, RECIPIENTS, RELAYED, LOGINS, FAILED, UNFINISHED, BYTES = range(11)
COUNTERS = 11
MOST_HOURS = 20_000  # two years and a quarter
MOST_SESSIONS = 20_000  # that have begun and not ended
MOST_TEXTS = 1_000  # of reasons, limits and warnings, which hold no client's text, or little
LIMITS = {b"relaylimit", b"authfaillimit", b"brtlimit", b"maxrcpt", b"maxauth", b"errors", b"limit-address", b"rate"}
UNKNOWN = (b"unknown", b"rcptcheck")  # reasons for which a recipient is refused that does not exist
# Counters of a fixed number of names, which are never dropped: what is none of these is `other`.
GROUPS: dict[bytes, Iterable[bytes]] = {
    b"refused": (
        b"authfaillimit authsenders badmailfrom brtlimit chunk early errors maxauth maxrcpt plugin policy policyservice"
        b" rblsmtpd rcptcheck rcpthosts relaylimit relaystore relaystrict rules size smtputf8 syntax tls unauthorized"
        b" unknown unreadable other"
    ).split(),
    b"denied": (b"rules", b"rate", b"limit-address", b"other"),
    b"relayed": (b"login", b"pop", b"address"),
    b"unfinished": (b"aborted", b"rejected"),
    b"sessions": (b"TLSv1", b"TLSv1.1", b"TLSv1.2", b"TLSv1.3", b"none", b"other"),
}
RBLSMTPD = {b"554 ": b"early", b"451 temporary RBL lookup error": b"lookup"}  # a reply -> the reason, if not `listed`
BOUNDS = (1, 5, 10, 30, 60, 300, 600, 1800)  # seconds of a session: the upper ends of the classes
SEEN, REFUSALS, DELIVERED, FAILURES = range(4)  # the counters of a client


class Session:
    """A connection that tcpserver has named: when it began, and by which rule (JSON logs only)."""

    __slots__ = ("rule", "start")

    def __init__(self, start: float | None) -> None:
        self.start = start
        self.rule = b""


class Tally:
    """All counters of a report."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.hours: dict[int, list[int]] = {}
        self.total = [0] * COUNTERS
        self.hour = -1  # the hour of the present row
        self.row = [0] * COUNTERS
        self.sessions: dict[bytes, Session] = {}
        self.clients = Table(4)
        self.networks = Table(2)
        self.reasons = Table(1, MOST_TEXTS)
        self.limits = Table(1, MOST_TEXTS)
        self.warnings = Table(1, MOST_TEXTS)
        self.unfinished = Table(1, MOST_TEXTS)
        self.failed_addresses = Table()
        self.failed_names = Table()
        self.tls = Table(2, MOST_TEXTS)  # sessions, logins
        self.ends = Table(1, MOST_TEXTS)
        self.durations = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.exact: dict[bytes, dict[bytes, int]] = {group: dict.fromkeys(names, 0) for group, names in GROUPS.items()}
        self.relayers = Relayers()
        self.suspects = Suspects()

    def at(self, when: float | None) -> list[int]:
        """Return the counters of the hour of this time, after noting the time."""
        if when is None:
            self.row = self.total
            return self.total
        if self.first is None or when < self.first:
            self.first = when
        if self.last is None or when > self.last:
            self.last = when
        hour = int(when) // 3600
        if hour != self.hour or self.row is self.total:
            self.hour = hour
            self.row = self.hours.get(hour) or make_room(self.hours, MOST_HOURS).setdefault(hour, [0] * COUNTERS)
        return self.row

    def note(self, group: bytes, name: bytes, count: int = 1) -> None:
        """Add to a counter of a fixed name."""
        names = self.exact[group]
        names[name if name in names else b"other"] += count

    def add(self, when: float | None, counter: int, count: int = 1) -> None:
        """Add to a counter of the hour, and of all hours."""
        row = self.at(when)
        self.total[counter] += count
        if row is not self.total:
            row[counter] += count

    # tcpserver

    def begun(self, key: bytes, when: float | None) -> None:
        """Note a client that a process has."""
        self.sessions.pop(key, None)
        make_room(self.sessions, MOST_SESSIONS)[key] = Session(when)

    def admitted(self, key: bytes, address: bytes, when: float | None, rule: bytes) -> None:
        """Count a client that is served."""
        if key not in self.sessions:
            self.begun(key, when)
        self.sessions[key].rule = rule
        self.add(when, CONNECTIONS)
        self.clients.row(address)[SEEN] += 1
        self.networks.row(network(address))[SEEN] += 1

    def denied(self, address: bytes, when: float | None, reason: bytes) -> None:
        """Count a client that the rules or a limit turned away."""
        self.add(when, CONNECTIONS)
        self.add(when, DENIED)
        for row in (self.clients.row(address), self.networks.row(network(address))):
            row[SEEN] += 1
            row[REFUSALS] += 1
        self.note(b"denied", reason or b"rules")
        self.reasons.count(b"tcpserver: " + (reason or b"rules"))
        if reason:
            self.limits.count(b"tcpserver: " + reason)

    def ended(self, key: bytes, when: float | None, status: bytes, seconds: float | None) -> None:
        """Count the end of a connection: tcpserver's raw wait status, and how long it was."""
        session = self.sessions.pop(key, None)
        if seconds is None and session is not None and session.start is not None and when is not None:
            seconds = when - session.start
        if seconds is not None and 0 <= seconds < 1e9:
            self.durations[sum(seconds > bound for bound in BOUNDS)] += 1
            self.seconds += seconds
        self.ends.count(exit_text(number(status)))

    def full(self, limit: bytes) -> None:
        """Count a status line that says that as many connections are open as -c allows."""
        self.limits.count(b"tcpserver: all " + limit + b" connections (-c) in use")

    def warned(self, program: bytes, text: bytes) -> None:
        """Count a warning."""
        self.warnings.count(program + b": " + text[:200])

    def refused_by_rblsmtpd(self, address: bytes, when: float | None, reply: bytes) -> None:
        """Count a client that a block list has, or that is refused for another reason."""
        reason = RBLSMTPD.get(reply) or RBLSMTPD.get(reply[:4], b"listed")
        self.refuse(address, when, b"rblsmtpd: " + reason)

    def refuse(self, address: bytes, when: float | None, reason: bytes) -> None:
        """Count a refusal."""
        self.add(when, REFUSED)
        self.clients.row(address)[REFUSALS] += 1
        self.networks.row(network(address))[REFUSALS] += 1
        self.note(b"refused", reason.partition(b":")[0].partition(b" ")[0])
        self.reasons.count(reason)

    # qmail-smtpd and qmail-popup

    def refused(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a refused command or session."""
        whole = facts.get(b"reason", b"")
        reason = whole.partition(b":")[0]
        address = facts.get(b"ip", b"")
        more = facts.get(b"service") or facts.get(b"plugin")
        self.refuse(address, when, b"%b %b" % (reason, more[:80]) if more else whole[:100])
        if reason in UNKNOWN:
            self.suspects.unknown(address, when)
        if reason in LIMITS:
            who = facts.get(b"who")
            self.limits.count(b"%b %b" % (reason, who[:100]) if who else reason)

    def login(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a login, or one that failed."""
        address, user = facts.get(b"ip", b""), facts.get(b"user", b"")
        if facts.get(b"result") == b"yes":
            self.add(when, LOGINS)
            self.tls.row(facts.get(b"tls", b"none"))[1] += 1
            self.suspects.logged_in(user, address, when)
            return
        self.add(when, FAILED)
        self.clients.row(address)[FAILURES] += 1
        self.failed_addresses.count(address)
        if user:
            self.failed_names.count(user)
            self.suspects.failed(user, address)

    def accepted(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Note a recipient that exists."""
        self.suspects.known(facts.get(b"ip", b""))

    def queued(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a message."""
        recipients, size = number(facts.get(b"recipients")), number(facts.get(b"bytes"))
        for counter, count in ((MESSAGES, 1), (RECIPIENTS, recipients), (BYTES, size)):
            self.add(when, counter, count)
        self.clients.row(facts.get(b"ip", b""))[DELIVERED] += 1
        if b"relay" in facts:
            session = self.sessions.get(key)
            self.relayers.queued(facts, when, session.rule if session else b"")
            self.note(b"relayed", identity(facts, b"")[0], recipients)
            self.add(when, RELAYED, recipients)

    def unfinished_message(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a message that was aborted or rejected."""
        self.add(when, UNFINISHED)
        reason = facts.get(b"reason", b"").partition(b":")[0]
        self.note(b"unfinished", facts[b"event"])
        self.unfinished.count(b"%b: %b" % (facts[b"event"], reason[:100]))

    def session_end(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a session of qmail-smtpd."""
        self.add(when, SESSIONS)
        self.note(b"sessions", facts.get(b"tls", b"none"))
        self.tls.row(facts.get(b"tls", b"none"))[0] += 1


def exit_text(status: int) -> bytes:
    """Return a raw wait status in words."""
    return b"signal %d" % (status & 127) if status & 127 else b"exit %d" % (status >> 8 & 255)


TYPE_CHECKING = False
if TYPE_CHECKING:
    Facts = dict[bytes, bytes]
