"""Say a line of SMTP, read the reply: in step, within bounds, all of it written down. Decides nothing.

A reply that does not come, or is none, is a Reply with a `trouble`: nobody may take it for a yes or a no.
"""

import time
from typing import NamedTuple

from qmail_smtpd.probe.transport import Gone, Late, Transport

LONGEST_LINE = 2048  # bytes; RFC 5321 section 4.5.3.1.5 knows 512
MOST_LINES = 100  # of one reply
KEPT_LINES = 40  # of one transcript, and of each
KEPT_BYTES = 300

CLOSED = "the connection was closed"
SILENT = "no answer in time"
ENDLESS = "an answer without an end"
NO_REPLY = "no SMTP reply"
NO_SERVICE = "the server has no service for us"
OUT_OF_STEP = "more answers than questions"
UNAVAILABLE = "421, the server goes away"  # RFC 5321 section 3.8: that is no answer to what was said


class Reply(NamedTuple):
    """What the server answered: its code and lines, or why that is no answer."""

    code: int = 0
    lines: tuple[bytes, ...] = ()
    trouble: str = ""

    @property
    def text(self) -> bytes:
        """The last line, which is the one that counts where there are several."""
        return self.lines[-1] if self.lines else b""

    @property
    def kind(self) -> int:
        """2, 3, 4 or 5; 0 where there is no answer."""
        return 0 if self.trouble else self.code // 100


class Conversation:
    """One connection. `timeout` in seconds is for one whole reply."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self.transport = transport
        self.timeout = timeout
        self.buffer = b""
        self.greeting = Reply()
        self.transcript: list[tuple[str, bytes]] = []  # ("C" or "S", line)

    def begin(self, preamble: bytes, hello: bytes) -> str:
        """Be greeted and greet, behind a preamble that the server may answer, too. Empty, or what is in the way."""
        if preamble:
            self.say(preamble)
        self.greeting = self.reply()
        if self.greeting.kind != 2:
            return self.greeting.trouble or NO_SERVICE
        trouble = self.say(b"EHLO " + hello + b"\r\n") if preamble else None
        reply = trouble or (self.reply() if preamble else self.command(b"EHLO " + hello))
        if preamble and reply.kind == 5:
            reply = self.reply()
        if reply.kind == 5:
            reply = self.command(b"HELO " + hello)
        return "" if reply.kind in (2, 5) else reply.trouble or NO_SERVICE

    def command(self, line: bytes) -> Reply:
        """Say one line and read its reply."""
        if self.unasked():
            return Reply(trouble=OUT_OF_STEP)
        trouble = self.say(line + b"\r\n")
        return trouble or self.reply()

    def unasked(self) -> bool:
        """Whether the server says something though nobody has asked. Its end is found by the next reply."""
        try:
            if not self.buffer:
                self.buffer = self.transport.receive(0.0)
        except (Gone, Late):
            return False
        for line in self.buffer[:LONGEST_LINE].split(b"\n"):
            self.note("S", line)
        return True

    def say(self, data: bytes) -> Reply | None:
        """Send it. A Reply is the trouble with that."""
        for line in data.removesuffix(b"\r\n").split(b"\n"):
            self.note("C", line)
        try:
            self.transport.send(data, time.monotonic() + self.timeout)
        except Gone:
            return Reply(trouble=CLOSED)
        except Late:
            return Reply(trouble=SILENT)
        return None

    def reply(self) -> Reply:
        """One reply, of however many lines (RFC 5321 section 4.2.1)."""
        deadline = time.monotonic() + self.timeout
        lines: list[bytes] = []
        while len(lines) < MOST_LINES:
            line = self.line(deadline)
            if isinstance(line, str):
                return Reply(lines=tuple(lines), trouble=line)
            self.note("S", line)
            lines.append(line)
            code, mark = line[:3], line[3:4]
            if not (len(code) == 3 and code.isdigit() and code[:1] in b"2345" and code == lines[0][:3]):
                return Reply(lines=tuple(lines), trouble=NO_REPLY)
            if mark in (b" ", b""):
                return Reply(int(code), tuple(lines), UNAVAILABLE if code == b"421" else "")
            if mark != b"-":
                return Reply(lines=tuple(lines), trouble=NO_REPLY)
        return Reply(lines=tuple(lines), trouble=ENDLESS)

    def line(self, deadline: float) -> bytes | str:
        """One line without its end, or why there is none."""
        while b"\n" not in self.buffer:
            if len(self.buffer) > LONGEST_LINE:
                return ENDLESS
            try:
                self.buffer += self.transport.receive(deadline)
            except Gone:
                return CLOSED
            except Late:
                return SILENT
        line, _, rest = self.buffer.partition(b"\n")
        if len(line) > LONGEST_LINE:
            return ENDLESS
        self.buffer = rest
        return line.removesuffix(b"\r")

    def note(self, who: str, line: bytes) -> None:
        """Write it down, as far as anybody will read it."""
        if len(self.transcript) < KEPT_LINES:
            self.transcript.append((who, line[:KEPT_BYTES]))

    def close(self) -> None:
        """QUIT, for whose answer nobody waits long, and the end."""
        if self.greeting.kind == 2 and not self.buffer:
            try:
                self.transport.send(b"QUIT\r\n", time.monotonic() + 1)
                self.transport.receive(time.monotonic() + 1)
            except (Gone, Late):
                pass
        self.transport.close()
