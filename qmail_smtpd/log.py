"""What was decided, on descriptor 2: one line each, key=value. Never on the client's connection, never waits for long.

A value holds no blank, no control character and no byte of more than seven bits, no `=`: `\\x20` stands for a space.
"""

import os
from select import POLLOUT, poll

PROGRAM = b"qmail-smtpd: "
LONGEST_VALUE = 256  # bytes of what a client says: RFC 5321 has no longer address
LONGEST_LINE = 4096  # PIPE_BUF: a pipe takes so much in one piece
PATIENCE = 1000  # milliseconds that the reader of the log may stall before lines are lost
ESCAPES = {byte: b"\\x%02x" % byte for byte in range(256) if not 0x21 <= byte <= 0x7E or byte in b'\\"='}

NONE, REFUSALS, ALL = range(3)
LEVELS = {b"none": NONE, b"refusals": REFUSALS, b"all": ALL}
WELL = (b"accepted", b"queued", b"end")  # what happens when all goes well
TOLD = (b"login",)  # who comes in is to be known whatever happens next
TROUBLE = (b"refused", b"rejected", b"aborted")
IGNORED_EVENTS = {NONE: frozenset(WELL + TOLD + TROUBLE), REFUSALS: frozenset(WELL), ALL: frozenset()}


def escaped(text: bytes) -> bytes:
    """The text with everything that could end, split or disguise a line written as \\xNN."""
    return b"".join(ESCAPES.get(byte) or bytes((byte,)) for byte in text[:LONGEST_VALUE])


def line(facts: dict[bytes, bytes]) -> bytes:
    """One line of the log, with its line end."""
    text = PROGRAM + b" ".join(key + b"=" + escaped(value) for key, value in facts.items())
    return text[: LONGEST_LINE - 1] + b"\n"


class Log:
    """Descriptor 2 for one session: `level` says what is written, `facts` stand first in every decision."""

    __slots__ = ("facts", "ignored_events", "level", "patience")

    def __init__(self, level: int, facts: dict[bytes, bytes]) -> None:
        self.level = level
        self.ignored_events: frozenset[bytes] = IGNORED_EVENTS[level]  # events that need not be told
        self.facts = facts
        self.patience = PATIENCE

    def decision(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        """Write what was decided."""
        self.put(line({b"event": event, **self.facts, **facts}))

    def warning(self, text: bytes) -> None:
        """Write what is wrong with the configuration."""
        if self.level > NONE:
            self.put(PROGRAM + b"warning: " + text + b"\n")

    def put(self, text: bytes) -> None:
        """Write the line if the reader takes it. One that stalls is waited for once, then it loses lines."""
        poller = poll()
        poller.register(2, POLLOUT)
        try:
            if poller.poll(self.patience):
                os.write(2, text)
                self.patience = PATIENCE
            else:
                self.patience = 0
        except OSError:
            pass  # a closed log is nobody's fault, and no reason to lose mail
