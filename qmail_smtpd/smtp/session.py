"""The SMTP conversation: the client's bytes in, replies and decisions out to a backend. No I/O, no clock.

`feed` accepts the client's bytes in pieces of any size. The commands are in verbs.py, messages in transfer.py.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.settings import Unreadable
from qmail_smtpd.smtp.verbs import BETWEEN_CHUNKS, VERBS, answer_rcpt, rcpt, unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.backend import Backend, Refusal
    from qmail_smtpd.smtp.chunk import Chunk, ChunkedMessage
    from qmail_smtpd.smtp.message import Message
    from qmail_smtpd.smtp.session_protocol import HooksProtocol
    from qmail_smtpd.smtp.settings import Settings
    from qmail_smtpd.smtp.xclient import Attributes

    Consumer = Callable[["Session", bytes, int], int]

ERRORS = (replies.TLS_UNAVAILABLE, replies.QQ_FAILURE, replies.NOT_VERIFIED, replies.CHECK_FAILED)
ACCEPTANCES = (b"accepted", b"queued")  # events that are logged with the right to relay
LINE_LIMIT = 8192  # bytes of a command that are kept. RFC 5321 wants 512; AUTH and parameters need more


def hooks_for(settings: "Settings") -> "HooksProtocol | None":
    """Return the state of plugins in a new session, None if there are no plugins."""
    if not settings.plugins:
        return None
    from qmail_smtpd.smtp.hooks import Hooks  # loaded only where there are plugins

    return Hooks()


class Session:
    """The session of one client. It is over when `status`, the exit status, is set."""

    def __init__(self, settings: "Settings", backend: "Backend") -> None:
        self.settings = settings
        self.backend = backend
        self.status: int | None = None
        self.consume: Consumer = Session.consume_command  # unbound, to avoid a reference cycle
        self.pending = b""  # the incomplete command
        self.helo: bytes | None = None  # the client's name for itself; None if it only repeats `remotehost`
        self.hello: bytes | None = None  # the argument of HELO or EHLO as it was given
        self.protocol = b"SMTP"  # ESMTP after EHLO
        self.transactions = 0
        self.envelope = Envelope()
        self.message: Message | ChunkedMessage | None = None  # set during DATA, and from the first BDAT to the last
        self.chunk: Chunk | None = None  # of which bytes are still to come
        self.size_offered = False
        self.cipher: bytes | None = None  # None: no TLS
        self.initial_identity = settings.relayclient, settings.remoteinfo  # from the environment
        self.exchange: Callable[[bytes], None] | None = None  # during AUTH: takes the client's next line
        self.user: bytes | None = None  # the user who has logged in
        self.mechanism = b""  # by which the user has logged in
        self.senders: frozenset[bytes] | None = None  # that user's entries in authsenders
        self.failed_logins = 0
        self.unknown_recipients = 0
        self.asked_for_unknown = False  # whether unknown_recipients includes those of earlier sessions
        self.attributes: Attributes = {}  # of the client, from its proxy's XCLIENT commands
        self.waiting: list[tuple[bytes, Refusal | None, bool]] = []  # recipients: address, refusal, whether it counts
        self.saw_secret = False  # whether the client may have sent a password
        self.pipelined = False  # whether the client has sent several commands at once before it saw an EHLO reply
        self.hooks = hooks_for(settings) if settings.plugins else None
        self.counts = dict.fromkeys((b"messages", b"recipients", b"refused", b"errors"), 0)

    def greet(self) -> None:
        """Send the greeting, unless a plugin refuses the client."""
        if self.hooks is not None and not self.hooks.connect(self):
            return
        self.backend.reply(b"220 " + self.settings.greeting + b" ESMTP")

    def feed(self, data: bytes) -> None:
        """Process data from the client. Data after the end of the session is ignored."""
        if self.settings.greet_delay and not self.pipelined:
            self.look_for_pipelining(data)
        position = 0
        while position < len(data) and self.status is None:
            position = self.consume(self, data, position)
        if self.waiting:
            self.settle()

    def refuse_early_talker(self) -> None:
        """End the session of a client that has spoken before the greeting (RFC 5321 section 4.3.1)."""
        self.log(b"refused", {b"reason": b"early"})
        self.finish(1, replies.EARLY_TALKER, b"early")

    def look_for_pipelining(self, data: bytes) -> None:
        """Log once if commands come together although no EHLO reply has offered PIPELINING (RFC 2920 section 3.1)."""
        if self.protocol == b"SMTP" and not self.takes_message() and 0 <= data.find(b"\n") < len(data) - 1:
            self.pipelined = True
            self.log(b"pipelined", {})

    def settle(self) -> None:
        """Answer the recipients that wait for the relay limits, about which the backend is asked once for all."""
        waiting, self.waiting = self.waiting, []
        count = sum(counts for _, _, counts in waiting)
        granted, over = self.backend.take_relayed(self.user, count) if count else (0, None)
        for recipient, refusal, counts in waiting:
            if self.status is not None:
                return  # too many errors
            if counts:
                granted -= 1
            answer_rcpt(self, recipient, over if counts and granted < 0 else refusal)

    def rcpt_depends_on_waiting(self) -> bool:
        """Whether the waiting recipients must be answered before the next one can be decided."""
        settings = self.settings
        return (
            settings.policy_services
            or self.hooks is not None
            or 0 < settings.maxrcpt <= self.envelope.count + len(self.waiting)
            or 0 < settings.brtlimit <= self.unknown_recipients
        )

    def finish(self, status: int, reply: bytes, reason: bytes) -> None:
        """End the session and discard an unfinished message. `reply` is empty if the client has disconnected."""
        if self.message is not None:
            self.backend.abandon_queue()
            self.log_aborted(self.message, reason)
        if reply:
            self.backend.reply(reply)
        self.status = status
        self.log(b"end", {b"reason": reason, **{name: b"%d" % count for name, count in self.counts.items()}})

    def takes_message(self) -> bool:
        """Whether the client's next bytes belong to a message, or may do so."""
        return self.message is not None or self.chunk is not None

    def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
        """Log a decision, with the name from HELO or EHLO."""
        if event not in self.backend.ignored_events:
            if event in ACCEPTANCES:
                facts = {**facts, **self.relay_facts()}
            self.backend.log(event, facts if self.helo is None else {b"helo": self.helo, **facts})

    def consume_command(self, data: bytes, position: int) -> int:
        """Process one line, or store the part that has arrived, and return the position after it."""
        end = data.find(b"\n", position)
        remaining = LINE_LIMIT + 1 - len(self.pending)  # one more, to tell a CR at the end from a CR at the limit
        self.pending += data[position : min(position + remaining, end if end >= 0 else len(data))]
        if end < 0:
            return len(data)
        line, self.pending = self.pending, b""
        if line.endswith(b"\r") and len(line) <= LINE_LIMIT:
            line = line[:-1]
        cipher = self.cipher
        self.execute(line[:LINE_LIMIT])
        return end + 1 if self.cipher == cipher else len(data)  # drop what was injected before TLS (CVE-2011-0411)

    def execute(self, line: bytes) -> None:
        """Execute one command. A NUL ends the line, as in C."""
        verb, _, argument = line.partition(b"\0")[0].partition(b" ")
        try:
            if self.exchange is not None:
                self.exchange(line)
                return
            verb, argument = verb.lower(), argument.lstrip(b" ")
            if verb.startswith(b"bdat"):  # with everything after it: a part of a size would be another size
                verb, argument = b"bdat", line[4:]
            command = (VERBS if self.message is None else BETWEEN_CHUNKS).get(verb, unimplemented)
            if self.waiting and (command is not rcpt or self.rcpt_depends_on_waiting()):
                self.settle()
            if self.status is None:
                command(self, argument)
        except Unreadable as error:
            if self.waiting:
                self.settle()
            self.log(b"refused", {b"reason": b"unreadable", b"why": error.why.replace(b" ", b"_")})
            self.finish(1, error.reply, b"unreadable")

    def start_tls(self) -> None:
        """Switch to TLS and discard all state from before (RFC 3207 section 4.2), except the counts of errors.

        The client's attributes from XCLIENT also stay, except LOGIN and HELO. It may be this client that starts TLS,
        and without them it would have the rights of its proxy.
        """
        self.cipher = self.backend.start_tls()
        self.forget_hello()
        self.user = self.senders = None
        self.attributes.pop(b"HELO", None)
        self.settings.relayclient, self.settings.remoteinfo = self.initial_identity
        self.backend.set_identity(*self.initial_identity)
        if self.hooks is not None:
            self.hooks.start_tls(self)

    def become_client(self, attributes: "Attributes") -> None:
        """Begin again with the client that the proxy speaks for, or end the session if the rules deny that client.

        The attributes of several commands add up, but LOGIN counts for its own command only. The counts of errors and
        failed logins stay those of the connection.
        """
        self.attributes.update(attributes)
        self.asked_for_unknown = False
        proxy = self.settings.remoteip
        self.forget_hello()
        self.user = self.senders = None
        settings = self.backend.become_client(self.attributes)
        self.log(b"xclient", {b"proxy": proxy})
        if settings is None:
            self.log(b"refused", {b"reason": b"rules"})
            self.finish(1, replies.XCLIENT_DENIED, b"rules")
            return
        self.settings = settings
        self.hooks = hooks_for(settings)
        self.initial_identity = settings.relayclient, settings.remoteinfo
        helo, user = self.attributes.get(b"HELO"), attributes.get(b"LOGIN")
        self.hello = helo
        if helo is not None and helo.lower() != settings.remotehost.lower():
            self.helo = helo
        if user is not None:
            if self.hooks is not None and not self.hooks.auth(self, user, b"XCLIENT"):
                return
            self.log_in(user, b"XCLIENT")
            self.log(b"login", {b"result": b"yes", b"mechanism": b"XCLIENT", b"user": user})
        self.greet()

    def forget_hello(self) -> None:
        """Discard the client's HELO or EHLO, and the transaction."""
        self.helo = self.hello = None
        self.protocol, self.size_offered = b"SMTP", False
        self.discard_transaction()

    def may_log_in(self) -> bool:
        """Whether AUTH is allowed at this point: under TLS, or if it is allowed in clear."""
        return self.cipher is not None or self.settings.auth_in_clear

    def settle_offer(self) -> None:
        """Decide what AUTH offers, if that depends on the users file, or on the server that conducts the exchanges.

        Either is asked once in a session, but a server that cannot be asked is asked again.
        """
        offer = self.settings.auth
        if offer is not None and offer.scram_if_used:
            self.settings.auth = offer.with_scram(self.backend.scram_is_used())
        elif offer is not None and not offer.settled:
            mechanisms = self.backend.server_mechanisms()
            if mechanisms is not None:
                self.settings.auth = offer.of_server(mechanisms)

    def log_in(self, user: bytes, mechanism: bytes) -> None:
        """Let the user relay, and name the user in the Received line and to the queue program."""
        self.senders = self.backend.senders(user)
        self.user, self.mechanism = user, mechanism
        self.settings.relayclient = b""
        self.settings.remoteinfo = user
        self.backend.set_identity(b"", user)

    def relay_facts(self) -> dict[bytes, bytes]:
        """Return why the client may relay, for the log; nothing if it may not."""
        if self.user is not None:
            return {b"relay": b"login", b"user": self.user}
        return {} if self.settings.relayclient is None else {b"relay": b"address"}

    def answer(self, reply: bytes) -> None:
        """Send the reply to a command, unless the session has ended, and count it if it is an error.

        553 (refused recipient) does not count. Of the 4xx replies, those count that a client could get without end.
        """
        if self.status is not None:
            return
        if reply in ERRORS or (reply.startswith(b"5") and not reply.startswith(b"553")):
            self.counts[b"errors"] += 1
            if 0 < self.settings.maxerrors < self.counts[b"errors"]:
                self.log(b"refused", {b"reason": b"errors"})
                self.finish(1, replies.TOO_MANY_ERRORS, b"errors")
                return
        self.backend.reply(reply)

    def discard_transaction(self) -> None:
        """Forget sender and recipients, and the chunks of a message that is not complete."""
        if self.message is not None:
            self.backend.close_queue(None)  # waits for the queue program: a client cannot collect processes by RSET
            self.log_aborted(self.message, b"reset")
            self.message = None
        self.envelope = Envelope()

    def log_aborted(self, message: "Message | ChunkedMessage", reason: bytes) -> None:
        """Log that an incomplete message is discarded."""
        size = b"%d" % message.size
        self.log(b"aborted", {**self.envelope.facts(), b"bytes": size, b"reason": reason})

    def await_command(self) -> None:
        """Treat the following bytes as commands."""
        self.consume = Session.consume_command
