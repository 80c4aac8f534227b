"""Sender and recipients of the message that is being put together, as the queue program wants them. Pure."""


class Envelope:
    """`sender` is None before MAIL. Recipients are kept in the queue's form, which costs no more than their bytes."""

    __slots__ = ("count", "recipients", "sender", "sender_is_bad")

    def __init__(self, sender: bytes | None = None, sender_is_bad: bool = False) -> None:
        self.sender = sender
        self.sender_is_bad = sender_is_bad
        self.recipients = bytearray()  # T address NUL, again and again
        self.count = 0

    def add(self, recipient: bytes) -> None:
        """Take one more recipient. Duplicates stay, and so do order and letter case."""
        self.recipients += b"T" + recipient + b"\0"
        self.count += 1

    def complete(self) -> bytes:
        """The whole envelope. Its last NUL makes a message of it: nothing else writes one (qmail.c, qmail_close)."""
        return b"".join((b"F", self.sender or b"", b"\0", self.recipients, b"\0"))

    def facts(self) -> dict[bytes, bytes]:
        """Whose message it is, for the log."""
        return {b"sender": self.sender or b"", b"recipients": b"%d" % self.count}
