"""Stored secrets: making and checking them in every scheme, also with Dovecot; malformed ones; digests."""

import hmac
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.auth.errors import CannotVerify
from qmail_smtpd.auth.secret import (
    SCHEMES,
    apop,
    argon2id_matches,
    argon2id_matches_without_threads,
    cram_matches,
    cram_md5,
    is_challenge,
    is_digest,
    make,
    matches,
    plaintext,
)
from qmail_smtpd.auth.verifier import Verifier, prepared
from tests.kit import forked
from tests.kit.support import peer

LEAST_WORK = {b"SCRAM-SHA-256": 4096, b"ARGON2ID": 1, b"BLF-CRYPT": 4, b"PLAIN": None}  # the least work that counts
PACKAGES = {b"ARGON2ID": ("argon2", b"argon2-cffi"), b"BLF-CRYPT": ("bcrypt", b"bcrypt")}
ALL = pytest.mark.parametrize("scheme", SCHEMES, ids=bytes.decode)


@ALL
def test_only_the_password_itself_matches_its_secret(scheme: bytes) -> None:
    stored = make(scheme, b"secret", LEAST_WORK[scheme])
    assert stored.startswith(b"{" + scheme + b"}")
    assert matches(stored, b"secret")
    for wrong in (b"", b"secre", b"secret ", b"secrets", b"Secret", b"\0", b"secret\0", stored):
        assert not matches(stored, wrong), wrong


@ALL
def test_two_secrets_of_one_password_differ_unless_it_is_in_plain_text(scheme: bytes) -> None:
    first, second = (make(scheme, b"secret", LEAST_WORK[scheme]) for _ in range(2))
    assert (first == second) == (scheme == b"PLAIN")


@ALL
def test_new_secrets_use_the_recommended_work_factors(scheme: bytes) -> None:
    stored = make(scheme, b"secret")
    assert matches(stored, b"secret")
    work = {b"SCRAM-SHA-256": b"}65536,", b"ARGON2ID": b"m=65536,t=3,p=1", b"BLF-CRYPT": b"$12$", b"PLAIN": b"}secret"}
    assert work[scheme] in stored


@pytest.mark.peer
@ALL
@pytest.mark.parametrize("password", ["secret", "pässwörd with 3 blanks, and a comma", "x" * 72])
def test_dovecot_accepts_our_secrets(scheme: bytes, password: str) -> None:
    stored = make(scheme, password.encode(), LEAST_WORK[scheme])
    for text, status in ((password, 0), (password + "!", 1 if len(password) < 72 else None), ("x", 1)):
        done = doveadm("-t", stored.decode(), "-p", text)
        if status is not None:
            assert (done.returncode != 0) == status, (stored, text, done.stderr)


@pytest.mark.peer
@ALL
@pytest.mark.parametrize("password", ["secret", "pässwörd with 3 blanks, and a comma", "x" * 72, "x" * 100])
def test_secrets_made_by_dovecot_are_accepted(scheme: bytes, password: str) -> None:
    stored = doveadm("-s", scheme.decode(), "-p", password).stdout.strip()
    assert matches(stored, password.encode()), stored
    assert matches(stored, password.encode() + b"!") == (scheme == b"BLF-CRYPT" and len(password) >= 72)
    assert not matches(stored, b"!" + password.encode())
    assert matches(
        stored.lower().replace(stored.partition(b"}")[2].lower(), stored.partition(b"}")[2]), password.encode()
    )


