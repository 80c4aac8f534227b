"""A message as it lies in a file -> as POP3 sends it: CRLF, dots doubled, the first lines only where TOP asks. Pure.

qmail-pop3d.c's blast, worked on whole blocks, but without the empty line that it adds to every message.
"""


class Outgoing:
    """One message on its way. `lines` of its body are wanted, None for all; `ended` when there is no need for more."""

    __slots__ = ("ended", "in_header", "line_begins", "lines")

    def __init__(self, lines: int | None = None) -> None:
        self.lines = lines
        self.in_header = True
        self.line_begins = True  # whether the next byte is the first of a line
        self.ended = False

    def feed(self, block: bytes) -> bytes:
        """Take the next bytes of the file, not none, and return what is to be sent."""
        if self.lines is not None:
            block = self.cut(block, self.lines)
        text = block.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")
        if self.line_begins and block.startswith(b"."):
            text = b"." + text
        if block:
            self.line_begins = block.endswith(b"\n")
        return text

    def finish(self) -> bytes:
        """What is to be sent after the last block: the end of a line that had none, and of the message."""
        return b".\r\n" if self.line_begins else b"\r\n.\r\n"

    def cut(self, block: bytes, lines: int) -> bytes:
        """The block up to the last line that is wanted."""
        begin = 0
        if self.in_header:
            begin = end_of_header(block, self.line_begins)
            if begin < 0:
                return block
            self.in_header = False
        found = block.count(b"\n", begin)
        if found < lines:
            self.lines = lines - found
            return block
        self.ended = True
        for _ in range(lines):
            begin = block.index(b"\n", begin) + 1
        return block[:begin]


def end_of_header(block: bytes, line_begins: bool) -> int:
    """Where the body begins: behind the first empty line. -1 where that has not come yet."""
    if line_begins and block.startswith(b"\n"):
        return 1
    empty = block.find(b"\n\n")
    return empty + 2 if empty >= 0 else -1


def octets(size: int, line_feeds: int, unfinished: bool) -> int:
    """How long RETR's answer is without its dots (RFC 1939 section 11). `unfinished`: the last line has no end."""
    return size + line_feeds + 2 * unfinished
