"""What stands between 354 and the dot: line ends, dots, hops, size. Pure.

The rules are the byte machine of qmail-smtpd.c (blast), worked on whole blocks: only CRLF . CRLF ends a message, CRLF
becomes LF, one leading dot goes, a CR alone stays, and an LF without its CR ends the session.
"""

from qmail_smtpd.smtp import replies

END = b"\r\n.\r\n"
DOT_CR = b"\r\n.\r"  # a line that begins so and does not end there keeps its dot: state 3 of the machine
MAX_HOPS = 100  # qmail-smtpd.c MAXHOPS
HOP_LINES = (b"\nreceived", b"\ndelivered")  # prefixes only: `Receivedfoo` is a hop as well
END_OF_HEADER = b"\n\r\n"
LONGEST_TAIL = max(map(len, HOP_LINES)) - 1  # what has to be remembered of a header to find a word cut in two


class Message:
    """One message as it comes. After each `feed`, `ended` and `stray` tell whether it is over, `rest` what follows."""

    __slots__ = (
        "ended",
        "held",
        "hops",
        "limit",
        "refuse_bare_cr",
        "rest",
        "size",
        "stray",
        "tail",
        "too_big",
        "virtual",
    )

    def __init__(self, limit: int = 0, refuse_bare_cr: bool = False) -> None:
        self.limit = limit  # bytes after conversion, 0 for none
        self.refuse_bare_cr = refuse_bare_cr
        self.held = b"\r\n"  # read but not yet judged; the message begins as if a CRLF stood before it
        self.virtual = 1  # bytes of output that come from that CRLF and are not the client's
        self.tail: bytes | None = b"\n"  # the last bytes of the header as it came; None once the header is over
        self.hops = self.size = 0
        self.ended = self.stray = self.too_big = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent and return what is to be stored of it: nothing once the message is too big."""
        known = len(self.held)
        data = self.held + data
        dot = data.find(END[:3])
        end = data.find(END, dot) if dot >= 0 else -1
        if self.tail is not None:
            self.count_hops(data[known : end + 2] if end >= 0 else data[known:])
        if end >= 0:
            self.ended = True
            self.rest = data[end + len(END) :]
            data = data[: end + 2]
        else:
            data = self.hold_back(data)
        text = self.convert(data, dot >= 0)
        self.size += len(text)
        self.too_big = 0 < self.limit < self.size
        return b"" if self.too_big else text

    def refusal(self) -> tuple[bytes, bytes] | None:
        """The reply to a message that is not to be queued and a word for the log, None for one that is."""
        if self.hops >= MAX_HOPS:
            return replies.TOO_MANY_HOPS, b"hops"
        return (replies.TOO_BIG, b"size") if self.too_big else None

    def hold_back(self, data: bytes) -> bytes:
        """Keep the longest end of the data that may be the beginning of CRLF . CRLF for the next time."""
        kept = next((length for length in (4, 3, 2, 1) if data.endswith(END[:length])), 0)
        self.held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def convert(self, data: bytes, dots: bool) -> bytes:
        """Take leading dots away and turn CRLF into LF; note an LF without CR, and a CR without LF if refused."""
        if dots:
            data = DOT_CR.join(part.replace(b"\r\n.", b"\r\n") for part in data.split(DOT_CR))
        pairs = data.count(b"\r\n")
        text = data.replace(b"\r", b"")  # where every CR belongs to a pair, ten times as fast as replacing the pairs
        if len(data) - len(text) != pairs:
            text = data.replace(b"\r\n", b"\n")
            self.stray = self.refuse_bare_cr
        self.stray = self.stray or text.count(b"\n") != pairs
        if text and self.virtual:
            text = text[self.virtual :]
            self.virtual = 0
        return text

    def count_hops(self, data: bytes) -> None:
        """Count the header lines that a mailer on the way has written, until the first empty line."""
        tail = self.tail or b""
        text = (tail + data).lower()
        over = text.find(END_OF_HEADER, max(0, len(tail) - len(END_OF_HEADER) + 1))
        stop = over if over >= 0 else len(text)
        for word in HOP_LINES:
            self.hops += text.count(word, max(0, len(tail) - len(word) + 1), stop)
        self.tail = None if over >= 0 else text[-LONGEST_TAIL:]
