"""The connection of a run: opened when it is needed, again after trouble, ended after so many probes. One at a time."""

import time
from collections.abc import Callable
from typing import NamedTuple

from qmail_smtpd.probe.conversation import SILENT, Conversation, Reply
from qmail_smtpd.probe.transport import Transport

ATTEMPTS = 3  # to get a conversation
WAITS = (1.0, 5.0)  # seconds between them, and never more than until a 4xx is asked again
NOT_TRIED = Reply()

Dial = Callable[[], Transport]


class Pace(NamedTuple):
    """How patient, and how gentle. Seconds, but for `per_connection`."""

    timeout: float = 30.0  # for one answer
    pause: float = 0.1  # between probes
    again: float = 30.0  # until what got a 4xx is asked again
    total: float = 3600.0  # for the whole run
    per_connection: int = (
        9  # probes: with 10 errors Postfix makes its clients wait (postconf(5) smtpd_soft_error_limit)
    )


class NoConnection(Exception):
    """There was never one; the text is the system's."""


class Lost(Exception):
    """No conversation can be had, and what the server's greeting was, if there was one."""

    def __init__(self, why: str, greeting: Reply) -> None:
        super().__init__(why)
        self.greeting = greeting


class Connection:
    """What is open now, if anything is."""

    def __init__(self, dial: Dial, pace: Pace) -> None:
        self.dial, self.pace = dial, pace
        self.conversation: Conversation | None = None
        self.used = 0
        self.connected_ever = False

    def shared(self, hello: bytes) -> Conversation:
        """The conversation that is open, or a new one. Raises Lost, NoConnection."""
        if self.conversation is None:
            self.conversation = self.open(b"", hello)
        return self.conversation

    def fresh(self, preamble: bytes, hello: bytes) -> Conversation:
        """A new conversation. Raises Lost, NoConnection."""
        self.hang_up()
        self.conversation = self.open(preamble, hello)
        return self.conversation

    def open(self, preamble: bytes, hello: bytes) -> Conversation:
        """Connect, be greeted, greet. Tried again where the server has no time just now."""
        lost = Lost("", NOT_TRIED)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(WAITS[attempt - 1], self.pace.again))
            try:
                transport = self.dial()
            except OSError as error:
                if not self.connected_ever:
                    raise NoConnection(error.strerror or str(error)) from error
                lost = Lost(f"no connection: {error.strerror or error}", NOT_TRIED)
                continue
            self.connected_ever = True
            conversation = Conversation(transport, self.pace.timeout)
            why = conversation.begin(preamble, hello)
            if not why:
                self.used = 0
                return conversation
            lost = Lost(why, conversation.greeting)
            conversation.close()
            if conversation.greeting.kind == 5 or why == SILENT:
                break
        raise lost

    def finish(self, keep: bool) -> None:
        """A probe is over: RSET, and the end of the connection where it cannot serve for the next one."""
        self.used += 1
        if not (self.reset() and keep and self.used < self.pace.per_connection):
            self.hang_up()

    def reset(self) -> bool:
        """Whether the server has forgotten the probe."""
        return self.conversation is not None and self.conversation.command(b"RSET").kind == 2

    def hang_up(self) -> None:
        """End the connection, if there is one."""
        if self.conversation:
            self.conversation.close()
        self.conversation = None
