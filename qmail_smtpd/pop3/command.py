"""Parse the client's bytes into commands, as qmail's commands.c does, but in bounded memory. Pure.

A line ends at LF, and one CR before it is removed. A NUL ends the text, as in C. The verb ends at the first space.
"""

LONGEST_LINE = 512  # bytes with its line end. RFC 2449 section 4 allows 255; commands.c has no limit
TOO_LONG = b"\n"  # stands for the verb of a longer line; no real verb contains LF
DIGITS = b"0123456789"


class Commands:
    """A buffer of received bytes that yields commands. `pending` holds the bytes after the last command."""

    __slots__ = ("pending", "too_long")

    def __init__(self) -> None:
        self.pending = b""
        self.too_long = False

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.pending += data

    def next(self) -> tuple[bytes, bytes] | None:
        """Return the next verb in lower case and its argument, or None if no complete line has arrived."""
        line = self.next_line(LONGEST_LINE)
        if line is None:
            return None
        return (TOO_LONG, b"") if line == TOO_LONG else split(line)

    def next_line(self, longest: int) -> bytes | None:
        """Return the next line without its LF, or None as `next` does. TOO_LONG stands for one of `longest` or more."""
        line, end, rest = self.pending.partition(b"\n")
        if len(line) >= longest:
            line, self.too_long = b"", True
        if not end:
            self.pending = line
            return None
        self.pending = rest
        if self.too_long:
            self.too_long = False
            return TOO_LONG
        return line

    def rest(self) -> bytes:
        """Remove and return the pending bytes: after a login they belong to the next program."""
        rest, self.pending = self.pending, b""
        return rest


def split(line: bytes) -> tuple[bytes, bytes]:
    """Return the verb in lower case and the argument of a line without its LF."""
    verb, _, argument = line.removesuffix(b"\r").partition(b"\0")[0].partition(b" ")
    return verb.lower(), argument.lstrip(b" ")


def leading_number(text: bytes) -> tuple[int | None, bytes]:
    """Return the number at the beginning, or None, and the text after it. Unlike scan_ulong.c it never wraps around."""
    rest = text.lstrip(DIGITS)
    digits = text[: len(text) - len(rest)]
    return int(digits[:LONGEST_LINE]) if digits else None, rest  # Python refuses to convert more than 4300 digits
