"""SCRAM-SHA-256 (RFC 5802, RFC 7677): the server's side of one exchange, for the users of a users file.

An unknown user, or one whose secret cannot be used for SCRAM, gets the usual challenge and fails at the proof. There is
no channel binding: SCRAM-SHA-256-PLUS is not offered.
"""

import os

from qmail_smtpd.auth.errors import CannotVerify
from qmail_smtpd.auth.secret import ITERATIONS, SALT, missing_package, split
from qmail_smtpd.auth.users import Users, naming_line
from qmail_smtpd.auth.verifier import KEY, Verifier, prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MECHANISM = "SCRAM-SHA-256"
SCHEME = MECHANISM.encode()
SHORTEST_SALT = 12  # bytes: scramp's limit
HOST_ID_FILES = (b"/etc/machine-id", b"/proc/sys/kernel/random/boot_id")
HOST_ID_LENGTH = 32  # hex digits, machine-id(5); boot_id is a UUID
PURPOSE = b"ucspi-smtpd SCRAM salt\0"
INVALID_PROOF = "invalid-proof"  # RFC 5802 section 7, server-error-value
DUMMY = b"-"


class Malformed(Exception):
    """The client's message cannot be parsed, or asks for something that is not offered."""


class OtherAuthzid(Exception):
    """The client wants to act as another user."""


class WrongProof(Exception):
    """The proof is wrong: a wrong password, or an unknown user."""


class Gs2Header:
    """The client's GS2 header as scramp uses it: the value that `c=` must have without channel binding."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def make_cbind_input(self, binding: None) -> bytes:
        return self.text


class Scram:
    """One exchange. `nonce` is for tests.

    `step` takes the client's message and returns the server's; it raises Malformed, OtherAuthzid, WrongProof and
    CannotVerify. `done` is set when the client has proved that it is `user`; the last message returned is then the
    server's own proof.
    """

    __slots__ = ("done", "next_step", "nonce", "password", "path", "server", "unsuitable", "user")

    def __init__(self, path: bytes, nonce: str | None = None) -> None:
        self.path = path
        self.nonce = nonce
        self.user = b""
        self.done = False
        self.next_step: Callable[[str], bytes] = self.first
        self.server: Any = None
        self.password: bytes | None = None  # of a user stored as PLAIN
        self.unsuitable = False  # whether the user's password is stored as a hash that SCRAM cannot use

    def step(self, client: bytes) -> bytes:
        """Return the server's reply to the client's message."""
        try:
            from scramp import ScramException  # type: ignore[import-untyped]
        except ImportError:
            raise missing_package(SCHEME, b"scramp") from None
        step, self.next_step = self.next_step, self.after_end
        try:
            return step(client.decode())
        except UnicodeDecodeError as error:
            raise Malformed from error
        except ScramException as error:
            if isinstance(error.__cause__, CannotVerify):  # from `look_up`, which scramp calls
                raise error.__cause__ from None
            raise (WrongProof if is_wrong_proof(error) else Malformed) from error

    def first(self, text: str) -> bytes:
        """Return nonce, salt and number of iterations. The authzid, which scramp refuses, may only name the user."""
        from scramp import ScramMechanism

        flag, comma, rest = text.partition(",")
        authzid, _, bare = rest.partition(",")
        name = bare[2:].partition(",")[0]
        if authzid and not (authzid.startswith("a=") and authzid[2:] and bare.startswith("n=") and name):
            raise Malformed
        if authzid and authzid[2:] != name:
            self.user = name.replace("=2C", ",").replace("=3D", "=").encode()
            raise OtherAuthzid
        self.server = ScramMechanism(MECHANISM).make_server(self.look_up, s_nonce=self.nonce)
        self.server.set_client_first(f"{flag}{comma},{bare}")
        self.server.gs2_header = Gs2Header(f"{flag},{authzid},".encode())
        message: str = self.server.get_server_first()
        self.next_step = self.final
        return message.encode()

    def final(self, text: str) -> bytes:
        """Check the client's proof and return the server's.

        A malformed message costs no hash. A wrong proof takes equally long for every user: a dummy password is hashed
        if the user is not stored as PLAIN.
        """
        from scramp import ScramException

        stage = self.server.stage
        try:
            self.server.set_client_final(text)
        except ScramException as error:
            if not is_wrong_proof(error):
                raise
            self.set_keys(self.password or DUMMY)
            if not self.password:
                raise
            self.server.stage, self.server.error = stage, None  # until now it has compared with a random key
            self.server.set_client_final(text)
        self.done = True
        message: str = self.server.get_server_final()
        return message.encode()

    def after_end(self, text: str) -> "NoReturn":
        """Refuse a message after the end of the exchange, or after a failure."""
        raise Malformed

    def set_keys(self, password: bytes) -> None:
        """Have scramp compare the proof with this password."""
        verifier = Verifier.from_password(password, bytes(self.server.salt), int(self.server.i))
        self.server.stored_key, self.server.server_key = verifier.stored_key, verifier.server_key

    def look_up(self, name: str) -> tuple[bytes, bytes, bytes, int]:
        """Return salt, StoredKey, ServerKey and iterations of a user, for scramp. Raises CannotVerify."""
        self.user = name.encode()
        users = Users(self.path)
        entry = users.find(self.user)
        if entry and entry.secret:
            with naming_line(users, entry):
                scheme, value = split(entry.secret)
                if scheme == SCHEME:
                    return scramp_fields(Verifier.from_value(value))
            if scheme == b"PLAIN":
                self.password = prepared(value)
            self.unsuitable = scheme != b"PLAIN" and value != b""
        salt_length, iterations = typical_parameters(users)
        return invented_salt(self.user)[:salt_length], os.urandom(KEY), os.urandom(KEY), iterations


def is_wrong_proof(error: "Any") -> bool:
    """Whether a ScramException says that the message is well-formed, but its proof is wrong."""
    return bool(error.server_error and error.server_error.value == INVALID_PROOF)


def scramp_fields(verifier: Verifier) -> tuple[bytes, bytes, bytes, int]:
    """Return the verifier's fields in scramp's order. Raises CannotVerify for a salt that is too short for scramp."""
    if len(verifier.salt) < SHORTEST_SALT:
        raise CannotVerify(b"{SCRAM-SHA-256} has a salt of less than %d bytes" % SHORTEST_SALT)
    return verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations


def typical_parameters(users: Users) -> tuple[int, int]:
    """Return salt length and iterations of the first SCRAM entry in the file, else those of new entries."""
    for entry in users.with_scheme(SCHEME):
        try:
            verifier = Verifier.from_value(split(entry.secret)[1])
        except CannotVerify:
            continue
        return min(len(verifier.salt), KEY), verifier.iterations
    return SALT, ITERATIONS


def invented_salt(user: bytes) -> bytes:
    """Return a salt that is constant for a name, like a stored one, and unpredictable (RFC 5802 section 9)."""
    from hmac import digest

    return digest(host_id(), PURPOSE + user, "sha256")


def host_id() -> bytes:
    """Return a secret and lasting id of this host: its machine-id(5), without one its boot id. Raises CannotVerify.

    A key derived from the users file instead would allow offline guesses at its passwords.
    """
    for path in HOST_ID_FILES:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            digits = os.read(descriptor, 2 * HOST_ID_LENGTH).strip().replace(b"-", b"")
        finally:
            os.close(descriptor)
        if len(digits) == HOST_ID_LENGTH:
            return digits
    raise CannotVerify(b"this host has neither /etc/machine-id nor a boot id")
