"""From the lines of a log to events: text and JSON, with or without stamps. Pure: takes bytes, feeds a Tally.

A line of something else, or one that is broken, is counted as unknown, and skipped.
"""

import time

from qmail_smtpd.report.objects import Objects
from qmail_smtpd.report.stamps import LATEST, Stamps
from qmail_smtpd.report.tally import Tally

LONGEST_LINE = 65536  # bytes of a line without an end that are kept; our programs write 4096 at most
OTHER_PROGRAMS = (  # programs whose warnings count
    b"checkdovecot checkusers cmd5checkpw maildir-queue qmail-pop3d relay-allow relay-check sendmail-queue"
)


class Reader:
    """Reads a log piece by piece. `lines` of the log, of which `unknown` say nothing that is counted."""

    def __init__(self, tally: Tally, since: float | None = None, now: float | None = None) -> None:
        self.tally = tally
        self.since = since
        self.stamps = Stamps(time.time() if now is None else now)
        self.objects = Objects(tally, self)
        self.rest = b""
        self.lines = self.unknown = self.early = self.unstamped = 0
        self.handlers: dict[bytes, Handler] = {
            b"qmail-smtpd": self.smtpd,
            b"qmail-popup": self.smtpd,
            b"tcpserver": self.tcpserver,
            b"rblsmtpd": self.rblsmtpd,
            **dict.fromkeys(OTHER_PROGRAMS.split(), self.other),
        }
        self.events = {
            b"refused": tally.refused,
            b"login": tally.login,
            b"accepted": tally.accepted,
            b"queued": tally.queued,
            b"rejected": tally.unfinished_message,
            b"aborted": tally.unfinished_message,
            b"end": tally.session_end,
        }

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the log."""
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()[:LONGEST_LINE]
        for line in lines:
            self.line(line)

    def finish(self) -> None:
        """Read a last line without an end."""
        if self.rest:
            self.line(self.rest)
            self.rest = b""

    def line(self, line: bytes) -> None:
        """Read one line."""
        self.lines += 1
        program, _, text = line.partition(b": ")
        handler = self.handlers.get(program)
        when: float | None = None
        if handler is None:
            if line[:1] == b"{":
                self.objects.read(line, None)
                return
            when, message = self.stamps.split(line)
            if when is not None and not 0 <= when < LATEST:
                when = None
            if message[:1] == b"{":
                self.objects.read(message, when)
                return
            program, _, text = message.partition(b": ")
            handler = self.handlers.get(program)
            if handler is None:  # `HOST IDENTIFIER[PID]: ` of syslog or the journal
                if text[:1] == b"{":
                    self.objects.read(text, when)
                    return
                program, _, text = text.partition(b": ")
                handler = self.handlers.get(program)
        if handler is None:
            self.unknown += 1
        elif self.is_wanted(when):
            handler(program, text, when)

    def is_wanted(self, when: float | None) -> bool:
        """Whether a line of this time counts."""
        if when is None:
            self.unstamped += 1
            return self.since is None
        if self.since is not None and when < self.since:
            self.early += 1
            return False
        return True

    def smtpd(self, program: bytes, text: bytes, when: float | None) -> None:
        """Read a decision of qmail-smtpd or qmail-popup."""
        if text[:6] != b"event=":
            self.other(program, text, when)
            return
        try:
            facts = dict([word.split(b"=", 1) for word in text.split(b" ")])  # faster than a comprehension
        except ValueError:
            self.unknown += 1
            return
        self.event(facts, when, facts.get(b"pid", b""))

    def event(self, facts: "Facts", when: float | None, key: bytes) -> None:
        """Count a decision."""
        handler = self.events.get(facts[b"event"])
        if handler is not None:
            handler(facts, when, key)

    def tcpserver(self, program: bytes, text: bytes, when: float | None) -> None:
        """Read a line of tcpserver."""
        words = text.split(b" ")
        kind = words[0]
        if kind == b"ok" and len(words) >= 4:
            self.tally.admitted(words[1], remote_address(words[3]), when, b"")
        elif kind == b"deny" and len(words) >= 4:
            self.tally.denied(remote_address(words[3]), when, words[4] if len(words) > 4 else b"")
        elif kind == b"pid" and len(words) == 4:
            self.tally.begun(words[1], when)
        elif kind == b"end" and len(words) == 4:
            self.tally.ended(words[1], when, words[3], None)
        elif kind == b"status:" and len(words) == 2:
            children, _, limit = words[1].partition(b"/")
            if children == limit:
                self.tally.full(limit)
        else:
            self.other(program, text, when)

    def rblsmtpd(self, program: bytes, text: bytes, when: float | None) -> None:
        """Read a line of rblsmtpd: `ADDRESS pid NUMBER: reply`, the same with what failed instead, or a warning."""
        words = text.split(b" ", 3)
        if len(words) != 4 or words[1] != b"pid":
            self.other(program, text, when)
        elif words[3][:3].isdigit():
            self.tally.refused_by_rblsmtpd(words[0], when, words[3])
        else:
            self.tally.at(when)
            self.tally.warned(program, words[3])

    def other(self, program: bytes, text: bytes, when: float | None) -> None:
        """Read a warning, or what ended a program. Anything else is the output of something else."""
        kind, _, text = text.partition(b": ")
        if kind in (b"warning", b"fatal"):
            self.tally.at(when)
            self.tally.warned(program, text)
        elif kind not in (b"connected", b"waiting"):
            self.unknown += 1


def remote_address(field: bytes) -> bytes:
    """Return the address of `HOST:ADDRESS:INFO:PORT`. An IPv6 address is in brackets; a host has no colon."""
    if b":[" in field:
        return field.partition(b":[")[2].partition(b"]")[0]
    return (field.split(b":", 2) + [b"", b""])[1]


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Facts = dict[bytes, bytes]
    Handler = Callable[[bytes, bytes, float | None], None]
