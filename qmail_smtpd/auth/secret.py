"""A stored secret, `{SCHEME}value`, and whether a password or a digest matches it.

The formats are Dovecot's: each side reads what the other makes (`doveadm pw`). Knows no files and no users.
"""

import os
import sys

from qmail_smtpd.auth.errors import CannotVerify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ITERATIONS = 65_536  # the most that Cyrus SASL's client computes (2.1.28, scram.c); RFC 7677 wants 4096 or more
SALT = 16  # bytes, as in Dovecot
MOST_FOR_BCRYPT = 72  # bytes: crypt(3) ignores the rest, and so does Dovecot; the package bcrypt refuses it
BCRYPT_COST = 12  # the default of the package bcrypt
LEAST_BCRYPT_COST, MOST_BCRYPT_COST = 4, 31  # what the package bcrypt takes
ARGON2ID_PASSES = 3  # RFC 9106 section 4, for 64 MiB
MOST_ARGON2ID_PASSES = 1000  # tens of seconds of work, and a checker has 30 (checkpassword.py)
ARGON2_OLDEST = 16  # the version of a hash that names none (libargon2, decode_string)
THREADING_FAILURE = "Threading failure"  # libargon2's text for ARGON2_THREAD_FAIL
ARGON2ID_LANES = 1  # more than one is computed in threads, which a limit on memory or processes can forbid
DIGEST = 32  # hex digits of an MD5
HEX = b"0123456789abcdefABCDEF"


def matches(stored: bytes, password: bytes) -> bool:
    """Whether the password matches. An empty one never does. Raises CannotVerify."""
    scheme, value = split(stored)
    if not password or not value or b"\0" in password:  # HMAC pads its key with NULs, so SCRAM would ignore them
        return False
    return SCHEMES[scheme][0](value, password)


def make(scheme: bytes, password: bytes, rounds: int | None = None) -> bytes:
    """Return the secret to store. `rounds` is the scheme's work factor. Raises CannotVerify, ValueError with a text."""
    return b"{" + scheme + b"}" + SCHEMES[scheme][1](password, rounds)


def split(stored: bytes) -> tuple[bytes, bytes]:
    """Return the scheme, as in SCHEMES, and the value. Case does not matter, as in Dovecot. Raises CannotVerify."""
    name, brace, value = stored[1:].partition(b"}")
    if not stored.startswith(b"{") or not brace:
        raise CannotVerify(b"the password has no {SCHEME} before it")
    if name.upper() not in SCHEMES:
        raise CannotVerify(b"the scheme of the password is not one of " + b" ".join(SCHEMES))
    return name.upper(), value


def plaintext(stored: bytes) -> bytes | None:
    """Return the password if it is stored in plain text, else None. Raises CannotVerify."""
    scheme, value = split(stored)
    return value if scheme == b"PLAIN" and value else None


def equal(left: bytes, right: bytes) -> bool:
    """Whether the two are equal, compared in constant time."""
    from hmac import compare_digest

    return compare_digest(left, right)


def is_digest(text: bytes) -> bool:
    """Whether the text has the form of a CRAM-MD5 or APOP digest."""
    return len(text) == DIGEST and not text.strip(HEX)


def is_challenge(text: bytes) -> bool:
    """Whether the text has the form of a challenge, `<unique@host>` (RFC 2195, RFC 1939)."""
    return text.startswith(b"<") and text.endswith(b">") and b"@" in text


def cram_md5(password: bytes, challenge: bytes) -> bytes:
    """Return RFC 2195's digest for the challenge, which includes its angle brackets. Raises CannotVerify."""
    from hmac import new

    try:
        return new(password, challenge, "md5").hexdigest().encode()
    except ValueError as error:  # Python uses OpenSSL's MD5, and this host's OpenSSL forbids it
        raise CannotVerify(b"no MD5 on this host") from error


def apop(password: bytes, challenge: bytes) -> bytes:
    """Return RFC 1939's digest for the challenge. Raises CannotVerify."""
    from hashlib import new

    try:
        return new("md5", challenge + password).hexdigest().encode()  # noqa: S324  # the protocol's
    except ValueError as error:
        raise CannotVerify(b"no MD5 on this host") from error


def cram_matches(stored: bytes, challenge: bytes, digest: bytes) -> bool:
    """Whether this is the CRAM-MD5 digest for the challenge. False unless the password is stored in plain text."""
    password = plaintext(stored)
    return equal(cram_md5(password or b"-", challenge), digest.lower()) and password is not None


def plain_matches(value: bytes, password: bytes) -> bool:
    return equal(value, password)


def plain_make(password: bytes, rounds: int | None) -> bytes:
    if b":" in password or password.endswith(b"\r"):
        raise ValueError("a PLAIN password cannot contain a colon or end with a CR")
    return password


def scram_matches(value: bytes, password: bytes) -> bool:
    """Compare the password normalized as by SCRAM clients, and also unchanged, as Dovecot does."""
    from qmail_smtpd.auth.verifier import Verifier, prepared

    stored = Verifier.from_value(value)
    forms = {password, prepared(password)}  # equal, except for a few characters: ligatures, no-break spaces
    keys = [Verifier.from_password(form, stored.salt, stored.iterations).stored_key for form in forms]
    return True in [equal(stored.stored_key, key) for key in keys]


