"""An SMTP conversation: send a line, read its reply, in step and within bounds, with a transcript. Decides nothing.

A missing or malformed reply is a Reply with a `failure`, so that it never counts as an acceptance or a refusal.
"""

import time
from typing import NamedTuple

from qmail_smtpd.probe.transport import ConnectionLost, TimedOut, Transport

LONGEST_LINE = 2048  # bytes; RFC 5321 section 4.5.3.1.5 allows 512
MAX_LINES = 100  # of one reply
TRANSCRIPT_LINES = 40  # lines of one transcript
TRANSCRIPT_BYTES = 300  # of each of these lines

CLOSED = "the connection was closed"
SILENT = "no answer in time"
ENDLESS = "a reply without an end"
NO_REPLY = "not an SMTP reply"
NO_SERVICE = "the server refuses service"
OUT_OF_STEP = "more replies than commands"
UNAVAILABLE = "421, the server ends the session"  # RFC 5321 section 3.8: no reply to the command


class Reply(NamedTuple):
    """The server's reply: its code and lines, or the failure to get one."""

    code: int = 0
    lines: tuple[bytes, ...] = ()
    failure: str = ""

    @property
    def text(self) -> bytes:
        """The last line, which counts if there are several."""
        return self.lines[-1] if self.lines else b""

    @property
    def kind(self) -> int:
        """2, 3, 4 or 5; 0 for a failure."""
        return 0 if self.failure else self.code // 100


class Conversation:
    """One connection. `timeout`, in seconds, applies to one whole reply."""

    def __init__(self, transport: Transport, timeout: float) -> None:
        self.transport = transport
        self.timeout = timeout
        self.buffer = b""
        self.greeting = Reply()
        self.hello = Reply()  # the reply to EHLO or HELO
        self.transcript: list[tuple[str, bytes]] = []  # ("C" or "S", line)

    def open(self, preamble: bytes, hello: bytes) -> str:
        """Read the greeting and send EHLO or HELO. Return "" or the reason of a failure.

        A preamble is sent before the greeting; the server may reply to it as well.
        """
        if preamble:
            self.send(preamble)
        self.greeting = self.reply()
        if self.greeting.kind != 2:
            return self.greeting.failure or NO_SERVICE
        failure = self.send(b"EHLO " + hello + b"\r\n") if preamble else None
        reply = failure or (self.reply() if preamble else self.command(b"EHLO " + hello))
        if preamble and reply.kind == 5:
            reply = self.reply()
        if reply.kind == 5:
            reply = self.command(b"HELO " + hello)
        self.hello = reply
        return "" if reply.kind in (2, 5) else reply.failure or NO_SERVICE

    def offers(self, keyword: bytes) -> bool:
        """Whether the reply to EHLO has this keyword."""
        return any(line[4:].upper().split(b" ")[0] == keyword for line in self.hello.lines[1:])

    def command(self, line: bytes) -> Reply:
        """Send one line and read its reply."""
        if self.has_unexpected_input():
            return Reply(failure=OUT_OF_STEP)
        failure = self.send(line + b"\r\n")
        return failure or self.reply()

    def has_unexpected_input(self) -> bool:
        """Whether the server has sent something without a command.

        A closed connection is left for the next reply to detect.
        """
        try:
            if not self.buffer:
                self.buffer = self.transport.receive(0.0)
        except (ConnectionLost, TimedOut):
            return False
        for line in self.buffer[:LONGEST_LINE].split(b"\n"):
            self.record("S", line)
        return True

    def send(self, data: bytes) -> Reply | None:
        """Send the data. Return None, or a Reply with the failure."""
        for line in data.removesuffix(b"\r\n").split(b"\n"):
            self.record("C", line)
        try:
            self.transport.send(data, time.monotonic() + self.timeout)
        except ConnectionLost:
            return Reply(failure=CLOSED)
        except TimedOut:
            return Reply(failure=SILENT)
        return None

    def reply(self) -> Reply:
        """Read one reply with all its lines (RFC 5321 section 4.2.1)."""
        deadline = time.monotonic() + self.timeout
        lines: list[bytes] = []
        while len(lines) < MAX_LINES:
            line = self.line(deadline)
            if isinstance(line, str):
                return Reply(lines=tuple(lines), failure=line)
            self.record("S", line)
            lines.append(line)
            code, mark = line[:3], line[3:4]
            if not (len(code) == 3 and code.isdigit() and code[:1] in b"2345" and code == lines[0][:3]):
                return Reply(lines=tuple(lines), failure=NO_REPLY)
            if mark in (b" ", b""):
                return Reply(int(code), tuple(lines), UNAVAILABLE if code == b"421" else "")
            if mark != b"-":
                return Reply(lines=tuple(lines), failure=NO_REPLY)
        return Reply(lines=tuple(lines), failure=ENDLESS)

    def line(self, deadline: float) -> bytes | str:
        """Return one line without its end, or the failure as text."""
        while b"\n" not in self.buffer:
            if len(self.buffer) > LONGEST_LINE:
                return ENDLESS
            try:
                self.buffer += self.transport.receive(deadline)
            except ConnectionLost:
                return CLOSED
            except TimedOut:
                return SILENT
        line, _, rest = self.buffer.partition(b"\n")
        if len(line) > LONGEST_LINE:
            return ENDLESS
        self.buffer = rest
        return line.removesuffix(b"\r")

    def record(self, who: str, line: bytes) -> None:
        """Add a line to the transcript, which is limited in lines and bytes."""
        if len(self.transcript) < TRANSCRIPT_LINES:
            self.transcript.append((who, line[:TRANSCRIPT_BYTES]))

    def close(self) -> None:
        """Send QUIT, wait briefly for its reply, and close the connection."""
        if self.greeting.kind == 2 and not self.buffer:
            try:
                self.transport.send(b"QUIT\r\n", time.monotonic() + 1)
                self.transport.receive(time.monotonic() + 1)
            except (ConnectionLost, TimedOut):
                pass
        self.transport.close()
