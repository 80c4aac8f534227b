"""A message that comes in chunks: the argument of BDAT, and the conversion of the bytes (RFC 3030). Pure.

The message needs no dots, and a bare LF in it is a line end. Its last line may have no line end, and then gets one.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import exceeds
from qmail_smtpd.smtp.message import Measured

LONGEST_ARGUMENT = 64  # bytes: far below LINE_LIMIT, so that no line was cut
LARGEST_CHUNK = 0xFFFFFFFF  # bytes. Senders cut messages into smaller chunks; Exim's receiver takes no more, either
LAST = b"last"


class ChunkedMessage(Measured):
    """One message, converted incrementally."""

    __slots__ = ("has_bare_cr", "held", "in_line", "refuse_bare_cr")

    def __init__(self, limit: int = 0, refuse_bare_cr: bool = False) -> None:
        super().__init__(limit, b"\n\n")  # line ends are converted before hops are counted
        self.refuse_bare_cr = refuse_bare_cr
        self.has_bare_cr = False
        self.held = b""  # a CR at the end of what has come: an LF may follow
        self.in_line = False  # whether the text so far does not end with a line end

    def feed(self, data: bytes, is_whole: bool) -> bytes:
        """Return what is to be stored of this part. `is_whole`: the message ends here, and so does its last line."""
        data = self.held + data
        self.held = b""
        if not is_whole and data.endswith(b"\r"):
            data, self.held = data[:-1], b"\r"
        text = self.convert(data)
        if text:
            self.in_line = not text.endswith(b"\n")
        if is_whole and self.in_line:  # qmail-remote could not send a partial line
            text += b"\n"
        if self.header_tail is not None:
            self.count_hops(text)
        return self.measured(text)

    def convert(self, data: bytes) -> bytes:
        """Turn CRLF into LF, and note a CR without LF."""
        text = data.replace(b"\r", b"")  # if every CR belongs to a pair, ten times as fast as replacing the pairs
        if len(data) - len(text) != data.count(b"\r\n"):
            text = data.replace(b"\r\n", b"\n")
            self.has_bare_cr = True
        return text

    def refusal(self) -> tuple[bytes, bytes] | None:
        """Return the reply and the reason for the log if the message is not to be queued, else None."""
        if self.has_bare_cr and self.refuse_bare_cr:
            return replies.BARE_CR, b"bare-cr"
        return super().refusal()


class Chunk:
    """A chunk of which bytes are still to come."""

    __slots__ = ("is_last", "refusal", "remaining")

    def __init__(self, remaining: int, is_last: bool, refusal: bytes | None) -> None:
        self.remaining = remaining
        self.is_last = is_last
        self.refusal = refusal  # the reply if the chunk is to be dropped


def parse(argument: bytes) -> tuple[int, bool] | None:
    """Return the size of the chunk and whether it is the last one, None if that is not what the argument says.

    `argument`: everything after the verb, with the blank.
    """
    if not argument.startswith(b" ") or len(argument) > LONGEST_ARGUMENT:
        return None
    words = argument.strip(b" ").split(b" ")
    size = words[0].lstrip(b"0") or words[0][-1:]
    if not size.isdigit() or exceeds(size, LARGEST_CHUNK):
        return None
    is_last = [word.lower() for word in words[1:] if word] == [LAST]
    return None if len(words) > 1 and not is_last else (int(size), is_last)
