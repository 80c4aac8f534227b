"""The mechanisms of SMTP AUTH as steps: bytes of the client in, challenges and at last credentials out. Pure.

A mechanism is a generator. It yields what the client is to be asked and is sent the answer, both without their base64;
it returns Credentials, or Proven where they are checked already. PLAIN is RFC 4616, CRAM-MD5 RFC 2195; of LOGIN there
is only draft-murchison-sasl-login.
"""

from binascii import Error, a2b_base64, b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Protocol

    Steps = Generator[bytes, bytes, "Credentials | Proven"]

    class ScramServer(Protocol):
        """The server's half of SCRAM. `step` raises Malformed and Failed."""

        @property
        def user(self) -> bytes: ...

        @property
        def done(self) -> bool: ...

        def step(self, client: bytes) -> bytes: ...


CANCEL = b"*"  # RFC 4954 section 4: a client's line that ends the exchange
LONGEST = 8000  # bytes: less than a session keeps of a line
EMPTY = b"="  # there, an initial response without content


class Malformed(Exception):
    """The client's answer is none."""


class Cancelled(Exception):
    """The client does not want to go on."""


class Failed(Exception):
    """The login of this user is refused before there are credentials: the reply, and a word for the log."""

    def __init__(self, reply: bytes, reason: bytes, user: bytes) -> None:
        super().__init__(reply, reason, user)
        self.reply = reply
        self.reason = reason
        self.user = user


class Proven:
    """Who has proved to be whom: nothing is left to check."""

    __slots__ = ("user",)

    def __init__(self, user: bytes) -> None:
        self.user = user


class Credentials:
    """Who says to be whom, and the two fields that prove it to a checker: a password, or challenge and response."""

    __slots__ = ("challenge", "proof", "user")

    def __init__(self, user: bytes, proof: bytes, challenge: bytes = b"") -> None:
        if not user or not proof or b"\0" in user + proof:  # a NUL would move the fields of descriptor 3
            raise Malformed
        self.user = user
        self.proof = proof
        self.challenge = challenge

    def fields(self, challenge_first: bool, third: bool) -> bytes:
        """What descriptor 3 holds; without `third` a password has no empty third field behind it."""
        fields = [self.user, self.proof]
        if self.challenge:
            fields.insert(1 if challenge_first else 2, self.challenge)
        elif third:
            fields.append(b"")
        return b"\0".join(fields) + b"\0"


def plain(initial: bytes | None) -> "Steps":
    """authzid NUL user NUL password. Nobody may act for somebody else: authzid is ignored, as ever."""
    fields = (initial if initial is not None else (yield b"")).split(b"\0")
    if len(fields) != 3:
        raise Malformed
    return Credentials(fields[1], fields[2])


def login(initial: bytes | None) -> "Steps":
    """Two questions; the first may be answered before it is asked."""
    user = initial if initial is not None else (yield b"Username:")
    if not user or b"\0" in user:
        raise Malformed
    return Credentials(user, (yield b"Password:"))


def cram_md5(challenge: bytes) -> "Steps":
    """user SP hexadecimal digest, parted at the last space: names may hold some."""
    user, _, digest = (yield challenge).rpartition(b" ")
    return Credentials(user, digest, challenge)


def scram(initial: bytes | None, server: "ScramServer") -> "Steps":
    """RFC 5802, as RFC 4954 has it: the server's last word is a challenge too, and is answered with nothing."""
    message = initial if initial is not None else (yield b"")
    while not server.done:
        message = yield server.step(message)
    if message:
        raise Malformed
    return Proven(server.user)


def decode(line: bytes) -> bytes:
    """The client's answer without its base64."""
    if line == CANCEL:
        raise Cancelled
    return without_base64(line)


def decode_initial(argument: bytes) -> bytes | None:
    """What stood behind the mechanism's name; None for nothing at all."""
    if argument == EMPTY:
        return b""
    return without_base64(argument) if argument else None


def without_base64(text: bytes) -> bytes:
    """Strictly: what is no base64 is refused, never skipped; so is what may have been cut."""
    if len(text) > LONGEST:
        raise Malformed
    try:
        return a2b_base64(text, strict_mode=True)
    except Error as error:
        raise Malformed from error


def encode(challenge: bytes) -> bytes:
    """As it stands behind 334."""
    return b2a_base64(challenge, newline=False)
