"""Log decisions on descriptor 2, one key=value line each. Never on the client's connection, and without long waits.

In values, blanks, control characters, bytes above 126, and the characters `\\`, `"` and `=` are escaped as `\\x20`.
With SMTPD_LOG_FORMAT=json a line is an object with the same facts, as tcpserver's with --log-format json: ASCII only.
"""

import os
from select import POLLOUT, poll
from time import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = b"qmail-smtpd"
LONGEST_VALUE = 256  # bytes of a value: RFC 5321 has no longer address
LONGEST_JSON_VALUE = 64  # bytes of a value if the object would be too long for a line: ten escaped ones fit
LONGEST_LINE = 4096  # PIPE_BUF: a pipe takes this much in one piece
PATIENCE = 1000  # milliseconds that the reader of the log may stall before lines are lost
ESCAPES = {byte: b"\\x%02x" % byte for byte in range(256) if not 0x21 <= byte <= 0x7E or byte in b'\\"='}

CONNECTION = b"TCPCONNECTION"  # tcpserver --log-format json sets it

NONE, REFUSALS, ALL = range(3)
LEVELS = {b"none": NONE, b"refusals": REFUSALS, b"all": ALL}
SUCCESSES = (b"accepted", b"queued", b"end")
NOTES = (b"login", b"xclient", b"warned", b"pipelined")  # successful logins too: they are logged with the refusals
FAILURES = (b"refused", b"rejected", b"aborted")
IGNORED_EVENTS = {
    NONE: frozenset(SUCCESSES + NOTES + FAILURES),
    REFUSALS: frozenset(SUCCESSES),
    ALL: frozenset(),
}


def escaped(text: bytes) -> bytes:
    """Return the text with everything that could end, split or disguise a line written as \\xNN."""
    return b"".join(ESCAPES.get(byte) or bytes((byte,)) for byte in text[:LONGEST_VALUE])


def line(facts: dict[bytes, bytes], program: bytes = PROGRAM) -> bytes:
    """Return one line of the log, with its line end."""
    text = program + b": " + b" ".join(key + b"=" + escaped(value) for key, value in facts.items())
    return cut(text)


def json_line(facts: dict[bytes, bytes], program: bytes = PROGRAM) -> bytes:
    """Return one line of the log as JSON: time (seconds since 1970), program, the pid as a number, the rest as text.

    A byte is one character, as in tcpserver's objects.
    """
    for longest in (LONGEST_VALUE, LONGEST_JSON_VALUE):
        values = {key: json_text(value[:longest]) for key, value in facts.items()}
        if b"pid" in facts:
            values[b"pid"] = facts[b"pid"]
        pairs = b", ".join(json_text(key) + b": " + value for key, value in values.items())
        text = b'{"time": %.6f, "program": %b, %b}\n' % (time(), json_text(program), pairs)
        if len(text) <= LONGEST_LINE:
            break
    return text


def json_text(value: bytes) -> bytes:
    """Return a JSON string of these bytes."""
    from _json import encode_basestring_ascii  # the C half of json, whose Python half costs 5 ms

    return encode_basestring_ascii(value.decode("latin-1")).encode()


def level_of(environ: "Mapping[bytes, bytes]") -> int:
    """Return the level that $SMTPD_LOG names."""
    return LEVELS.get(environ.get(b"SMTPD_LOG") or b"refusals", REFUSALS)


def wants_json(environ: "Mapping[bytes, bytes]") -> bool:
    """Whether the log is to be JSON."""
    return environ.get(b"SMTPD_LOG_FORMAT") == b"json"


def connection_facts(environ: "Mapping[bytes, bytes]", as_json: bool) -> dict[bytes, bytes]:
    """Return the facts that come first in each line: with JSON tcpserver's name for the connection, if it has one."""
    known = {b"connection": environ[CONNECTION]} if as_json and CONNECTION in environ else {}
    return {**known, b"pid": b"%d" % os.getpid()}


def cut(text: bytes) -> bytes:
    """Return the text as a line that a pipe takes in one piece."""
    return text[: LONGEST_LINE - 1] + b"\n"


class Log:
    """The log of one session. `facts` come first in every decision."""

    __slots__ = ("as_json", "facts", "ignored_events", "level", "patience")

    def __init__(self, level: int, facts: dict[bytes, bytes], as_json: bool = False) -> None:
        self.level = level
        self.ignored_events: frozenset[bytes] = IGNORED_EVENTS[level]  # `decision` need not be called for these
        self.facts = facts
        self.as_json = as_json
        self.patience = PATIENCE

    def set_level(self, level: int) -> None:
        """Set what is logged."""
        self.level, self.ignored_events = level, IGNORED_EVENTS[level]

    def decision(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        """Log a decision."""
        self.write((json_line if self.as_json else line)({b"event": event, **self.facts, **facts}))

    def warning(self, text: bytes) -> None:
        """Log a mistake in the configuration, or an error that is not the client's."""
        if self.level > NONE and self.as_json:
            self.write(json_line({b"event": b"warning", **self.facts, b"text": text}))
        elif self.level > NONE:
            self.write(cut(PROGRAM + b": warning: " + text))

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
