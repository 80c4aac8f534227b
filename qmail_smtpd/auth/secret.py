"""A stored secret, `{SCHEME}value`, and whether a password or a digest is right for it.

The layouts are Dovecot's: what `doveadm pw` makes is read here, and what is made here Dovecot reads. Knows no files and
no users.
"""

from qmail_smtpd.auth.trouble import Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ITERATIONS = 600_000  # OWASP Password Storage Cheat Sheet for PBKDF2-HMAC-SHA256; 0.1 s, as RFC 7677 section 4 wants
SALT = 16  # bytes, as Dovecot's
MOST_FOR_BCRYPT = 72  # bytes: bcrypt does not look at the others
BCRYPT_COST = 12  # of the package bcrypt
ARGON2ID_PASSES = 3  # RFC 9106 section 4, for 64 MiB
DIGEST = 32  # hex digits of an MD5
HEX = b"0123456789abcdefABCDEF"


def matches(stored: bytes, password: bytes) -> bool:
    """Is this the password? An empty one never is. Raises Trouble where that cannot be told."""
    scheme, value = split(stored)
    if not password or not value or b"\0" in password:  # HMAC fills a key up with NULs: to SCRAM they would not count
        return False
    return SCHEMES[scheme][0](value, password)


def make(scheme: bytes, password: bytes, rounds: int | None = None) -> bytes:
    """The secret to store. `rounds` is the scheme's own measure of work. Raises Trouble, and ValueError with a text."""
    return b"{" + scheme + b"}" + SCHEMES[scheme][1](password, rounds)


def split(stored: bytes) -> tuple[bytes, bytes]:
    """The scheme, as in SCHEMES, and the value. Dovecot, too, takes a scheme's name in any case."""
    name, brace, value = stored[1:].partition(b"}")
    if not stored.startswith(b"{") or not brace:
        raise Trouble(b"the password has no {SCHEME} before it")
    if name.upper() not in SCHEMES:
        raise Trouble(b"the scheme of the password is not one of " + b" ".join(SCHEMES))
    return name.upper(), value


def plaintext(stored: bytes) -> bytes | None:
    """The password, where it is stored itself."""
    scheme, value = split(stored)
    return value if scheme == b"PLAIN" and value else None


def equal(left: bytes, right: bytes) -> bool:
    """Compared in a time that does not tell where they differ."""
    from hmac import compare_digest

    return compare_digest(left, right)


def is_digest(text: bytes) -> bool:
    """Has it the shape of a CRAM-MD5 or APOP digest?"""
    return len(text) == DIGEST and not text.strip(HEX)


def is_challenge(text: bytes) -> bool:
    """Has it the shape of a challenge, `<unique@host>` (RFC 2195, RFC 1939)?"""
    return text.startswith(b"<") and text.endswith(b">") and b"@" in text


def cram_md5(password: bytes, challenge: bytes) -> bytes:
    """RFC 2195: the digest that answers the challenge, which is taken with its angle brackets."""
    from hmac import new

    try:
        return new(password, challenge, "md5").hexdigest().encode()
    except ValueError as error:  # a Python without its own MD5 on a host whose OpenSSL allows none
        raise Trouble(b"no MD5 on this host") from error


def apop(password: bytes, challenge: bytes) -> bytes:
    """RFC 1939: the digest of APOP."""
    from hashlib import new

    try:
        return new("md5", challenge + password).hexdigest().encode()  # noqa: S324  # the protocol's
    except ValueError as error:
        raise Trouble(b"no MD5 on this host") from error


def cram_matches(stored: bytes, challenge: bytes, digest: bytes) -> bool:
    """Does this digest answer the challenge as CRAM-MD5? Only a password that is stored itself can tell."""
    password = plaintext(stored)
    return equal(cram_md5(password or b"-", challenge), digest.lower()) and password is not None


def plain_matches(value: bytes, password: bytes) -> bool:
    return equal(value, password)


