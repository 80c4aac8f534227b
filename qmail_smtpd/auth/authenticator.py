"""Check logins for SMTP AUTH: by a checker, $SMTPAUTHFILE or Dovecot; challenges, and the pause after a failure.

`configure` decides from the arguments and the environment what a session offers. Loaded only if they ask for AUTH.
"""

import os
from _frozen_importlib_external import PathFinder  # every interpreter has loaded it, unlike importlib.machinery
from time import monotonic, sleep, time

from qmail_smtpd.auth.arguments import Checkers, Refused, parse
from qmail_smtpd.auth.errors import WRONG_PASSWORD, WRONG_SCHEME, UnsuitableScheme
from qmail_smtpd.control import leading_digits
from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.offer import (
    CRAM_MD5,
    Offer,
    ineffective_for_server,
    ineffective_words,
    parse_for_server,
    parse_smtpauth,
)
from qmail_smtpd.smtp.received import filtered

TYPE_CHECKING = False
if TYPE_CHECKING:
    Environ = dict[bytes, bytes]
    Refusal = tuple[bytes, bytes]

AUTHSLEEP = 5  # seconds: qmail-smtpd.c of qmail-authentication 0.8.x
RANDOM_BYTES = 16
CRAM_ORDERS = {b"challenge-first": True, b"response-first": False}


class Authenticator:
    """Checks credentials, with checkers or a users file, or passes exchanges on to Dovecot, at `socket`.

    `pause_seconds`: the pause after a failure; `empty_third`: a checker gets a third field even if it is empty.
    """

    __slots__ = (
        "challenge_first",
        "checkers",
        "empty_third",
        "host",
        "pause_seconds",
        "socket",
        "trouble",
        "users_file",
    )

    def __init__(
        self, checkers: Checkers | None, users_file: bytes | None, environ: "Environ", socket: bytes = b""
    ) -> None:
        self.socket = socket
        self.trouble = b""  # why Dovecot could not be asked
        self.checkers = checkers
        self.users_file = users_file
        self.pause_seconds = float(AUTHSLEEP)
        self.challenge_first = checkers is not None and checkers.old
        self.empty_third = True
        local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", b"unknown"))
        self.host = filtered(local if checkers is None or checkers.host is None else checkers.host)

    def challenge(self) -> bytes:
        """Return a new, unpredictable message id."""
        return b"<%s.%d@%s>" % (os.urandom(RANDOM_BYTES).hex().encode(), time(), self.host)

    def login_refusal(
        self, credentials: sasl.Credentials, environ: "Environ", deadline: float | None
    ) -> "Refusal | None":
        """Return None if the credentials are right, else the reply and the reason for the log."""
        if self.users_file is not None:
            return self.look_up(self.users_file, credentials)
        return self.run_checker(credentials, environ, deadline)

    def run_checker(
        self, credentials: sasl.Credentials, environ: "Environ", deadline: float | None
    ) -> "Refusal | None":
        """Check the credentials with the checker."""
        from qmail_smtpd.auth.checkpassword import LONGEST_FIELDS, check

        assert self.checkers is not None
        fields = credentials.fields(self.challenge_first, self.empty_third)
        if len(fields) > LONGEST_FIELDS:
            return replies.AUTH_FAILED, b"too-long"
        command = self.checkers.cram_command if credentials.challenge else self.checkers.password_command
        try:
            reason = check(command, environ, fields, deadline)
        except OSError as error:
            return replies.AUTH_NO_CHILD, b"start:" + error_word(error)
        if reason is None:
            return None
        wrong = reason in (WRONG_PASSWORD, WRONG_SCHEME)
        return replies.AUTH_FAILED if wrong else replies.AUTH_NOT_CHECKED, reason

    def look_up(self, users_file: bytes, credentials: sasl.Credentials) -> "Refusal | None":
        """Check the credentials with the users file, which is read at each login."""
        from qmail_smtpd.auth import users

        try:
            if credentials.challenge:
                right = users.verify_digest(users_file, credentials.user, credentials.challenge, credentials.proof)
            else:
                right = users.verify(users_file, credentials.user, credentials.proof)
        except UnsuitableScheme:
            return replies.AUTH_FAILED, WRONG_SCHEME
        except users.CannotVerify as error:
            return replies.AUTH_NOT_CHECKED, error.why.replace(b" ", b"_")
        return None if right else (replies.AUTH_FAILED, WRONG_PASSWORD)

    def scram_is_used(self) -> bool:
        """Whether the users file has a password that SCRAM-SHA-256 can use, and the package for SCRAM is there."""
        from qmail_smtpd.auth import users

        assert self.users_file is not None
        try:
            return PathFinder.find_spec("scramp") is not None and users.has_scram_password(self.users_file)
        except users.CannotVerify:
            return False

    def scram(self) -> "sasl.ScramServer":
        """Return the server's side of a new SCRAM exchange."""
        assert self.users_file is not None
        return ScramExchange(self.users_file)

    def server_mechanisms(self, deadline: float | None) -> tuple[bytes, ...] | None:
        """Return the mechanisms that Dovecot offers, None if it cannot be asked."""
        from qmail_smtpd.auth.dovecot import Trouble
        from qmail_smtpd.auth.exchange import offered

        try:
            return offered(self.socket, deadline)
        except Trouble as trouble:
            self.trouble = trouble.why
            return None

    def pass_on(self, mechanism: bytes, environ: "Environ", name: bytes, deadline: float | None) -> "sasl.PassedOn":
        """Return a new exchange that Dovecot conducts. `name`: what the client has asked for in its TLS handshake."""
        from qmail_smtpd.auth.exchange import Exchange, parameters

        return Exchange(self.socket, mechanism, parameters(b"smtp", environ, name), deadline)

    def pause(self, deadline: float | None) -> None:
        """Delay a client that may be guessing passwords, but not beyond the session's deadline."""
        remaining = self.pause_seconds if deadline is None else min(self.pause_seconds, deadline - monotonic())
        if remaining > 0:
            sleep(remaining)


