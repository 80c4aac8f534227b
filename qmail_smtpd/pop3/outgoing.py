"""Convert a message from its file's form to POP3's: CRLF, doubled dots and, for TOP, only the first lines. Pure.

Like qmail-pop3d.c's blast, but it works on whole blocks and does not append an empty line to every message.
"""


class Outgoing:
    """The conversion of one message.

    It sends `lines` of the body, or all for None. `ended`: no more input is needed.
    """

    __slots__ = ("ended", "in_header", "line_begins", "lines")

    def __init__(self, lines: int | None = None) -> None:
        self.lines = lines
        self.in_header = True
        self.line_begins = True  # whether the next byte is the first of a line
        self.ended = False

    def feed(self, block: bytes) -> bytes:
        """Convert the next bytes of the file, at least one, and return the bytes to send."""
        if self.lines is not None:
            block = self.truncate(block, self.lines)
        text = block.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")
        if self.line_begins and block.startswith(b"."):
            text = b"." + text
        if block:
            self.line_begins = block.endswith(b"\n")
        return text

    def finish(self) -> bytes:
        """Return the bytes to send after the last block: the end of an unfinished line, and the end of the message."""
        return b".\r\n" if self.line_begins else b"\r\n.\r\n"

    def truncate(self, block: bytes, lines: int) -> bytes:
        """Return the block up to the last wanted line."""
        begin = 0
        if self.in_header:
            begin = end_of_header(block, self.line_begins)
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


def end_of_header(block: bytes, line_begins: bool) -> int:
    """Return the index of the body's first byte, after the first empty line, or -1 if the block has no empty line."""
    if line_begins and block.startswith(b"\n"):
        return 1
    empty = block.find(b"\n\n")
    return empty + 2 if empty >= 0 else -1


def octets(size: int, line_feeds: int, unfinished: bool) -> int:
    """Return the length of a message as RETR sends it, without the doubled dots (RFC 1939 section 11).

    `size` and `line_feeds` are those of the file. `unfinished`: its last line has no LF.
    """
    return size + line_feeds + 2 * unfinished
