"""Bytes for a terminal, and the body of an answer: what cat -v and awk do in the originals' pipes. Pure."""


def visible_byte(byte: int) -> bytes:
    """A byte as cat -v prints it: ^X for a control character, M- before what has the eighth bit."""
    if byte >= 128:
        return b"M-" + visible_byte_below(byte - 128)
    return bytes([byte]) if byte in b"\t\n" else visible_byte_below(byte)


def visible_byte_below(byte: int) -> bytes:
    """A byte below 128, where tab and LF are control characters, too."""
    if byte < 32 or byte == 127:
        return b"^" + bytes([byte ^ 64])
    return bytes([byte])


TABLE = [visible_byte(byte) for byte in range(256)]


def visible(data: bytes) -> bytes:
    """The data as cat -v prints it."""
    return b"".join([TABLE[byte] for byte in data])


class BodyLines:
    """The lines after the first empty one, without other empty lines (http@'s awk). Keeps no line in memory."""

    __slots__ = ("in_body", "in_line")

    def __init__(self) -> None:
        self.in_body = False
        self.in_line = False  # whether the line that has not ended is not empty

    def feed(self, data: bytes) -> bytes:
        """Take a piece, or b"" at the end, and return what is to be printed. A last line without LF gets one."""
        if not data:
            return b"\n" if self.in_body and self.in_line else b""
        first, *others = data.split(b"\n")
        return self.extend(first) + b"".join([self.end_line() + self.extend(part) for part in others])

    def extend(self, part: bytes) -> bytes:
        """Take more of the line."""
        self.in_line = self.in_line or bool(part)
        return part if self.in_body else b""

    def end_line(self) -> bytes:
        """Take the end of the line."""
        ended = b"\n" if self.in_body and self.in_line else b""
        self.in_body = self.in_body or not self.in_line
        self.in_line = False
        return ended