def scram_make(password: bytes, rounds: int | None) -> bytes:
    from os import urandom

    from qmail_smtpd.auth.verifier import FEWEST_ITERATIONS, MOST_ITERATIONS, Verifier, prepared

    iterations = ITERATIONS if rounds is None else rounds
    if not FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise ValueError(f"SCRAM-SHA-256 takes {FEWEST_ITERATIONS} to {MOST_ITERATIONS} iterations")
    return Verifier.from_password(prepared(password), urandom(SALT), iterations).value()


def bcrypt_matches(value: bytes, password: bytes) -> bool:
    """Compare with bcrypt, which uses the first 72 bytes of a password."""
    bcrypt = import_package("bcrypt", b"BLF-CRYPT", b"bcrypt")
    try:
        right: bool = bcrypt.checkpw(password[:MOST_FOR_BCRYPT], value)
    except ValueError:
        raise CannotVerify(b"{BLF-CRYPT} is not followed by a bcrypt hash") from None
    return right


def bcrypt_make(password: bytes, rounds: int | None) -> bytes:
    bcrypt = import_package("bcrypt", b"BLF-CRYPT", b"bcrypt")
    if len(password) > MOST_FOR_BCRYPT:
        raise ValueError(f"bcrypt takes passwords of at most {MOST_FOR_BCRYPT} bytes")
    cost = BCRYPT_COST if rounds is None else rounds
    if not LEAST_BCRYPT_COST <= cost <= MOST_BCRYPT_COST:
        raise ValueError(f"BLF-CRYPT takes a cost of {LEAST_BCRYPT_COST} to {MOST_BCRYPT_COST}")
    value: bytes = bcrypt.hashpw(password, bcrypt.gensalt(cost))
    return value


def argon2id_matches(value: bytes, password: bytes) -> bool:
    argon2 = import_package("argon2", b"ARGON2ID", b"argon2-cffi")
    try:
        return bool(argon2.low_level.verify_secret(value, password, argon2.Type.ID))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except argon2.exceptions.VerificationError as error:  # another format, or not enough memory under a limit
        if str(error) == THREADING_FAILURE:
            return argon2id_matches_without_threads(value, password)
        raise CannotVerify(b"{ARGON2ID} cannot be checked: " + str(error).encode()) from None


def argon2id_matches_without_threads(value: bytes, password: bytes) -> bool:
    """Compute all lanes of a valid hash in this thread: slower, but possible under any limit on stack and processes."""
    from binascii import a2b_base64

    from _argon2_cffi_bindings import ffi, lib  # type: ignore[import-untyped]
    from argon2.low_level import Type, core, error_to_str

    *settings, salt_text, right_text = value.split(b"$")[2:]
    numbers = dict(field.split(b"=") for field in b",".join(settings).split(b","))
    salt, right = (a2b_base64(text + b"=" * (-len(text) % 4)) for text in (salt_text, right_text))
    buffers = [ffi.new("uint8_t[]", data) for data in (len(right), password, salt)]
    context = {
        "out": buffers[0],
        "outlen": len(right),
        "pwd": buffers[1],
        "pwdlen": len(password),
        "salt": buffers[2],
        "saltlen": len(salt),
        "version": int(numbers.get(b"v", ARGON2_OLDEST)),
        "t_cost": int(numbers[b"t"]),
        "m_cost": int(numbers[b"m"]),
        "lanes": int(numbers[b"p"]),
        "threads": 1,
    }
    status = core(ffi.new("argon2_context *", context), Type.ID.value)
    if status != lib.ARGON2_OK:
        raise CannotVerify(b"{ARGON2ID} cannot be checked: " + error_to_str(status).encode())
    return equal(bytes(ffi.buffer(buffers[0])), right)


def argon2id_make(password: bytes, rounds: int | None) -> bytes:
    argon2 = import_package("argon2", b"ARGON2ID", b"argon2-cffi")
    passes = ARGON2ID_PASSES if rounds is None else rounds
    if passes > MOST_ARGON2ID_PASSES:
        raise ValueError(f"ARGON2ID takes 1 to {MOST_ARGON2ID_PASSES} passes")
    try:
        value: str = argon2.PasswordHasher(time_cost=passes, parallelism=ARGON2ID_LANES).hash(password)
    except argon2.exceptions.HashingError as error:
        raise ValueError(str(error)) from None
    return value.encode()


def import_package(module: str, scheme: bytes, name: bytes) -> "Any":
    """Import a module of the extra `auth`. Raises CannotVerify."""
    try:
        return __import__(module)
    except ImportError:
        raise missing_package(b"{" + scheme + b"}", name) from None


def missing_package(feature: bytes, name: bytes) -> CannotVerify:
    """Return the exception for a package that is not installed, which must not count as a wrong password."""
    pip = os.fsencode(sys.executable) + b" -m pip install "
    return CannotVerify(feature + b" needs the Python package " + name + b": " + pip + name)


# For each scheme: matches(value, password), and make(password, rounds).
SCHEMES: "dict[bytes, tuple[Callable[[bytes, bytes], bool], Callable[[bytes, int | None], bytes]]]" = {
    b"SCRAM-SHA-256": (scram_matches, scram_make),  # first, so the default for new entries: it also serves SCRAM
    b"ARGON2ID": (argon2id_matches, argon2id_make),
    b"BLF-CRYPT": (bcrypt_matches, bcrypt_make),
    b"PLAIN": (plain_matches, plain_make),
}
