"""Sender and recipients of the current message, in the queue program's format. Pure."""


class Envelope:
    """`sender` is None before MAIL. Recipients are kept in the queue's format, which costs only their bytes."""

    __slots__ = ("count", "headers", "parameters", "recipients", "sender", "sender_is_bad", "utf8")

    def __init__(self, sender: bytes | None = None, sender_is_bad: bool = False, parameters: bytes = b"") -> None:
        self.sender = sender
        self.sender_is_bad = sender_is_bad
        self.parameters = parameters  # of MAIL
        self.utf8 = False  # whether MAIL had the parameter SMTPUTF8, and it was offered
        self.headers = b""  # for the beginning of the message
        self.recipients = bytearray()  # T address NUL, repeated
        self.count = 0

    def add(self, recipient: bytes) -> None:
        """Add a recipient. Duplicates, order and letter case are kept."""
        self.recipients += b"T" + recipient + b"\0"
        self.count += 1

    def complete(self) -> bytes:
        """Return the whole envelope. Only its last NUL makes the message valid (qmail.c, qmail_close)."""
        return b"".join((b"F", self.sender or b"", b"\0", self.recipients, b"\0"))

    def facts(self) -> dict[bytes, bytes]:
        """Return sender and number of recipients, for the log."""
        return {b"sender": self.sender or b"", b"recipients": b"%d" % self.count}
