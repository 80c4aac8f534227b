"""SCRAM-SHA-256 (RFC 5802, RFC 7677): the server's side of one exchange, for the users of a users file.

Who is not there, or has no secret that serves SCRAM, is asked like everybody else and fails at the proof. There is no
channel binding: SCRAM-SHA-256-PLUS is not offered.
"""

import os

from qmail_smtpd.auth.secret import ITERATIONS, SALT, missing, split
from qmail_smtpd.auth.trouble import Trouble
from qmail_smtpd.auth.users import Users, place
from qmail_smtpd.auth.verifier import KEY, Verifier, prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MECHANISM = "SCRAM-SHA-256"
SCHEME = MECHANISM.encode()
SHORTEST_SALT = 12  # bytes: scramp's bound
IDENTITIES = (b"/etc/machine-id", b"/proc/sys/kernel/random/boot_id")
IDENTITY = 32  # hex digits, machine-id(5); boot_id is a UUID
PURPOSE = b"ucspi-smtpd SCRAM salt\0"
NOT_RIGHT = "invalid-proof"  # RFC 5802 section 7, server-error-value
NOBODY = b"-"


class Malformed(Exception):
    """The client's message is none, or asks for what is not offered."""


class Wrong(Exception):
    """The proof is not right: another password, or no such user."""


class Scram:
    """One exchange. `step` takes the client's message and returns the server's; raises Malformed, Wrong, Trouble.

    When `done`, the client has proved to be `user`, and the last message is the server's own proof. `nonce`: for tests.
    """

    __slots__ = ("done", "nonce", "password", "path", "server", "turn", "user")

    def __init__(self, path: bytes, nonce: str | None = None) -> None:
        self.path = path
        self.nonce = nonce
        self.user = b""
        self.done = False
        self.turn: Callable[[str], bytes] = self.first
        self.server: Any = None
        self.password: bytes | None = None  # of a user who is stored as PLAIN

    def step(self, client: bytes) -> bytes:
        """The server's message in answer to the client's."""
        try:
            from scramp import ScramException  # type: ignore[import-untyped]
        except ImportError:
            raise missing(SCHEME, b"scramp") from None
        turn, self.turn = self.turn, self.over
        try:
            return turn(client.decode())
        except UnicodeDecodeError as error:
            raise Malformed from error
        except ScramException as error:
            if isinstance(error.__cause__, Trouble):  # from `ask`, which scramp calls
                raise error.__cause__ from None
            raise (Wrong if error.server_error and error.server_error.value == NOT_RIGHT else Malformed) from error

    def first(self, text: str) -> bytes:
        """Nonce, salt and number of iterations."""
        from scramp import ScramMechanism

        self.server = ScramMechanism(MECHANISM).make_server(self.ask, s_nonce=self.nonce)
        self.server.set_client_first(text)
        message: str = self.server.get_server_first()
        self.turn = self.final
        return message.encode()

    def final(self, text: str) -> bytes:
        """The server's proof. A no takes as long for every user, whether there is a password to be hashed or not."""
        try:
            if self.password:
                self.hash(self.password)
            self.server.set_client_final(text)
            self.done = True
        finally:
            if not self.done and not self.password:
                self.hash(NOBODY)
        message: str = self.server.get_server_final()
        return message.encode()

    def over(self, text: str) -> "NoReturn":
        """After the end, or a failure, there is nothing more to say."""
        raise Malformed

    def hash(self, password: bytes) -> None:
        """Have scramp compare with this password."""
        work = Verifier.of(password, bytes(self.server.salt), int(self.server.i))
        self.server.stored_key, self.server.server_key = work.stored_key, work.server_key

    def ask(self, name: str) -> tuple[bytes, bytes, bytes, int]:
        """What scramp wants to know of a user: salt, StoredKey, ServerKey, iterations. Raises Trouble."""
        self.user = name.encode()
        users = Users(self.path)
        entry = users.find(self.user)
        if entry and entry.secret:
            with place(users, entry):
                scheme, value = split(entry.secret)
                if scheme == SCHEME:
                    return usable(Verifier.from_value(value))
            if scheme == b"PLAIN":
                self.password = prepared(value)
        salt_length, iterations = usual(users)
        return invented_salt(self.user)[:salt_length], os.urandom(KEY), os.urandom(KEY), iterations


def usable(verifier: Verifier) -> tuple[bytes, bytes, bytes, int]:
    """As scramp wants it."""
    if len(verifier.salt) < SHORTEST_SALT:
        raise Trouble(b"{SCRAM-SHA-256} has a salt of less than %d bytes" % SHORTEST_SALT)
    return verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations


def usual(users: Users) -> tuple[int, int]:
    """How long a salt is, and how many iterations there are, with the first of the users who has both."""
    for entry in users.entries():
        try:
            scheme, value = split(entry.secret)
            if scheme == SCHEME:
                verifier = Verifier.from_value(value)
                return min(len(verifier.salt), KEY), verifier.iterations
        except Trouble:
            continue
    return SALT, ITERATIONS


def invented_salt(user: bytes) -> bytes:
    """Ever the same for a name, as a stored one is, and not to be foreseen from outside (RFC 5802 section 9)."""
    from hmac import digest

    return digest(identity(), PURPOSE + user, "sha256")


def identity() -> bytes:
    """What this host alone knows, and keeps: its machine-id(5), where it has none its boot. Nothing of any password.

    Made of the users file it would answer offline guesses. Raises Trouble.
    """
    for path in IDENTITIES:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            digits = os.read(descriptor, 2 * IDENTITY).strip().replace(b"-", b"")
        finally:
            os.close(descriptor)
        if len(digits) == IDENTITY:
            return digits
    raise Trouble(b"this host has neither /etc/machine-id nor a boot id")
