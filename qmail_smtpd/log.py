"""Log decisions on descriptor 2, one key=value line each. Never on the client's connection, and without long waits.

In values, blanks, control characters, bytes above 126, and the characters `\\`, `"` and `=` are escaped as `\\x20`.
"""

import os
from select import POLLOUT, poll

PROGRAM = b"qmail-smtpd: "
LONGEST_VALUE = 256  # bytes of a value: RFC 5321 has no longer address
LONGEST_LINE = 4096  # PIPE_BUF: a pipe takes this much in one piece
PATIENCE = 1000  # milliseconds that the reader of the log may stall before lines are lost
ESCAPES = {byte: b"\\x%02x" % byte for byte in range(256) if not 0x21 <= byte <= 0x7E or byte in b'\\"='}

NONE, REFUSALS, ALL = range(3)
LEVELS = {b"none": NONE, b"refusals": REFUSALS, b"all": ALL}
SUCCESSES = (b"accepted", b"queued", b"end")
NOTES = (b"login", b"xclient", b"warned")  # successful logins too: they are logged with the refusals
FAILURES = (b"refused", b"rejected", b"aborted")
IGNORED_EVENTS = {
    NONE: frozenset(SUCCESSES + NOTES + FAILURES),
    REFUSALS: frozenset(SUCCESSES),
    ALL: frozenset(),
}


def escaped(text: bytes) -> bytes:
    """Return the text with everything that could end, split or disguise a line written as \\xNN."""
    return b"".join(ESCAPES.get(byte) or bytes((byte,)) for byte in text[:LONGEST_VALUE])


def line(facts: dict[bytes, bytes]) -> bytes:
    """Return one line of the log, with its line end."""
    text = PROGRAM + b" ".join(key + b"=" + escaped(value) for key, value in facts.items())
    return cut(text)


def cut(text: bytes) -> bytes:
    """Return the text as a line that a pipe takes in one piece."""
    return text[: LONGEST_LINE - 1] + b"\n"


class Log:
    """The log of one session. `facts` come first in every decision."""

    __slots__ = ("facts", "ignored_events", "level", "patience")

    def __init__(self, level: int, facts: dict[bytes, bytes]) -> None:
        self.set_level(level)
        self.facts = facts
        self.patience = PATIENCE

    def set_level(self, level: int) -> None:
        """Set what is logged."""
        self.level = level
        self.ignored_events: frozenset[bytes] = IGNORED_EVENTS[level]  # `decision` need not be called for these

    def decision(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        """Log a decision."""
        self.write(line({b"event": event, **self.facts, **facts}))

    def warning(self, text: bytes) -> None:
        """Log a mistake in the configuration, or an error that is not the client's."""
        if self.level > NONE:
            self.write(cut(PROGRAM + b"warning: " + text))

    def write(self, text: bytes) -> None:
        """Write a line. A reader that stalls is waited for once; after that, lines are lost until it reads again."""
        poller = poll()
        poller.register(2, POLLOUT)
        try:
            if poller.poll(self.patience):
                os.write(2, text)
                self.patience = PATIENCE
            else:
                self.patience = 0
        except OSError:
            pass  # a closed log is no reason to lose mail
