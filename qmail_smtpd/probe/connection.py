"""The connection of a run: opened on demand, opened again after failures, closed after some probes. One at a time."""

import time
from collections.abc import Callable
from typing import NamedTuple

from qmail_smtpd.probe.conversation import SILENT, Conversation, Reply
from qmail_smtpd.probe.transport import Transport

ATTEMPTS = 3  # attempts to open a conversation
WAITS = (1.0, 5.0)  # seconds between the attempts, limited by Pace.again
NOT_TRIED = Reply()

Dial = Callable[[], Transport]


class Pace(NamedTuple):
    """Time limits and pauses in seconds, and the number of probes for one connection."""

    timeout: float = 30.0  # for one answer
    pause: float = 0.1  # between probes
    again: float = 30.0  # until a probe with a 4xx answer is repeated
    total: float = 3600.0  # for the whole run
    per_connection: int = 9  # probes: after 10 errors Postfix delays its replies (postconf(5) smtpd_soft_error_limit)


class NoConnection(Exception):
    """No connection was ever established. The text is the system's."""


class NoConversation(Exception):
    """No conversation can be opened. `greeting` is what the server sent, if anything."""

    def __init__(self, why: str, greeting: Reply) -> None:
        super().__init__(why)
        self.greeting = greeting


class Connection:
    """The current connection, if any. `used` counts its probes."""

    def __init__(self, dial: Dial, pace: Pace) -> None:
        self.dial, self.pace = dial, pace
        self.conversation: Conversation | None = None
        self.used = 0
        self.connected_ever = False

    def shared(self, hello: bytes) -> Conversation:
        """Return the open conversation, or open one. Raise NoConversation, NoConnection."""
        if self.conversation is None:
            self.conversation = self.open(b"", hello)
        return self.conversation

    def fresh(self, preamble: bytes, hello: bytes) -> Conversation:
        """Open a new conversation. Raise NoConversation, NoConnection."""
        self.close()
        self.conversation = self.open(preamble, hello)
        return self.conversation

    def open(self, preamble: bytes, hello: bytes) -> Conversation:
        """Connect, read the greeting, and send EHLO. Retry if the server is temporarily unavailable."""
        failure = NoConversation("", NOT_TRIED)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(WAITS[attempt - 1], self.pace.again))
            try:
                transport = self.dial()
            except OSError as error:
                if not self.connected_ever:
                    raise NoConnection(error.strerror or str(error)) from error
                failure = NoConversation(f"no connection: {error.strerror or error}", NOT_TRIED)
                continue
            self.connected_ever = True
            conversation = Conversation(transport, self.pace.timeout)
            why = conversation.open(preamble, hello)
            if not why:
                self.used = 0
                return conversation
            failure = NoConversation(why, conversation.greeting)
            conversation.close()
            if conversation.greeting.kind == 5 or why == SILENT:
                break
        raise failure

    def finish(self, keep: bool) -> None:
        """End a probe with RSET. Close the connection if it cannot be used for the next probe."""
        self.used += 1
        if not (self.reset() and keep and self.used < self.pace.per_connection):
            self.close()

    def reset(self) -> bool:
        """Send RSET. Return whether the server has accepted it."""
        return self.conversation is not None and self.conversation.command(b"RSET").kind == 2

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.conversation:
            self.conversation.close()
        self.conversation = None
