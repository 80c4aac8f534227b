"""What AUTH needs of the world: the checkers or $SMTPAUTHFILE, a challenge, the pause after a failure.

Which of it a session has is arranged from its words and its environment, and only where they ask for AUTH.
"""

import os
from time import monotonic, sleep, time

from qmail_smtpd.auth.words import Refused, Words, parse
from qmail_smtpd.control import leading_digits
from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.offer import CRAM_MD5, Offer, parse_smtpauth
from qmail_smtpd.smtp.received import filtered

TYPE_CHECKING = False
if TYPE_CHECKING:
    Environ = dict[bytes, bytes]
    Refusal = tuple[bytes, bytes]

AUTHSLEEP = 5  # seconds: qmail-smtpd.c of qmail-authentication 0.8.x
RANDOM_BYTES = 16
ORDERS = {b"challenge-first": True, b"response-first": False}


class Gate:
    """Who gets in. `seconds`: the pause after a failure; `third`: a checker gets a third field even if it is empty."""

    __slots__ = ("challenge_first", "file", "host", "seconds", "third", "words")

    def __init__(self, words: Words | None, file: bytes | None, environ: "Environ") -> None:
        self.words = words
        self.file = file
        self.seconds = float(AUTHSLEEP)
        self.challenge_first = words is not None and words.old
        self.third = True
        local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", b"unknown"))
        self.host = filtered(local if words is None or words.host is None else words.host)

    def challenge(self) -> bytes:
        """A message id that was never used before and that nobody can guess."""
        return b"<%s.%d@%s>" % (os.urandom(RANDOM_BYTES).hex().encode(), time(), self.host)

    def login_refusal(
        self, credentials: sasl.Credentials, environ: "Environ", deadline: float | None
    ) -> "Refusal | None":
        """None if these are right; else the reply, and a word for the log."""
        if self.file is not None:
            return self.look_up(self.file, credentials)
        return self.ask(credentials, environ, deadline)

    def ask(self, credentials: sasl.Credentials, environ: "Environ", deadline: float | None) -> "Refusal | None":
        """Run the checker."""
        from qmail_smtpd.auth.checkpassword import LONGEST_FIELDS, NO, why_not

        assert self.words is not None
        fields = credentials.fields(self.challenge_first, self.third)
        if len(fields) > LONGEST_FIELDS:
            return replies.AUTH_FAILED, b"too-long"
        try:
            reason = why_not(
                self.words.cram if credentials.challenge else self.words.checker, environ, fields, deadline
            )
        except OSError as error:
            return replies.AUTH_NO_CHILD, b"start:" + word(error)
        if reason is None:
            return None
        return replies.AUTH_FAILED if reason == NO else replies.AUTH_NOT_CHECKED, reason

    def look_up(self, file: bytes, credentials: sasl.Credentials) -> "Refusal | None":
        """Ask the file of users, which is read anew each time."""
        from qmail_smtpd.auth import users

        try:
            if credentials.challenge:
                right = users.verify_digest(file, credentials.user, credentials.challenge, credentials.proof)
            else:
                right = users.verify(file, credentials.user, credentials.proof)
        except users.Trouble as trouble:
            return replies.AUTH_NOT_CHECKED, trouble.why.replace(b" ", b"_")
        return None if right else (replies.AUTH_FAILED, b"password")

    def scram(self) -> "sasl.ScramServer":
        """The server's half of one SCRAM exchange."""
        assert self.file is not None
        return ScramExchange(self.file)

    def pause(self, deadline: float | None) -> None:
        """Let a client that guesses wait, but not longer than its session may last."""
        left = self.seconds if deadline is None else min(self.seconds, deadline - monotonic())
        if left > 0:
            sleep(left)


class ScramExchange:
    """One exchange with the file of users, whose failures are the dialogue's."""

    __slots__ = ("server",)

    def __init__(self, file: bytes) -> None:
        from qmail_smtpd.auth.scram import Scram

        self.server = Scram(file)

    @property
    def user(self) -> bytes:
        return self.server.user

    @property
    def done(self) -> bool:
        return self.server.done

    def step(self, client: bytes) -> bytes:
        """The server's next message."""
        from qmail_smtpd.auth import scram, users

        try:
            return self.server.step(client)
        except scram.Malformed as error:
            raise sasl.Malformed from error
        except scram.Wrong as error:
            raise sasl.LoginRefused(replies.AUTH_FAILED, b"password", self.user) from error
        except users.Trouble as trouble:
            raise sasl.LoginRefused(replies.AUTH_NOT_CHECKED, trouble.why.replace(b" ", b"_"), self.user) from trouble


def word(error: OSError) -> bytes:
    """What went wrong, in djb's words, without blanks."""
    from tcprules.strerr import reason

    return reason(error).encode().replace(b" ", b"_")


def arrange(arguments: list[bytes], environ: "Environ", warnings: list[bytes]) -> "tuple[Offer, Gate | None]":
    """What is offered, and who decides. What makes no sense is named in `warnings`, and offers nothing."""
    file = environ.get(b"SMTPAUTHFILE")
    words = None
    if file is None:
        try:
            words = parse(arguments, is_program)
        except Refused as refusal:
            warnings.append(b"AUTH is not offered: " + refusal.args[0])
    smtpauth = environ.get(b"SMTPAUTH")
    if file is None and words is None:
        return Offer((), required=parse_smtpauth(smtpauth, False).required), None
    gate = Gate(words, file, environ)
    if file is None:
        assert words is not None
        offered = parse_smtpauth(smtpauth, words.old)
        gate.third = words.old or CRAM_MD5 in offered.mechanisms
    else:
        offered = parse_smtpauth(b"" if smtpauth is None else smtpauth, False).with_scram()
    read_habits(gate, environ, warnings)
    return offered, gate


def read_habits(gate: Gate, environ: "Environ", warnings: list[bytes]) -> None:
    """$AUTHSLEEP and $CRAMORDER."""
    pause = environ.get(b"AUTHSLEEP")
    if pause is not None:
        digits = leading_digits(pause)
        if digits:
            gate.seconds = min(float(digits), 1e6)
        else:
            warnings.append(b"AUTHSLEEP does not begin with a digit: it is %d" % AUTHSLEEP)
    order = environ.get(b"CRAMORDER")
    if order in ORDERS:
        gate.challenge_first = ORDERS[order]
    elif order is not None:
        warnings.append(b"CRAMORDER is neither challenge-first nor response-first: ignored")


def is_program(name: bytes) -> bool:
    """Whether exec would find a file of that name in PATH."""
    from tcpserver.chain import candidates

    return any(os.access(path, os.X_OK) and os.path.isfile(path) for path in candidates(name))
