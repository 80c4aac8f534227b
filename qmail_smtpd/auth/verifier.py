"""What SCRAM-SHA-256 stores of a password (RFC 5802 section 3), in Dovecot's format."""

import binascii

from qmail_smtpd.auth.errors import CannotVerify

FEWEST_ITERATIONS = 4096  # RFC 7677 section 4
MOST_ITERATIONS = 10_000_000  # scramp's limit: a minute of work for the client
KEY = 32  # bytes of a SHA-256


class Verifier:
    """Enough to check a password, but not to recover it."""

    __slots__ = ("iterations", "salt", "server_key", "stored_key")

    def __init__(self, iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key

    @classmethod
    def from_password(cls, password: bytes, salt: bytes, iterations: int) -> "Verifier":
        """Compute the verifier: microseconds for every ten iterations. The password is not normalized (`prepared`)."""
        from hashlib import pbkdf2_hmac, sha256
        from hmac import digest

        salted = pbkdf2_hmac("sha256", password, salt, iterations)
        client_key = digest(salted, b"Client Key", "sha256")
        return cls(iterations, salt, sha256(client_key).digest(), digest(salted, b"Server Key", "sha256"))

    @classmethod
    def from_value(cls, value: bytes) -> "Verifier":
        """Parse `iterations,salt,StoredKey,ServerKey`, the last three in base64. Raises CannotVerify."""
        try:
            count, *fields = value.split(b",")
            salt, stored_key, server_key = (binascii.a2b_base64(field, strict_mode=True) for field in fields)
        except ValueError:
            raise malformed() from None
        if not count.isdigit() or not salt or len(stored_key) != KEY or len(server_key) != KEY:
            raise malformed()
        if len(count) > len(str(MOST_ITERATIONS)) or not FEWEST_ITERATIONS <= int(count) <= MOST_ITERATIONS:
            limits = (FEWEST_ITERATIONS, MOST_ITERATIONS)
            raise CannotVerify(b"{SCRAM-SHA-256} must have %d to %d iterations" % limits)
        return cls(int(count), salt, stored_key, server_key)

    def value(self) -> bytes:
        """Return the format that from_value parses."""
        fields = (self.salt, self.stored_key, self.server_key)
        encoded = [binascii.b2a_base64(field, newline=False) for field in fields]
        return b",".join([b"%d" % self.iterations, *encoded])


def malformed() -> CannotVerify:
    """Return the exception for a value that cannot be parsed."""
    return CannotVerify(b"{SCRAM-SHA-256} is not followed by iterations,salt,StoredKey,ServerKey")


def prepared(password: bytes) -> bytes:
    """Normalize a password as a SCRAM client does: RFC 5802's Normalize is SASLprep (RFC 4013).

    A password that SASLprep forbids, or that is not UTF-8, is returned unchanged: no SCRAM client can send it.
    """
    if password.isascii():
        return password
    from stringprep import in_table_b1, in_table_c12
    from unicodedata import ucd_3_2_0

    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    mapped = "".join(" " if in_table_c12(character) else character for character in text if not in_table_b1(character))
    return ucd_3_2_0.normalize("NFKC", mapped).encode()
