"""Parse the data between 354 and the final dot: line ends, dots, hops, size. Pure.

The rules are those of the byte machine in qmail-smtpd.c (blast), applied to whole blocks: only CRLF . CRLF ends a
message, CRLF becomes LF, one leading dot is removed, a CR alone is kept, and an LF without CR ends the session.
"""

from qmail_smtpd.smtp import replies

END = b"\r\n.\r\n"
DOT_CR = b"\r\n.\r"  # a line that begins with dot and CR, but no LF, keeps its dot: state 3 of the machine
MAX_HOPS = 100  # qmail-smtpd.c MAXHOPS
HOP_LINES = (b"\nreceived", b"\ndelivered")  # prefixes only: `Receivedfoo` is a hop as well
END_OF_HEADER = b"\n\r\n"
TAIL_SIZE = max(map(len, HOP_LINES)) - 1  # bytes of the header to keep, to find a word that is split between two blocks


class Measured:
    """What is counted of a message: its bytes as stored, and the mailers that it came through."""

    __slots__ = ("end_of_header", "header_tail", "hops", "limit", "size", "too_big")

    def __init__(self, limit: int, end_of_header: bytes) -> None:
        self.limit = limit  # bytes after conversion, 0 for none
        self.end_of_header = end_of_header
        self.header_tail: bytes | None = b"\n"  # the last bytes of the header; None after the header
        self.hops = self.size = 0
        self.too_big = False

    def measured(self, text: bytes) -> bytes:
        """Count converted text and return what is to be stored of it: nothing once the message is too big."""
        self.size += len(text)
        self.too_big = 0 < self.limit < self.size
        return b"" if self.too_big else text

    def refusal(self) -> tuple[bytes, bytes] | None:
        """Return the reply and the reason for the log if the message is not to be queued, else None."""
        if self.hops >= MAX_HOPS:
            return replies.TOO_MANY_HOPS, b"hops"
        return (replies.TOO_BIG, b"size") if self.too_big else None

    def count_hops(self, data: bytes) -> None:
        """Count the header lines that earlier mailers added, up to the first empty line."""
        header_tail = self.header_tail or b""
        text = (header_tail + data).lower()
        over = text.find(self.end_of_header, max(0, len(header_tail) - len(self.end_of_header) + 1))
        stop = over if over >= 0 else len(text)
        for word in HOP_LINES:
            self.hops += text.count(word, max(0, len(header_tail) - len(word) + 1), stop)
        self.header_tail = None if over >= 0 else text[-TAIL_SIZE:]


class Message(Measured):
    """The message of a DATA command, parsed incrementally.

    After each `feed`, `ended` tells whether the message is complete, `rest` holds the data after it, and `stray` tells
    whether there was a stray newline (or a refused CR).
    """

    __slots__ = ("ended", "held", "refuse_bare_cr", "rest", "stray", "virtual_bytes")

    def __init__(self, limit: int = 0, refuse_bare_cr: bool = False) -> None:
        super().__init__(limit, END_OF_HEADER)
        self.refuse_bare_cr = refuse_bare_cr
        self.held = b"\r\n"  # input not yet converted. The message is parsed as if a CRLF came before it
        self.virtual_bytes = 1  # bytes of output that come from that CRLF and not from the client
        self.ended = self.stray = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Process data from the client and return what is to be stored: nothing once the message is too big."""
        known = len(self.held)
        data = self.held + data
        dot = data.find(END[:3])
        end = data.find(END, dot) if dot >= 0 else -1
        if self.header_tail is not None:
            self.count_hops(data[known : end + 2] if end >= 0 else data[known:])
        if end >= 0:
            self.ended = True
            self.rest = data[end + len(END) :]
            data = data[: end + 2]
        else:
            data = self.hold_back(data)
        return self.measured(self.convert(data, dot >= 0))

    def hold_back(self, data: bytes) -> bytes:
        """Keep the longest end of the data that may be the beginning of CRLF . CRLF, and return the rest."""
        kept = next((length for length in (4, 3, 2, 1) if data.endswith(END[:length])), 0)
        self.held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def convert(self, data: bytes, dots: bool) -> bytes:
        """Remove leading dots and turn CRLF into LF. Set `stray` for an LF without CR, or a refused CR without LF."""
        if dots:
            data = DOT_CR.join(part.replace(b"\r\n.", b"\r\n") for part in data.split(DOT_CR))
        pairs = data.count(b"\r\n")
        text = data.replace(b"\r", b"")  # if every CR belongs to a pair, ten times as fast as replacing the pairs
        if len(data) - len(text) != pairs:
            text = data.replace(b"\r\n", b"\n")
            self.stray = self.refuse_bare_cr
        self.stray = self.stray or text.count(b"\n") != pairs
        if text and self.virtual_bytes:
            text = text[self.virtual_bytes :]
            self.virtual_bytes = 0
        return text