class ScramExchange:
    """A SCRAM exchange for users in the users file, with the errors of smtp/sasl."""

    __slots__ = ("server",)

    def __init__(self, users_file: bytes) -> None:
        from qmail_smtpd.auth.scram import Scram

        self.server = Scram(users_file)

    @property
    def user(self) -> bytes:
        return self.server.user

    @property
    def done(self) -> bool:
        return self.server.done

    def step(self, client: bytes) -> bytes:
        """Return the server's next message."""
        from qmail_smtpd.auth import scram, users

        try:
            return self.server.step(client)
        except scram.Malformed as error:
            raise sasl.Malformed from error
        except scram.OtherAuthzid as error:
            raise sasl.LoginRefused(replies.AUTH_FAILED, sasl.OTHER_AUTHZID, self.user) from error
        except scram.WrongProof as error:
            reason = WRONG_SCHEME if self.server.unsuitable else WRONG_PASSWORD
            raise sasl.LoginRefused(replies.AUTH_FAILED, reason, self.user) from error
        except users.CannotVerify as error:
            why = error.why.replace(b" ", b"_")
            raise sasl.LoginRefused(replies.AUTH_NOT_CHECKED, why, self.user) from error


def error_word(error: OSError) -> bytes:
    """Return djb's text for the error, without spaces."""
    from tcprules.strerr import reason

    return reason(error).encode().replace(b" ", b"_")


def configure(
    arguments: list[bytes], environ: "Environ", warnings: list[bytes], socket: bytes = b""
) -> "tuple[Offer, Authenticator | None]":
    """Return what is offered, and the authenticator. Append a warning for each mistake. A bad checker means no AUTH.

    `socket`: the path of Dovecot's socket. If it is set, arguments and users file have no effect.
    """
    users_file = environ.get(b"SMTPAUTHFILE")
    if socket:
        if users_file is not None:
            warnings.append(b"SMTPAUTHFILE has no effect beside SMTPAUTHSOCKET")
        authenticator = Authenticator(None, None, environ, socket)
        words = environ.get(b"SMTPAUTH") or b""
        warnings += [b"SMTPAUTH: " + word + b" has no effect" for word in ineffective_for_server(words)]
        read_variables(authenticator, environ, warnings)
        return parse_for_server(words), authenticator
    checkers = None
    if users_file is None:
        try:
            checkers = parse(arguments, lambda name: is_program(name, environ))
        except Refused as refusal:
            warnings.append(b"AUTH is not offered: " + refusal.args[0])
    smtpauth = environ.get(b"SMTPAUTH")
    if users_file is None and checkers is None:
        return Offer((), required=parse_smtpauth(smtpauth, False).required), None
    authenticator = Authenticator(checkers, users_file, environ)
    if users_file is None:
        assert checkers is not None
        offered = parse_smtpauth(smtpauth, checkers.old)
        authenticator.empty_third = checkers.old or CRAM_MD5 in offered.mechanisms
    else:
        offered = parse_smtpauth(smtpauth or b"", False, users_file=True)
    for word in ineffective_words(smtpauth or b"", users_file is not None):
        warnings.append(b"SMTPAUTH: " + word + b" has no effect")
    read_variables(authenticator, environ, warnings)
    return offered, authenticator


def read_variables(authenticator: Authenticator, environ: "Environ", warnings: list[bytes]) -> None:
    """Apply $AUTHSLEEP and $CRAMORDER."""
    pause = environ.get(b"AUTHSLEEP")
    if pause is not None:
        digits = leading_digits(pause)
        if digits:
            authenticator.pause_seconds = min(float(digits), 1e6)
            if digits != pause.rstrip(b" \t"):
                warnings.append(b"AUTHSLEEP has more than digits: using %d" % authenticator.pause_seconds)
        else:
            warnings.append(b"AUTHSLEEP does not begin with a digit: using %d" % AUTHSLEEP)
    order = environ.get(b"CRAMORDER")
    if order in CRAM_ORDERS:
        authenticator.challenge_first = CRAM_ORDERS[order]
    elif order is not None:
        warnings.append(b"CRAMORDER must be challenge-first or response-first: ignored")


def is_program(name: bytes, environ: "Environ") -> bool:
    """Whether exec would find a program of that name in the session's PATH."""
    from tcpserver.chain import candidates

    return any(os.access(path, os.X_OK) and os.path.isfile(path) for path in candidates(name, environ))
