"""The mechanisms of SMTP AUTH as generators. Pure.

A generator yields each challenge and is sent the client's response, both without base64. It returns Credentials to be
checked, or VerifiedUser if the mechanism has checked the login itself. PLAIN is RFC 4616, CRAM-MD5 RFC 2195; for LOGIN
there is only draft-murchison-sasl-login.
"""

from binascii import Error, a2b_base64, b2a_base64

from qmail_smtpd.smtp.replies import AUTH_FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Protocol

    Steps = Generator[bytes, bytes, "Credentials | VerifiedUser"]

    class ScramServer(Protocol):
        """The server's side of a SCRAM exchange. `step` raises Malformed and LoginRefused."""

        @property
        def user(self) -> bytes: ...

        @property
        def done(self) -> bool: ...

        def step(self, client: bytes) -> bytes: ...

    class PassedOn(Protocol):
        """An exchange that another server conducts. Its methods return a challenge, None once `user` has logged in.

        They raise LoginRefused. `abandon` ends an exchange that the client does not continue.
        """

        user: bytes

        def begin(self, initial: bytes | None) -> bytes | None: ...

        def step(self, response: bytes) -> bytes | None: ...

        def abandon(self) -> None: ...


CANCEL = b"*"  # RFC 4954 section 4: a client's line that ends the exchange
LONGEST = 8000  # bytes of a response: less than a session keeps of a line
OTHER_AUTHZID = b"authzid"  # the word for the log
EMPTY = b"="  # RFC 4954 section 4: an empty initial response


class Malformed(Exception):
    """The client's response has the wrong form."""


class Cancelled(Exception):
    """The client has cancelled the exchange."""


class LoginRefused(Exception):
    """A mechanism that checks the login itself has refused it. `reason` is for the log."""

    def __init__(self, reply: bytes, reason: bytes, user: bytes) -> None:
        super().__init__(reply, reason, user)
        self.reply = reply
        self.reason = reason
        self.user = user


class VerifiedUser:
    """A user whose login the mechanism has checked already."""

    __slots__ = ("user",)

    def __init__(self, user: bytes) -> None:
        self.user = user


class Credentials:
    """A login to be checked. `proof`: the password, or with `challenge` the CRAM-MD5 response. Raises Malformed."""

    __slots__ = ("challenge", "proof", "user")

    def __init__(self, user: bytes, proof: bytes, challenge: bytes = b"") -> None:
        if not user or not proof or b"\0" in user + proof:  # a NUL would shift the fields of descriptor 3
            raise Malformed
        self.user = user
        self.proof = proof
        self.challenge = challenge

    def fields(self, challenge_first: bool, empty_third: bool) -> bytes:
        """Return the fields for a checker's descriptor 3. `empty_third`: add an empty third field after a password."""
        fields = [self.user, self.proof]
        if self.challenge:
            fields.insert(1 if challenge_first else 2, self.challenge)
        elif empty_third:
            fields.append(b"")
        return b"\0".join(fields) + b"\0"


def plain(initial: bytes | None) -> "Steps":
    """PLAIN: authzid NUL user NUL password. The authzid may only name the user: nobody may act as another."""
    fields = (initial if initial is not None else (yield b"")).split(b"\0")
    if len(fields) != 3:
        raise Malformed
    authzid, user, password = fields
    credentials = Credentials(user, password)
    if authzid and authzid != user:
        raise LoginRefused(AUTH_FAILED, OTHER_AUTHZID, user)
    return credentials


def login(initial: bytes | None) -> "Steps":
    """LOGIN: two questions. The initial response may answer the first."""
    user = initial if initial is not None else (yield b"Username:")
    if not user or b"\0" in user:
        raise Malformed
    return Credentials(user, (yield b"Password:"))


def cram_md5(challenge: bytes) -> "Steps":
    """CRAM-MD5: user SP hexadecimal digest, split at the last space because a name may contain spaces."""
    user, _, digest = (yield challenge).rpartition(b" ")
    return Credentials(user, digest, challenge)


def scram(initial: bytes | None, server: "ScramServer") -> "Steps":
    """SCRAM (RFC 5802) in the form of RFC 4954: the server's final message is a challenge with an empty response."""
    message = initial if initial is not None else (yield b"")
    while not server.done:
        message = yield server.step(message)
    if message:
        raise Malformed
    return VerifiedUser(server.user)


def passed_on(initial: bytes | None, server: "PassedOn") -> "Steps":
    """Any mechanism, step by step between the client and the server that conducts the exchange."""
    ended = False
    try:
        challenge = server.begin(initial)
        while challenge is not None:
            challenge = server.step((yield challenge))
        ended = True
    except LoginRefused:
        ended = True
        raise
    finally:
        if not ended:
            server.abandon()
    return VerifiedUser(server.user)


def decode(line: bytes) -> bytes:
    """Decode a response line. Raises Cancelled, Malformed."""
    if line == CANCEL:
        raise Cancelled
    return decode_base64(line)


def decode_initial(argument: bytes) -> bytes | None:
    """Decode the initial response, the text after the mechanism's name; None if there is none. Raises Malformed."""
    if argument == EMPTY:
        return b""
    return decode_base64(argument) if argument else None


def decode_base64(text: bytes) -> bytes:
    """Decode strictly: refuse invalid characters, and text so long that it may have been cut. Raises Malformed."""
    if len(text) > LONGEST:
        raise Malformed
    try:
        return a2b_base64(text, strict_mode=True)
    except Error as error:
        raise Malformed from error


def encode(challenge: bytes) -> bytes:
    """Encode a challenge for the 334 reply."""
    return b2a_base64(challenge, newline=False)