def doveadm(*words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([peer("/usr/bin/doveadm"), "pw", *words], capture_output=True, check=False)


def test_the_name_of_a_scheme_may_be_in_lower_case() -> None:
    assert matches(b"{plain}secret", b"secret")
    assert plaintext(b"{Plain}secret") == b"secret"


def test_only_the_first_72_bytes_of_a_password_count_for_bcrypt() -> None:
    """As for crypt(3) and Dovecot. No such password is stored: its user may think that the rest counts."""
    stored = make(b"BLF-CRYPT", b"x" * 72, 4)
    assert matches(stored, b"x" * 72)
    assert matches(stored, b"x" * 73)
    assert matches(stored, b"x" * 72 + b"y" * 400)
    assert not matches(stored, b"x" * 71 + b"y" * 400)
    assert not matches(stored, b"x" * 71)
    with pytest.raises(ValueError, match="72 bytes"):
        make(b"BLF-CRYPT", b"x" * 73)


EMPTY = [b"{PLAIN}", b"{SCRAM-SHA-256}", b"{ARGON2ID}", b"{BLF-CRYPT}"]


@pytest.mark.parametrize("stored", EMPTY)
@pytest.mark.parametrize("password", [b"", b"x"])
def test_an_empty_stored_password_never_matches(stored: bytes, password: bytes) -> None:
    assert not matches(stored, password)
    assert plaintext(stored) is None
    assert not cram_matches(stored, b"<1@x>", cram_md5(b"", b"<1@x>"))


@ALL
def test_an_empty_password_does_not_match_even_its_own_hash(scheme: bytes) -> None:
    assert not matches(make(scheme, b"", LEAST_WORK[scheme]), b"")


VALUE = Verifier.from_password(b"secret", b"s" * 16, 4096).value()
SALT, STORED_KEY, SERVER_KEY = VALUE.split(b",")[1:]
MALFORMED = {  # stored secret -> part of the error message
    b"secret": b"no {SCHEME}",
    b"": b"no {SCHEME}",
    b"{PLAIN": b"no {SCHEME}",
    b"PLAIN}secret": b"no {SCHEME}",
    b" {PLAIN}secret": b"no {SCHEME}",
    b"{}secret": b"not one of SCRAM-SHA-256 ARGON2ID BLF-CRYPT PLAIN",
    b"{MD5-CRYPT}$1$abc": b"not one of",
    b"{PLAIN.b64}c2VjcmV0": b"not one of",
    b"{PLAIN }secret": b"not one of",
    b"{SCRAM-SHA-256}secret": b"is not followed by",
    b"{SCRAM-SHA-256}4096": b"is not followed by",
    b"{SCRAM-SHA-256}" + VALUE + b",": b"is not followed by",
    b"{SCRAM-SHA-256}" + VALUE[:-1]: b"is not followed by",
    b"{SCRAM-SHA-256}+4096,%b,%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4_096,%b,%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256} 4096,%b,%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4096,,%b,%b" % (STORED_KEY, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4096,%b,%b," % (SALT, STORED_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4096,%b,%b,%b" % (SALT, SALT, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4096,%b,!%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"is not followed by",
    b"{SCRAM-SHA-256}4095,%b,%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"must have 4096 to 10000000",
    b"{SCRAM-SHA-256}10000001,%b,%b,%b" % (SALT, STORED_KEY, SERVER_KEY): b"must have 4096 to 10000000",
    b"{SCRAM-SHA-256}%b,%b,%b,%b" % (b"9" * 5000, SALT, STORED_KEY, SERVER_KEY): b"must have 4096 to 10000000",
    b"{ARGON2ID}secret": b"{ARGON2ID} cannot be checked",
    b"{ARGON2ID}$argon2i$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g": b"{ARGON2ID} cannot be checked",
    b"{ARGON2ID}$argon2id$": b"{ARGON2ID} cannot be checked",
    b"{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1\xff": b"{ARGON2ID} cannot be checked",
    b"{BLF-CRYPT}secret": b"not followed by a bcrypt hash",
    b"{BLF-CRYPT}$2y$05$": b"not followed by a bcrypt hash",
    b"{BLF-CRYPT}$1$abc$def": b"not followed by a bcrypt hash",
    b"{BLF-CRYPT}$2y$99$5Lg/Ie03wnevkL4kLIJnC.0loP5JXzaj43tTNfFYshO4cb7IQQtyS": b"not followed by a bcrypt hash",
}


@pytest.mark.parametrize("stored", MALFORMED)
def test_a_malformed_secret_is_an_error_and_not_a_mismatch(stored: bytes) -> None:
    with pytest.raises(CannotVerify) as caught:
        matches(stored, b"secret")
    assert MALFORMED[stored] in caught.value.why
    assert b"\n" not in caught.value.why


@pytest.mark.parametrize("scheme", PACKAGES, ids=bytes.decode)
def test_a_missing_package_is_an_error_that_names_it(scheme: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = make(scheme, b"secret", LEAST_WORK[scheme])
    module, package = PACKAGES[scheme]
    monkeypatch.setitem(sys.modules, module, None)
    for password in (b"secret", b"wrong"):
        with pytest.raises(CannotVerify) as caught:
            matches(stored, password)
        pip = os.fsencode(sys.executable) + b" -m pip install " + package  # the project itself is on no index
        assert caught.value.why == b"{" + scheme + b"} needs the Python package " + package + b": " + pip


@pytest.mark.parametrize("function", [argon2id_matches, argon2id_matches_without_threads])
def test_argon2id_without_memory_is_an_error_and_not_a_mismatch(function: Callable[[bytes, bytes], bool]) -> None:
    value = make(b"ARGON2ID", b"secret", 1).removeprefix(b"{ARGON2ID}")

    def check() -> None:
        function(value, b"secret")  # loads the modules
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
        try:
            os.write(1, str(function(value, b"secret")).encode())
        except CannotVerify as error:
            os.write(1, error.why)

    assert forked.run(check, ["x"]).stdout == b"{ARGON2ID} cannot be checked: Memory allocation error"


FOUR_LANES = (
    b"{ARGON2ID}$argon2id$v=19$m=256,t=2,p=4$c2FsdHNhbHRzYWx0c2FsdA$q055CnNtQP5nq71Kg0CyyrvgmsMdxVMEE82doxknNpY"
)
NO_VERSION = b"{ARGON2ID}$argon2id$m=256,t=2,p=2$c2FsdHNhbHRzYWx0c2FsdA$MzRBjTIbj/WUya/W3rTT6Vv9zrXqOEe2dSjAundL3Hk"


@pytest.mark.parametrize("stored", [FOUR_LANES, NO_VERSION])
@pytest.mark.parametrize("limits", [[], [("RLIMIT_STACK", 300 << 20), ("RLIMIT_AS", 300 << 20)]])
def test_argon2id_with_several_lanes_is_checked_under_the_limits_of_softlimit(
    stored: bytes, limits: list[tuple[str, int]]
) -> None:
    """softlimit -m limits the stack too, and glibc allocates as much for each thread."""
    code = "import sys; from qmail_smtpd.auth.secret import matches;"
    code += "print([matches(sys.argv[1].encode(), word) for word in (b'secret', b'wrong')])"

    def limit() -> None:
        for name, size in limits:
            resource.setrlimit(getattr(resource, name), (size, size))

    command = [sys.executable, "-c", code, stored.decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert (done.stdout, done.stderr) == ("[True, False]\n", "")


def test_a_new_argon2id_secret_needs_no_thread() -> None:
    code = "import resource; from qmail_smtpd.auth import secret;"
    code += "secret.argon2id_matches_without_threads = None; stored = secret.make(b'ARGON2ID', b'secret');"
    code += "print(secret.matches(stored, b'secret'), secret.matches(stored, b'wrong'))"

    def limit() -> None:
        for name in (resource.RLIMIT_STACK, resource.RLIMIT_AS):
            resource.setrlimit(name, (300 << 20,) * 2)

    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_rounds_outside_the_limits_of_a_scheme_are_refused() -> None:
    for scheme, rounds in (
        (b"SCRAM-SHA-256", 4095),
        (b"SCRAM-SHA-256", 10_000_001),
        (b"BLF-CRYPT", 3),
        (b"BLF-CRYPT", 32),
    ):
        with pytest.raises(ValueError, match=r"\S"):
            make(scheme, b"secret", rounds)


def test_a_plain_password_that_would_end_its_field_is_refused() -> None:
    for password in (b"se:cret", b"secret\r"):
        with pytest.raises(ValueError, match="colon"):
            make(b"PLAIN", password)


# RFC 4013 section 3, and characters that keyboards produce.
PREPARED = {
    "I\u00adX": "IX",
    "user": "user",
    "USER": "USER",
    "\u00aa": "a",
    "\u2168": "IX",
    "a\u0308": "ä",
    "x\u00a0y": "x y",
}


@pytest.mark.parametrize("text", PREPARED)
def test_a_scram_password_is_normalized_as_by_clients(text: str) -> None:
    assert prepared(text.encode()) == PREPARED[text].encode()
    assert matches(make(b"SCRAM-SHA-256", text.encode(), 4096), PREPARED[text].encode())
    assert matches(make(b"SCRAM-SHA-256", PREPARED[text].encode(), 4096), text.encode())


def test_a_scram_password_that_dovecot_hashed_without_normalization_matches() -> None:
    text = "m\u00b2".encode()
    assert prepared(text) == b"m2"
    assert matches(b"{SCRAM-SHA-256}" + Verifier.from_password(text, b"s" * 16, 4096).value(), text)


def test_a_password_in_latin_1_is_not_normalized() -> None:
    assert prepared(b"p\xe4ss") == b"p\xe4ss"
    assert matches(make(b"SCRAM-SHA-256", b"p\xe4ss", 4096), b"p\xe4ss")


def test_the_digests_of_rfc_2195_and_rfc_1939() -> None:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert cram_md5(b"tanstaaftanstaaf", challenge) == b"b913a602c7eda7a495b4e6e7334d3890"
    assert cram_matches(b"{PLAIN}tanstaaftanstaaf", challenge, b"b913a602c7eda7a495b4e6e7334d3890")
    assert cram_matches(b"{PLAIN}tanstaaftanstaaf", challenge, b"B913A602C7EDA7A495B4E6E7334D3890")
    assert not cram_matches(b"{PLAIN}tanstaaftanstaa", challenge, b"b913a602c7eda7a495b4e6e7334d3890")
    assert apop(b"tanstaaf", b"<1896.697170952@dbc.mtview.ca.us>") == b"c4c9334bac560ecc979e58001b3e22fb"


@ALL
def test_only_a_password_in_plain_text_matches_cram_md5(scheme: bytes) -> None:
    stored = make(scheme, b"secret", LEAST_WORK[scheme])
    matched = cram_matches(stored, b"<1@x>", cram_md5(b"secret", b"<1@x>"))
    assert matched == (scheme == b"PLAIN")


def test_a_host_without_md5_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("unsupported hash type md5")

    monkeypatch.setattr("hmac.new", refuse)
    monkeypatch.setattr("hashlib.new", refuse)
    for digest in (cram_md5, apop):
        with pytest.raises(CannotVerify, match="no MD5"):
            digest(b"secret", b"<1@x>")


def test_the_forms_of_digests_and_challenges() -> None:
    assert is_digest(b"0123456789abcdefABCDEF0123456789")
    assert not any(is_digest(text) for text in (b"", b"0" * 31, b"0" * 33, b"g" + b"0" * 31, b" " + b"0" * 31))
    assert is_challenge(b"<1.2@host>")
    assert not any(is_challenge(text) for text in (b"", b"<>", b"1@host>", b"<1@host", b"<1.host>", b" <1@host>"))


@pytest.mark.parametrize(
    "stored", [make(b"PLAIN", b"secret"), make(b"SCRAM-SHA-256", b"secret", 4096)], ids=["plain", "scram"]
)
def test_secrets_are_compared_in_constant_time(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of compare_digest alone."""
    monkeypatch.setattr(hmac, "compare_digest", lambda left, right: True)
    assert matches(stored, b"wrong")
    monkeypatch.setattr(hmac, "compare_digest", lambda left, right: False)
    assert not matches(stored, b"secret")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_match_a_mismatch_or_an_error(stored: bytes, password: bytes) -> None:
    for text in (
        stored,
        b"{PLAIN}" + stored,
        b"{SCRAM-SHA-256}" + stored,
        b"{BLF-CRYPT}" + stored,
        b"{ARGON2ID}" + stored,
    ):
        try:
            assert not matches(text, password) or text == b"{PLAIN}" + password
        except CannotVerify:
            assert not text.startswith(b"{PLAIN}")
