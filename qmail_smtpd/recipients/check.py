"""Decide for one session whether a recipient exists."""

from qmail_smtpd.recipients.listed import Listed, Lists
from qmail_smtpd.smtp import replies


class Recipients:
    """What this session asks about a recipient. Its files are open."""

    __slots__ = ("listed",)

    def __init__(self, lists: Lists | None) -> None:
        """`lists`: control/validrcptto and its cdb, None without them. Raises Unreadable."""
        self.listed = None if lists is None else Listed(lists)

    def close(self) -> None:
        """Close the files."""
        if self.listed:
            self.listed.close()

    def refusal(self, recipient: bytes) -> tuple[bytes, bytes] | None:
        """Return why the recipient is refused, None if it may exist. Raises Unreadable."""
        if self.listed and self.listed.verdict(recipient) is False:
            return replies.UNKNOWN, b"unknown"
        return None
