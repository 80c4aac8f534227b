"""The SMTP conversation: bytes of the client in, replies and decisions out to a backend. Does no I/O, knows no clock.

`feed` may be given the client's bytes in pieces of any size. What a command does is in verbs.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.message import Message
from qmail_smtpd.smtp.policy import Unreadable
from qmail_smtpd.smtp.verbs import VERBS, unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.backend import Backend
    from qmail_smtpd.smtp.settings import Settings

    Consumer = Callable[["Session", bytes, int], int]

LINE_LIMIT = 8192  # bytes of a command that are kept. RFC 5321 wants 512; AUTH and parameters need more


class Session:
    """One client. Over when `status`, the exit status, is set."""

    def __init__(self, settings: "Settings", backend: "Backend") -> None:
        self.settings = settings
        self.backend = backend
        self.status: int | None = None
        self.consume: Consumer = Session.take_command  # not bound: a session must not hold itself
        self.pending = b""  # a command that has not ended yet
        self.helo: bytes | None = None  # None where it tells nothing new
        self.envelope = Envelope()
        self.message: Message | None = None  # while in DATA
        self.size_offered = False
        self.cipher: bytes | None = None  # None: no TLS
        self.given = settings.relayclient, settings.remoteinfo  # as the environment has them
        self.exchange: Callable[[bytes], None] | None = None  # in AUTH: takes the client's next line
        self.user: bytes | None = None  # who has proved to be whom
        self.senders: frozenset[bytes] | None = None  # what he may call himself
        self.failed_logins = 0
        self.counts = dict.fromkeys((b"messages", b"recipients", b"refused", b"errors"), 0)

    def greet(self) -> None:
        """The first line that the client gets."""
        self.backend.reply(b"220 " + self.settings.greeting + b" ESMTP")

    def feed(self, data: bytes) -> None:
        """Take what the client sent. What follows the end of the session is not looked at."""
        position = 0
        while position < len(data) and self.status is None:
            position = self.consume(self, data, position)

    def finish(self, status: int, reply: bytes, reason: bytes) -> None:
        """End the session; a message that is not over is given up. `reply` is empty where the client is gone."""
        if self.message is not None:
            self.backend.abandon_queue()
            size = b"%d" % self.message.size
            self.log(b"aborted", {**self.envelope.facts(), b"bytes": size, b"reason": reason})
        if reply:
            self.backend.reply(reply)
        self.status = status
        self.log(b"end", {b"reason": reason, **{name: b"%d" % count for name, count in self.counts.items()}})

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        """Note a decision, with the name that the client gave itself."""
        if event not in self.backend.unheard:
            self.backend.log(event, facts if self.helo is None else {b"helo": self.helo, **facts})

    def take_command(self, data: bytes, position: int) -> int:
        """Take one line, or the part of it that is there, and return the position behind it."""
        end = data.find(b"\n", position)
        room = LINE_LIMIT + 1 - len(self.pending)  # one more, to tell a CR at the end from one at the limit
        self.pending += data[position : min(position + room, end if end >= 0 else len(data))]
        if end < 0:
            return len(data)
        line, self.pending = self.pending, b""
        if line.endswith(b"\r") and len(line) <= LINE_LIMIT:
            line = line[:-1]
        cipher = self.cipher
        self.obey(line[:LINE_LIMIT])
        return end + 1 if self.cipher == cipher else len(data)  # what was injected before TLS began (CVE-2011-0411)

    def obey(self, line: bytes) -> None:
        """Do what one command says. A NUL ends it, as C's strings do."""
        verb, _, argument = line.partition(b"\0")[0].partition(b" ")
        try:
            if self.exchange is not None:
                self.exchange(line)
                return
            VERBS.get(verb.lower(), unimplemented)(self, argument.lstrip(b" "))
        except Unreadable as trouble:
            self.log(b"refused", {b"reason": b"unreadable", b"why": trouble.why.replace(b" ", b"_")})
            self.finish(1, trouble.reply, b"unreadable")

    def secure(self) -> None:
        """Change to TLS, and forget all that was said without it (RFC 3207 section 4.2), but not how many errors."""
        self.cipher = self.backend.start_tls()
        self.helo, self.envelope, self.size_offered = None, Envelope(), False
        self.user = self.senders = None
        self.settings.relayclient, self.settings.remoteinfo = self.given
        self.backend.identify(*self.given)

    def may_log_in(self) -> bool:
        """Whether a password may be said now."""
        return self.cipher is not None or self.settings.auth_in_clear

    def identify(self, user: bytes) -> None:
        """From now on the client is this user, who may relay; for the Received line and the queue program, too."""
        self.senders = self.backend.senders(user)
        self.user = user
        self.settings.relayclient = b""
        self.settings.remoteinfo = user
        self.backend.identify(b"", user)

    def answer(self, reply: bytes) -> None:
        """Reply to a command. Failed ones are counted; a refused recipient (553) is no failure of the client's."""
        if reply.startswith(b"5") and not reply.startswith(b"553"):
            self.counts[b"errors"] += 1
            if 0 < self.settings.maxerrors < self.counts[b"errors"]:
                self.log(b"refused", {b"reason": b"errors"})
                self.finish(1, replies.TOO_MANY_ERRORS, b"errors")
                return
        self.backend.reply(reply)

    def begin_message(self) -> None:
        """From the next byte on it is a message."""
        self.message = Message(self.settings.databytes, self.settings.refuse_bare_cr)
        self.consume = Session.take_message

    def take_message(self, data: bytes, position: int) -> int:
        """Take a part of the message and return the position behind it."""
        message = self.message
        assert message is not None
        text = message.feed(data[position:])
        if text:
            self.backend.write_message(text)
        if message.stray:
            self.finish(1, replies.STRAY_NEWLINE, b"stray-newline")
        elif message.ended:
            self.deliver(message)
        return len(data) - len(message.rest)

    def deliver(self, message: Message) -> None:
        """Hand the envelope over, unless the message is not to be queued, and tell the client what became of it."""
        why = {b"bytes": b"%d" % message.size}
        refusal = message.refusal()
        if refusal:
            self.backend.close_queue(None)
            reply, why[b"reason"] = refusal
        else:
            reply = self.backend.close_queue(self.envelope.complete())
        if reply.startswith(b"2"):
            self.counts[b"messages"] += 1
            self.log(b"queued", {**self.envelope.facts(), **why, b"qp": reply.rpartition(b" ")[2]})
        else:
            why.setdefault(b"reason", b"queue")
            self.log(b"rejected", {**self.envelope.facts(), **why, b"reply": reply.replace(b" ", b"_")})
        self.message = None
        self.envelope = Envelope()
        self.consume = Session.take_command
        self.answer(reply)
