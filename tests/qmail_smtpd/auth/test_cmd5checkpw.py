"""cmd5checkpw: djb's interface, CRAM-MD5 in both orders, APOP, and the password file, read as by the original."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.auth.checker import Credentials, accepts
from qmail_smtpd.auth.cmd5checkpw import check_credentials, find_password, main
from qmail_smtpd.auth.secret import apop, cram_md5, make
from tests.kit import forked
from tests.kit.checkerrun import ask, fields

ACCEPTED, REFUSED, MISUSED, FAILED = 0, 1, 2, 111
CRAM = b"<1896.697170952@postoffice.reston.mci.net>"
CRAM_DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"
APOP = b"<1896.697170952@dbc.mtview.ca.us>"
APOP_DIGEST = b"c4c9334bac560ecc979e58001b3e22fb"
USERS = b"tim:tanstaaftanstaaf\nmrose:tanstaaf\nempty:\nodd:<a@b>\nhex:0123456789abcdef0123456789abcdef\n"


@pytest.fixture
def poppasswd(tmp_path: Path) -> Path:
    path = tmp_path / "poppasswd"
    path.write_bytes(USERS)
    path.chmod(0o600)
    return path


def check(poppasswd: Path, given: bytes, *program: str) -> forked.Result:
    return ask(main, given, program or ("true",), {b"POPPASSWD": bytes(poppasswd)})


LOGINS = {  # fields -> exit code
    # PLAIN and LOGIN: the third field can be anything
    (b"tim", b"tanstaaftanstaaf"): ACCEPTED,
    (b"tim", b"tanstaaftanstaaf", b""): ACCEPTED,
    (b"tim", b"tanstaaftanstaaf", b"<1.2@host>"): ACCEPTED,
    (b"tim", b"tanstaaftanstaaf", b"Thu, 1 Jan", b"more"): ACCEPTED,
    (b"tim", b"tanstaaf", b""): REFUSED,
    (b"tim", b"", b""): REFUSED,
    (b"tim", b"tanstaaftanstaaf\n", b""): REFUSED,
    (b"Tim", b"tanstaaftanstaaf", b""): REFUSED,
    (b"nobody", b"tanstaaf", b""): REFUSED,
    (b"nobody", b"-", b""): REFUSED,
    (b"", b"", b""): REFUSED,
    (b"", b"x", b""): REFUSED,
    # CRAM-MD5, the challenge before the digest (up to 0.31) and after it (since)
    (b"tim", CRAM, CRAM_DIGEST): ACCEPTED,
    (b"tim", CRAM_DIGEST, CRAM): ACCEPTED,
    (b"tim", CRAM_DIGEST.upper(), CRAM): ACCEPTED,
    (b"mrose", CRAM_DIGEST, CRAM): REFUSED,
    (b"nobody", CRAM_DIGEST, CRAM): REFUSED,
    (b"nobody", cram_md5(b"-", CRAM), CRAM): REFUSED,
    (b"tim", CRAM_DIGEST[:-1], CRAM): REFUSED,
    (b"tim", CRAM_DIGEST, CRAM[:-1]): REFUSED,
    (b"tim", CRAM_DIGEST, CRAM[1:-1]): REFUSED,
    (b"tim", CRAM_DIGEST, b"<x" + CRAM[1:]): REFUSED,
    (b"tim", CRAM_DIGEST): REFUSED,
    (b"tim", CRAM_DIGEST, b""): REFUSED,
    (b"tim", b"", CRAM_DIGEST): REFUSED,
    (b"tim", CRAM, b""): REFUSED,
    # APOP
    (b"mrose", APOP_DIGEST, APOP): ACCEPTED,
    (b"mrose", APOP, APOP_DIGEST): ACCEPTED,
    (b"tim", APOP_DIGEST, APOP): REFUSED,
    # two challenges or two digests
    (b"tim", CRAM, CRAM): REFUSED,
    (b"tim", CRAM, b"<1.2@host>"): REFUSED,
    (b"tim", CRAM_DIGEST, CRAM_DIGEST): REFUSED,
    # passwords in the form of a challenge or digest
    (b"odd", b"<a@b>", b""): ACCEPTED,
    (b"odd", b"<a@b>", b"<1.2@host>"): ACCEPTED,
    (b"odd", cram_md5(b"<a@b>", CRAM), CRAM): ACCEPTED,
    (b"hex", b"0123456789abcdef0123456789abcdef", CRAM): ACCEPTED,
    (b"hex", b"0123456789ABCDEF0123456789ABCDEF", CRAM): REFUSED,
    # an empty password, and digests of it
    (b"empty", b"", b""): REFUSED,
    (b"empty", cram_md5(b"", CRAM), CRAM): REFUSED,
    (b"empty", cram_md5(b"-", CRAM), CRAM): REFUSED,
    (b"empty", apop(b"", APOP), APOP): REFUSED,
}


@pytest.mark.parametrize("parts", LOGINS)
def test_these_logins_are_accepted_or_refused(parts: tuple[bytes, ...], poppasswd: Path) -> None:
    done = check(poppasswd, fields(*parts), "echo", "in")
    assert (done.exit, done.stdout, done.stderr) == (LOGINS[parts], b"in\n" if LOGINS[parts] == ACCEPTED else b"", b"")


def test_the_last_field_may_lack_its_nul(poppasswd: Path) -> None:
    assert check(poppasswd, b"tim\0" + CRAM_DIGEST + b"\0" + CRAM).exit == ACCEPTED


@pytest.mark.parametrize("given", [b"", b"tim", b"tim\0", b"tim\0tanstaaftanstaaf", b"x" * 512])
def test_fewer_than_two_fields_are_misuse(given: bytes, poppasswd: Path) -> None:
    done = check(poppasswd, given)
    assert (done.exit, done.stderr) == (MISUSED, b"cmd5checkpw: fatal: no login and password on descriptor 3\n")


def test_a_missing_program_is_misuse(poppasswd: Path) -> None:
    done = ask(main, fields(b"tim", b"tanstaaftanstaaf"), (), {b"POPPASSWD": bytes(poppasswd)})
    assert (done.exit, done.stderr) == (MISUSED, b"cmd5checkpw: usage: cmd5checkpw prog\n")


def test_512_bytes_are_accepted_and_513_refused(poppasswd: Path) -> None:
    right = fields(b"tim", b"tanstaaftanstaaf")
    assert check(poppasswd, right + b"x" * (512 - len(right))).exit == ACCEPTED
    done = check(poppasswd, right + b"x" * (513 - len(right)))
    assert (done.exit, done.stderr) == (REFUSED, b"")
    assert check(poppasswd, right + b"x" * 5000).exit == REFUSED


FILES = {  # content -> the password of joe
    b"joe:secret": b"secret",
    b"joe:secret\n": b"secret",
    b"ann:x\n\n\njoe:secret\n": b"secret",
    b"joe:secret\njoe:other\n": b"secret",
    b"joey:x\nJoe:y\njoe:secret\n": b"secret",
    b"joe:secret:a comment\n": b"secret",
    b"joe: secret \n": b" secret ",
    b"joe:secret\r\nann:x\r\n": b"secret",
    b"joe:secret:more\r\n": b"secret",
    b"joe:\r\n": b"",
    b"joe:se\rcret\r\r\n": b"se\rcret\r",
    b"\xef\xbb\xbfjoe:secret\r\n": b"secret",
    b"#joe:x\njoe:secret\n": b"secret",
    b"joe:p\xe4ss\n": b"p\xe4ss",
    b"joe:\n": b"",
    b"joe\n": b"",
    b"joe::x\n": b"",
    b"": None,
    b" joe:secret\n": None,
    b"joe :secret\n": None,
}


@pytest.mark.parametrize("content", FILES)
def test_the_file_is_read_as_by_the_original(content: bytes) -> None:
    assert find_password(content, b"joe") == FILES[content]


def test_a_world_readable_or_world_writable_file_is_refused(poppasswd: Path) -> None:
    for mode in (0o644, 0o602):
        poppasswd.chmod(mode)
        done = check(poppasswd, fields(b"tim", b"tanstaaftanstaaf"))
        assert done.exit == FAILED
        assert done.stderr == b"cmd5checkpw: fatal: %b is world-readable or world-writable: chmod o-rw\n" % bytes(
            poppasswd
        )
    poppasswd.chmod(0o640)
    assert check(poppasswd, fields(b"tim", b"tanstaaftanstaaf")).exit == ACCEPTED


def test_a_missing_file_is_a_failure(poppasswd: Path) -> None:
    poppasswd.unlink()
    done = check(poppasswd, fields(b"tim", b"tanstaaftanstaaf"))
    text = b"cmd5checkpw: fatal: unable to read %b: file does not exist\n" % bytes(poppasswd)
    assert (done.exit, done.stderr) == (FAILED, text)


def test_the_default_file_is_etc_poppasswd(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    monkeypatch.setattr("qmail_smtpd.auth.secretfile.read", lambda path: paths.append(path) or USERS)
    assert check_credentials(Credentials(b"tim", b"tanstaaftanstaaf", b""), {})
    assert not check_credentials(Credentials(b"tim", b"x", b""), {b"POPPASSWD": b"other"})
    assert paths == [b"/etc/poppasswd", b"other"]


def test_the_environment_is_not_changed(poppasswd: Path) -> None:
    environ = {b"POPPASSWD": bytes(poppasswd), b"HOME": b"/here", b"X": b"1"}
    done = ask(main, fields(b"tim", b"tanstaaftanstaaf"), ("env",), environ)
    expected = {b"PATH=/usr/bin:/bin", b"HOME=/here", b"X=1", b"POPPASSWD=" + bytes(poppasswd)}
    assert set(done.stdout.splitlines()) == expected


@given(
    st.sampled_from([b"secret", b"<a@b>", b"0" * 32]),
    st.sampled_from([b"", b"secret", b"<a@b>", b"0" * 32, cram_md5(b"secret", b"<a@b>"), apop(b"secret", b"<a@b>")]),
    st.sampled_from([b"", b"secret", b"<a@b>", b"0" * 32, cram_md5(b"secret", b"<a@b>"), apop(b"secret", b"<a@b>")]),
)
def test_only_a_password_or_a_digest_with_its_challenge_is_accepted(
    password: bytes, second: bytes, third: bytes
) -> None:
    pairs = {(digest(password, b"<a@b>"), b"<a@b>") for digest in (cram_md5, apop)}
    right = second == password or (second, third) in pairs or (third, second) in pairs
    assert accepts(b"{PLAIN}" + password, Credentials(b"joe", second, third)) == right


def test_a_hashed_secret_answers_no_challenge() -> None:
    for scheme, rounds in ((b"SCRAM-SHA-256", 4096), (b"BLF-CRYPT", 4), (b"ARGON2ID", 1)):
        stored = make(scheme, b"secret", rounds)
        for digest in (cram_md5(b"secret", CRAM), apop(b"secret", CRAM)):
            assert not accepts(stored, Credentials(b"joe", digest, CRAM))
            assert not accepts(stored, Credentials(b"joe", CRAM, digest))
        assert accepts(stored, Credentials(b"joe", b"secret", CRAM))
