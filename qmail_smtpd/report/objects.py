"""The lines of a log that are JSON: of tcpserver, qmail-smtpd and qmail-popup, and journalctl's own. Pure.

A value becomes what it is in the text log: one byte a character, escaped. Facts of both forms are equal then.
"""

import json
from typing import Any

from qmail_smtpd.log import escaped
from qmail_smtpd.report.stamps import LATEST
from qmail_smtpd.report.tally import Tally

PLAIN = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'\\"=')  # bytes that log.py does not escape
DEFAULT_RULE = b":"  # the rule whose key is empty
CONVERSATIONS = ("qmail-smtpd", "qmail-popup")


class Objects:
    """Reads objects. `lines` counts what is unknown, and knows which times are wanted."""

    def __init__(self, tally: Tally, lines: "Lines") -> None:
        self.tally = tally
        self.lines = lines

    def read(self, line: bytes, stamp: float | None) -> None:
        """Read one object. Its own time counts, and without one the line's stamp."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            self.lines.unknown += 1
            return
        if not isinstance(found, dict):
            self.lines.unknown += 1
        elif "__REALTIME_TIMESTAMP" in found:
            self.journal(found)
        elif isinstance(found.get("event"), str):
            own = seconds_of(found.get("time"))
            when = stamp if own is None else own
            if self.lines.is_wanted(when):
                self.event(found, when)
        else:
            self.lines.unknown += 1

    def journal(self, found: dict[str, Any]) -> None:
        """Read the message of an entry of `journalctl -o json`, which is a list of bytes if it is not printable."""
        message, stamp = found.get("MESSAGE"), found["__REALTIME_TIMESTAMP"]
        self.lines.lines -= 1  # the line within is the one that counts
        try:
            text = bytes(message) if isinstance(message, list) else str(message).encode()
            seconds, micros = divmod(int(str(stamp)[:20]), 1_000_000)
        except (ValueError, TypeError):
            text, seconds, micros = b"", 0, 0
        if text[:1] == b"{" and b"__REALTIME_TIMESTAMP" in text:
            text = b""  # no entry within an entry
        self.lines.line(b"%d.%06d " % (seconds, micros) + text)

    def event(self, found: dict[str, Any], when: float | None) -> None:
        """Count an event."""
        event, program = found["event"], found.get("program")
        pid = canonical(found.get("pid"))
        key = canonical(found.get("connection")) or pid
        if program in CONVERSATIONS and event != "warning":
            facts = {canonical(name): canonical(value) for name, value in found.items()}
            self.lines.event(facts, when, key)
        elif event == "warning":
            self.tally.at(when)
            name = program if program in CONVERSATIONS else "tcpserver"
            self.tally.warned(name.encode(), str(found.get("text")).encode("latin-1", "replace"))
        else:
            self.tcpserver(event, found, when, key, pid)

    def tcpserver(self, event: str, found: dict[str, Any], when: float | None, key: bytes, pid: bytes) -> None:
        """Count an event of tcpserver. Its session is also found by its pid: qmail-smtpd's log may be text."""
        address = canonical(found.get("remote_ip"))
        if event == "ok":
            rule = canonical(found["rule"]) or DEFAULT_RULE if "rule" in found else b""
            self.tally.admitted(key, address, when, rule)
            self.tally.sessions[pid] = self.tally.sessions[key]
        elif event == "deny":
            self.tally.denied(address, when, canonical(found.get("reason")))
        elif event == "pid":
            self.tally.begun(key, when)
        elif event == "end":
            self.tally.sessions.pop(pid, None)
            self.tally.ended(key, when, canonical(found.get("status")), seconds_of(found.get("duration")))
        elif event == "status":
            limit = canonical(found.get("limit"))
            if canonical(found.get("children")) == limit:
                self.tally.full(limit)
        elif event == "drop":
            self.tally.warned(b"tcpserver", b"dropping connection, " + canonical(found.get("reason")))
        elif event not in ("connected", "waiting"):
            self.lines.unknown += 1


def seconds_of(value: object) -> float | None:
    """Return a number of seconds, None for what is none: NaN too, and an integer that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        return None
    return float(value)


def canonical(value: object) -> bytes:
    """Return a value as the text log has it."""
    if isinstance(value, int | float):
        return str(value).encode()
    if not isinstance(value, str):
        return b""
    data = value.encode("latin-1", "replace")
    return escaped(data) if data.translate(None, PLAIN) else data


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Lines(Protocol):
        """What the lines' reader does for the objects in them."""

        lines: int
        unknown: int

        def is_wanted(self, when: float | None) -> bool: ...
        def line(self, line: bytes) -> None: ...
        def event(self, facts: dict[bytes, bytes], when: float | None, key: bytes) -> None: ...
