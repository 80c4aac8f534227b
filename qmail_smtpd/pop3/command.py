"""A client's bytes -> commands, as qmail's commands.c splits them, but in bounded memory. Pure.

A line ends at LF; one CR before it goes; a NUL ends the text, as C's strings do; the verb ends at the first space.
"""

LONGEST_LINE = 512  # bytes with its line end. RFC 2449 section 4 grants clients 255; commands.c takes all that comes
TOO_LONG = b"\n"  # in place of the verb of a longer one: no line holds it
DIGITS = b"0123456789"


class Commands:
    """What the client has said and nobody has obeyed yet: `pending`."""

    __slots__ = ("pending", "too_long")

    def __init__(self) -> None:
        self.pending = b""
        self.too_long = False

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.pending += data

    def next(self) -> tuple[bytes, bytes] | None:
        """The next verb, in lower case, and its argument; None where its line has not ended yet."""
        line, end, rest = self.pending.partition(b"\n")
        if len(line) >= LONGEST_LINE:
            line, self.too_long = b"", True
        if not end:
            self.pending = line
            return None
        self.pending = rest
        if self.too_long:
            self.too_long = False
            return TOO_LONG, b""
        return split(line)

    def rest(self) -> bytes:
        """What is not a command of this program's any more."""
        rest, self.pending = self.pending, b""
        return rest


def split(line: bytes) -> tuple[bytes, bytes]:
    """The verb and its argument, in a line without its LF."""
    verb, _, argument = line.removesuffix(b"\r").partition(b"\0")[0].partition(b" ")
    return verb.lower(), argument.lstrip(b" ")


def leading_number(text: bytes) -> tuple[int | None, bytes]:
    """The number at the beginning, None where there is no digit, and what follows it (scan_ulong.c, without a wrap)."""
    rest = text.lstrip(DIGITS)
    digits = text[: len(text) - len(rest)]
    return int(digits[:LONGEST_LINE]) if digits else None, rest  # Python converts 4300 at most