def plain_make(password: bytes, rounds: int | None) -> bytes:
    if b":" in password or password.endswith(b"\r"):
        raise ValueError("a PLAIN password cannot hold a colon, nor a CR at its end")
    return password


def scram_matches(value: bytes, password: bytes) -> bool:
    """As SCRAM clients take the password; also as it is, which is all that Dovecot does."""
    from qmail_smtpd.auth.verifier import Verifier, prepared

    stored = Verifier.from_value(value)
    ways = {password, prepared(password)}  # one, but for a few characters: ligatures, no-break spaces
    found = [Verifier.of(way, stored.salt, stored.iterations).stored_key for way in ways]
    return True in [equal(stored.stored_key, key) for key in found]


def scram_make(password: bytes, rounds: int | None) -> bytes:
    from os import urandom

    from qmail_smtpd.auth.verifier import FEWEST_ITERATIONS, MOST_ITERATIONS, Verifier, prepared

    iterations = ITERATIONS if rounds is None else rounds
    if not FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise ValueError(f"SCRAM-SHA-256 takes {FEWEST_ITERATIONS} to {MOST_ITERATIONS} iterations")
    return Verifier.of(prepared(password), urandom(SALT), iterations).value()


def bcrypt_matches(value: bytes, password: bytes) -> bool:
    """What is longer than bcrypt looks at is wrong, after the same work."""
    bcrypt = package("bcrypt", b"BLF-CRYPT", b"bcrypt")
    try:
        right: bool = bcrypt.checkpw(password[:MOST_FOR_BCRYPT], value)
    except ValueError:
        raise Trouble(b"{BLF-CRYPT} is not followed by what bcrypt makes") from None
    return right and len(password) <= MOST_FOR_BCRYPT


def bcrypt_make(password: bytes, rounds: int | None) -> bytes:
    bcrypt = package("bcrypt", b"BLF-CRYPT", b"bcrypt")
    if len(password) > MOST_FOR_BCRYPT:
        raise ValueError(f"bcrypt takes no password of more than {MOST_FOR_BCRYPT} bytes")
    made: bytes = bcrypt.hashpw(password, bcrypt.gensalt(BCRYPT_COST if rounds is None else rounds))
    return made


def argon2id_matches(value: bytes, password: bytes) -> bool:
    argon2 = package("argon2", b"ARGON2ID", b"argon2-cffi")
    try:
        return bool(argon2.low_level.verify_secret(value, password, argon2.Type.ID))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.VerificationError as error:  # another layout; or no memory, under a limit
        raise Trouble(b"{ARGON2ID} cannot be checked: " + str(error).encode()) from None


def argon2id_make(password: bytes, rounds: int | None) -> bytes:
    argon2 = package("argon2", b"ARGON2ID", b"argon2-cffi")
    try:
        made: str = argon2.PasswordHasher(time_cost=ARGON2ID_PASSES if rounds is None else rounds).hash(password)
    except argon2.exceptions.HashingError as error:
        raise ValueError(str(error)) from None
    return made.encode()


def package(module: str, scheme: bytes, name: bytes) -> "Any":
    """A module of the extra `auth`."""
    try:
        return __import__(module)
    except ImportError:
        raise missing(b"{" + scheme + b"}", name) from None


def missing(what: bytes, name: bytes) -> Trouble:
    """A package that is not there makes no password wrong."""
    return Trouble(what + b" needs the Python package " + name + b": pip install 'ucspi-smtpd[auth]'")


SCHEMES: "dict[bytes, tuple[Callable[[bytes, bytes], bool], Callable[[bytes, int | None], bytes]]]" = {
    # is a password right for a value? and: the value for a password and a number of rounds
    b"SCRAM-SHA-256": (
        scram_matches,
        scram_make,
    ),  # first, for new entries: it serves SCRAM, too
    b"ARGON2ID": (argon2id_matches, argon2id_make),
    b"BLF-CRYPT": (bcrypt_matches, bcrypt_make),
    b"PLAIN": (plain_matches, plain_make),
}
