"""Convert a message from its file's form to POP3's: CRLF, doubled dots and, for TOP, only the first lines. Pure.

Like qmail-pop3d.c's blast, but it works on whole blocks, keeps each CRLF of the file as it is, and does not append an
empty line to every message. A line ends with LF or CRLF.
"""


class Outgoing:
    """The conversion of one message.

    It sends `lines` of the body, or all for None. `ended`: no more input is needed.
    """

    __slots__ = ("ended", "in_header", "last_two", "lines")

    def __init__(self, lines: int | None = None) -> None:
        self.lines = lines
        self.in_header = True
        self.last_two = b"\n"  # the last two bytes before the next block; a file begins like a line
        self.ended = False

    def feed(self, block: bytes) -> bytes:
        """Convert the next bytes of the file, at least one, and return the bytes to send."""
        if self.lines is not None:
            block = self.truncate(block, self.lines)
        text = block.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")
        if self.last_two.endswith(b"\n") and block.startswith(b"."):
            text = b"." + text
        elif self.last_two.endswith(b"\r") and block.startswith(b"\n"):
            text = text[1:]  # the CR has been sent
        self.last_two = (self.last_two + block[-2:])[-2:]
        return text

    def finish(self) -> bytes:
        """Return the bytes to send after the last block: the end of an unfinished line, and the end of the message."""
        return b".\r\n" if self.last_two.endswith(b"\n") else b"\r\n.\r\n"

    def truncate(self, block: bytes, lines: int) -> bytes:
        """Return the block up to the last wanted line."""
        begin = 0
        if self.in_header:
            begin = end_of_header(self.last_two, block)
            if begin < 0:
                return block
            self.in_header = False
        line_feeds = block.count(b"\n", begin)
        if line_feeds < lines:
            self.lines = lines - line_feeds
            return block
        self.ended = True
        for _ in range(lines):
            begin = block.index(b"\n", begin) + 1
        return block[:begin]


def end_of_header(before: bytes, block: bytes) -> int:
    """Return the index of the body's first byte, after the first empty line, or -1 if the block has no empty line.

    `before`: the last two bytes before the block.
    """
    text = before + block
    ends = [text.find(empty) + len(empty) for empty in (b"\n\n", b"\n\r\n") if empty in text]
    return min(ends) - len(before) if ends else -1


def octets(size: int, bare_line_feeds: int, unfinished: bool) -> int:
    """Return the length of a message as RETR sends it, without the doubled dots (RFC 1939 section 11).

    `size` and `bare_line_feeds`, the LFs without a CR, are those of the file. `unfinished`: its last line has no LF.
    """
    return size + bare_line_feeds + 2 * unfinished
