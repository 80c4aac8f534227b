"""Decide for one session whether a recipient exists: the lists first, then the program in $RCPTCHECK."""

from qmail_smtpd.recipients.listed import Listed, Lists
from qmail_smtpd.smtp import replies

FAILURE = b"rcptcheck:"  # begins the reason for the log if the program does not decide


class Recipients:
    """What this session asks about a recipient. Its files are open."""

    __slots__ = ("listed", "program")

    def __init__(self, lists: Lists | None, program: bytes | None) -> None:
        """`lists`: control/validrcptto and its cdb. `program`: $RCPTCHECK. Either may be None. Raises Unreadable."""
        self.listed = None if lists is None else Listed(lists)
        self.program = program

    def close(self) -> None:
        """Close the files."""
        if self.listed:
            self.listed.close()

    def refusal(
        self, sender: bytes, recipient: bytes, helo: bytes, environ: dict[bytes, bytes], deadline: float | None
    ) -> tuple[bytes, bytes] | None:
        """Return the reply and the reason for the log, None if the recipient may exist. Raises Unreadable."""
        if self.listed and self.listed.verdict(recipient) is False:
            return replies.UNKNOWN, b"unknown"
        if self.program is None:
            return None
        from qmail_smtpd.recipients import rcptcheck

        answer = rcptcheck.ask(self.program, environ, sender, recipient, helo, deadline)
        if answer is None:
            return None
        if answer == rcptcheck.REFUSED:
            return replies.UNKNOWN, b"unknown"
        reply = replies.NOT_VERIFIED if answer == b"exit-%d" % rcptcheck.LATER else replies.CHECK_FAILED
        return reply, FAILURE + answer
