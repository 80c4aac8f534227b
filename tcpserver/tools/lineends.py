"""CR and LF: the conversions of addcr, delcr and fixcrio, for input that comes in pieces. Pure."""


def add_cr(data: bytes) -> bytes:
    """Insert a CR before each LF, also where there is one (addcr.c)."""
    return data.replace(b"\n", b"\r\n")


class CRRemover:
    """Removes one CR before each LF, and no other (delcr.c)."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = b""  # a CR at the end of a piece: the next piece tells whether an LF follows

    def feed(self, data: bytes) -> bytes:
        """Convert a piece. Empty `data` is the end of the input."""
        if not data:
            data, self.held = self.held, b""
            return data
        data = self.held + data
        self.held = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(self.held).replace(b"\r\n", b"\n")


class CRInserter:
    """Inserts a CR before each LF that has none (fixcrio.c)."""

    __slots__ = ("after_cr",)

    def __init__(self) -> None:
        self.after_cr = False

    def feed(self, data: bytes) -> bytes:
        """Convert a piece. Empty `data` is the end of the input: nothing is held back."""
        kept = b"\n" if self.after_cr and data.startswith(b"\n") else b""
        self.after_cr = data.endswith(b"\r")
        return kept + data[len(kept) :].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
