"""The users file: finding a user's line, invalid lines, access rights, and equal work for unknown users."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.auth import secretfile, users
from qmail_smtpd.auth.errors import UnsuitableScheme
from qmail_smtpd.auth.scram import Scram
from qmail_smtpd.auth.secret import cram_md5, make
from qmail_smtpd.auth.users import CannotVerify, Entry, Users, has_scram_password, verify, verify_digest

WriteUsers = Callable[[bytes], bytes]
CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
SCRAM = make(b"SCRAM-SHA-256", b"secret", 4096)
BCRYPT = b"{BLF-CRYPT}$2b$04$ras5S/L7V.ixTOp/3dS6Ye1ZQda1Cu0EokloQNFGNf/8Be7LcfQu6"  # constant: in test ids


@pytest.fixture
def write_users(tmp_path: Path) -> WriteUsers:
    """Return a function that writes the users file and returns its path."""

    def write(content: bytes) -> bytes:
        path = tmp_path / "users"
        path.write_bytes(content)
        path.chmod(0o640)
        return bytes(path)

    return write


FILES = {  # content -> (user, password) pairs that are right
    b"joe:{PLAIN}a\n": [(b"joe", b"a")],
    b"joe:{PLAIN}a": [(b"joe", b"a")],
    b"\n\n# joe:{PLAIN}b\n:joe:{PLAIN}c\njoe:{PLAIN}a\n\n": [(b"joe", b"a")],
    b"joe:{PLAIN}a\njoe:{PLAIN}b\n": [(b"joe", b"a")],
    b"joe:{PLAIN}a\r\nann:{PLAIN}b:1:1::/home/ann\r\n": [(b"joe", b"a"), (b"ann", b"b")],
    b"joey:{PLAIN}b\njo:{PLAIN}c\nJoe:{PLAIN}d\n joe:{PLAIN}e\njoe:{PLAIN}a\n": [
        (b"joe", b"a"),
        (b"Joe", b"d"),
        (b"jo", b"c"),
    ],
    b"joe@example.com:{PLAIN}a\nj\xf6:{PLAIN}\xf6\nwith blank:{PLAIN}with blank\n": [
        (b"joe@example.com", b"a"),
        (b"j\xf6", b"\xf6"),
        (b"with blank", b"with blank"),
    ],
    b"joe:{PLAIN}{PLAIN}a,b\n": [(b"joe", b"{PLAIN}a,b")],
    b"joe:%b:1000:1000::/home/joe::userdb_mail=maildir:~/Maildir\n" % SCRAM: [(b"joe", b"secret")],
    b"joe:%b\n" % BCRYPT: [(b"joe", b"secret")],
}
NAMES = (
    b"",
    b"joe",
    b"Joe",
    b"JOE",
    b"jo",
    b"# joe",
    b"#",
    b":",
    b":joe",
    b"ann",
    b"j\xf6",
    b"joe@example.com",
    b"joe:{PLAIN}a",
)
PASSWORDS = (b"", b"a", b"b", b"c", b"{PLAIN}a,b", b"secret", b"Secret", b"a\r", b"\xf6", b"a:1:1::/home/ann")


@pytest.mark.parametrize("content", FILES)
def test_the_first_line_with_exactly_this_name_counts(content: bytes, write_users: WriteUsers) -> None:
    path, right = write_users(content), FILES[content]
    assert all(verify(path, *pair) for pair in right)
    wrong = [(user, password) for user in NAMES for password in PASSWORDS if (user, password) not in right]
    assert not any(verify(path, *pair) for pair in wrong)


def test_digests_match_only_passwords_in_plain_text(write_users: WriteUsers) -> None:
    path = write_users(b"tim:{PLAIN}tanstaaftanstaaf\nann:%b\n" % SCRAM)
    assert verify_digest(path, b"tim", CHALLENGE, b"b913a602c7eda7a495b4e6e7334d3890")
    assert not verify_digest(path, b"tim", CHALLENGE, b"c913a602c7eda7a495b4e6e7334d3890")
    assert not verify_digest(path, b"tim", CHALLENGE[:-1], b"b913a602c7eda7a495b4e6e7334d3890")
    assert not verify_digest(path, b"tim", CHALLENGE, b"tanstaaftanstaaf")
    assert not verify_digest(path, b"nobody", CHALLENGE, cram_md5(b"secret", CHALLENGE))
    for password in (b"secret", b"wrong"):
        with pytest.raises(UnsuitableScheme):
            verify_digest(path, b"ann", CHALLENGE, cram_md5(password, CHALLENGE))
    assert not verify_digest(path, b"nobody", CHALLENGE, cram_md5(b"-", CHALLENGE))


LINES = {  # a line of joe's -> part of the error message
    b"joe": b"no password",
    b"joe:secret": b"no {SCHEME}",
    b"joe:{MD5-CRYPT}$1$x": b"the scheme of the password is not one of",
    b"joe:{SCRAM-SHA-256}4096": b"{SCRAM-SHA-256} is not followed by",
    b"joe:{PLAIN}a::::::nologin": b"extra fields",
    b"joe:{PLAIN}a::::::userdb_mail=x allow_nets=127.0.0.0/8": b"extra fields",
    b"joe:{PLAIN}a::::::allow_nets=::1": b"extra fields",
}


@pytest.mark.parametrize("line", LINES)
def test_an_invalid_line_is_an_error_for_its_user_only(line: bytes, write_users: WriteUsers) -> None:
    path = write_users(b"# users\n%b\nann:{PLAIN}a\n" % line)
    for password in (b"secret", b"wrong"):
        with pytest.raises(CannotVerify) as caught:
            verify(path, b"joe", password)
        assert caught.value.why.startswith(path + b", line 2: ")
        assert LINES[line] in caught.value.why
        assert b"joe" not in caught.value.why.removeprefix(path)
    assert verify(path, b"ann", b"a")
    assert not verify(path, b"ann", b"b")
    assert not verify(path, b"nobody", b"a")


@pytest.mark.parametrize("content", [b"joe:\n", b"joe::1:1::/home/joe\n", b"joe:{PLAIN}\n", b"joe:{PLAIN}:1:1\n"])
def test_no_password_is_right_for_a_user_without_one(content: bytes, write_users: WriteUsers) -> None:
    path = write_users(content)
    assert not any(verify(path, b"joe", password) for password in (b"", b"-", b"{PLAIN}", b"x"))
    assert not verify_digest(path, b"joe", CHALLENGE, cram_md5(b"", CHALLENGE))
    assert not verify_digest(path, b"joe", CHALLENGE, cram_md5(b"-", CHALLENGE))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o642, 0o666, 0o777])
def test_a_world_readable_or_world_writable_file_is_refused(mode: int, write_users: WriteUsers) -> None:
    path = write_users(b"joe:{PLAIN}a\n")
    os.chmod(path, mode)
    with pytest.raises(CannotVerify, match="is world-readable or world-writable"):
        verify(path, b"joe", b"a")
    for allowed in (0o600, 0o640, 0o660, 0o400, 0o641):
        os.chmod(path, allowed)
        assert verify(path, b"joe", b"a")


def test_an_unreadable_file_is_an_error_without_delay(tmp_path: Path, write_users: WriteUsers) -> None:
    for name, why in {
        "none": b"file does not exist",
        ".": b"not a file",
        "pipe": b"not a file",
        "socket": b"device not configured",
    }.items():
        path = bytes(tmp_path / name)
        if name == "pipe":
            os.mkfifo(path, 0o600)
        if name == "socket":
            os.mknod(path, stat.S_IFSOCK)
        with pytest.raises(CannotVerify) as caught:
            verify(path, b"joe", b"a")
        assert caught.value.why == b"unable to read " + path + b": " + why


def test_a_file_over_the_size_limit_is_refused(write_users: WriteUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_users(b"joe:{PLAIN}a\n" + b"#" * 1000)
    monkeypatch.setattr(secretfile, "LARGEST", 1000)
    with pytest.raises(CannotVerify, match="has more than 1000 bytes"):
        verify(path, b"joe", b"a")
    monkeypatch.setattr(secretfile, "LARGEST", 1013)
    assert verify(path, b"joe", b"a")


def test_no_descriptor_is_left_open(write_users: WriteUsers) -> None:
    path = write_users(b"joe:{PLAIN}a\nann:b\n")
    before = os.listdir("/proc/self/fd")
    verify(path, b"joe", b"a")
    with pytest.raises(CannotVerify):
        verify(path, b"ann", b"a")
    os.chmod(path, 0o644)
    with pytest.raises(CannotVerify):
        verify(path, b"joe", b"a")
    assert os.listdir("/proc/self/fd") == before


def test_a_change_takes_effect_at_the_next_login(write_users: WriteUsers) -> None:
    path = write_users(b"joe:{PLAIN}a\n")
    assert verify(path, b"joe", b"a")
    write_users(b"joe:{PLAIN}b\n")
    assert verify(path, b"joe", b"b")
    assert not verify(path, b"joe", b"a")
    os.unlink(path)
    with pytest.raises(CannotVerify):
        verify(path, b"joe", b"b")


WORK = {  # content -> the iterations for a wrong password of joe, and also of an unknown user
    b"joe:%b\nann:{PLAIN}a\n" % SCRAM: [4096],
    b"ann:{PLAIN}a\njoe:%b\n" % SCRAM: [4096],
    b"joe:{PLAIN}a\nann:%b\n" % SCRAM: [4096],
    b"joe:{MD5}x\nann:%b\n" % SCRAM: [4096],
    b"joe:\nann:%b\n" % SCRAM: [4096],
    b"bob:{MD5}x\nbob:{SCRAM-SHA-256}\nann:%b\njoe:{PLAIN}x\n" % SCRAM: [4096],
    b"joe:{PLAIN}a\nann:{PLAIN}b\n": [],
}


@pytest.mark.parametrize("content", WORK)
def test_a_wrong_password_takes_the_same_work_for_known_and_unknown_users(
    content: bytes, write_users: WriteUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, counts = hashlib.pbkdf2_hmac, []

    def counted(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        counts.append(iterations)
        return original(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    path = write_users(content)
    assert not verify(path, b"nobody", b"wrong")
    assert counts == WORK[content]
    if b"{MD5}" not in content.partition(b"\n")[0]:
        counts.clear()
        assert not verify(path, b"joe", b"wrong")
        assert counts == WORK[content]


def test_all_lines_with_a_name_are_found() -> None:
    users_file = Users.__new__(Users)
    users_file.path = b"users"
    lines = [b"joe:{PLAIN}a", b"joey:{PLAIN}b", b"#joe:x", b"joe", b"ann:{PLAIN}joe:", b"joe\r", b"joe:{PLAIN}c"]
    users_file.content = b"\n".join(lines)
    begins = [len(b"\n".join([*lines[:number], b""])) for number in (0, 3, 5, 6)]
    assert users_file.line_starts(b"joe") == begins
    assert users_file.line_starts(b"nobody") == []
    assert [users_file.location(Entry(b"", begin)) for begin in begins] == [
        b"users, line %d: " % n for n in (1, 4, 6, 7)
    ]


def test_an_invalid_decoy_is_no_error_for_other_users(write_users: WriteUsers) -> None:
    path = write_users(b"ann:{SCRAM-SHA-256}broken\njoe:{PLAIN}a\n")
    assert not verify(path, b"nobody", b"a")
    assert not verify(path, b"joe", b"wrong")
    assert verify(path, b"joe", b"a")


def test_the_fields_of_an_entry() -> None:
    entry = Entry(b"joe:{PLAIN}a:1000:1001:Joe, the first:/home/joe:/bin/zsh:userdb_x=1:2", 7)
    assert (entry.secret, entry.field(users.UID), entry.field(users.HOME), entry.shell) == (
        b"{PLAIN}a",
        b"1000",
        b"/home/joe",
        b"/bin/zsh",
    )
    entry.check_fields()
    short = Entry(b"joe:{PLAIN}a", 7)
    assert (short.field(users.UID), short.field(users.HOME), short.shell) == (b"", b"", b"/bin/sh")


@given(st.binary(max_size=200), st.binary(max_size=20), st.binary(max_size=20))
def test_any_bytes_give_an_entry_or_an_error(content: bytes, user: bytes, password: bytes) -> None:
    users_file = Users.__new__(Users)
    users_file.path, users_file.content = b"users", content
    try:
        entry = users_file.find(user)
    except CannotVerify:
        return
    assert entry is None or content[entry.start :].split(b"\n")[0].removesuffix(b"\r").split(b":")[0] == user != b""
    assert entry is None or content[: entry.start].endswith(b"\n") or entry.start == 0


@given(st.lists(st.sampled_from([b"joe", b":", b"{PLAIN}", b"a", b"\n", b"#", b"\r", b" "]), max_size=12).map(b"".join))
def test_lookup_equals_a_search_line_by_line(content: bytes) -> None:
    users_file = Users.__new__(Users)
    users_file.path, users_file.content = b"users", content
    lines = [line.removesuffix(b"\r") for line in content.split(b"\n") if not line.startswith((b"#", b":"))]
    first = next((line for line in lines if line.split(b":")[0] == b"joe"), None)
    try:
        entry = users_file.find(b"joe")
        assert (entry is None) == (first is None)
        assert entry is None or b":".join(entry.fields) == first
    except CannotVerify:
        assert first == b"joe" or len(first.split(b":")) > users.EXTRA  # type: ignore[union-attr]


USED_FOR_SCRAM = {  # content -> whether a password in it can be used for SCRAM-SHA-256
    b"": False,
    b"joe:%b\n" % BCRYPT: False,
    b"joe:%b\n" % SCRAM: True,
    b"joe:{plain}a": True,
    b"joe:%b:1:1::/home/joe\r\nann:%b\r\n" % (BCRYPT, SCRAM): True,
    b"#joe:{PLAIN}a\n:joe:{PLAIN}a\n\n": False,
    b"joe:%b::::/home:{PLAIN}a\n" % BCRYPT: False,
    b"joe:%b::::/home:{PLAIN}a\nann:{PLAIN}a\n" % BCRYPT: True,
    b"joe:{SCRAM-SHA-1}x\nann:{PLAIN.b64}x\n": False,
    b"{PLAIN}a\njoe {PLAIN}a\n": False,
    b"joe:%b\n" % BCRYPT * 3000 + b"ann:{PLAIN}a\n": True,  # in another block than the first lines
    b"j" * 200_000 + b":%b\n" % BCRYPT: False,  # a line that is longer than a block
    b"joe:%b" % BCRYPT + b":" * 200_000 + b"{PLAIN}a:{PLAIN}a\n": False,
}


@pytest.mark.parametrize("content", USED_FOR_SCRAM, ids=range(len(USED_FOR_SCRAM)))
def test_the_schemes_in_the_file_show_whether_scram_can_be_used(content: bytes, write_users: WriteUsers) -> None:
    assert has_scram_password(write_users(content)) == USED_FOR_SCRAM[content]


@pytest.mark.parametrize("user", [b"nobody", b"user5"])
def test_a_failed_login_does_not_split_each_line(
    user: bytes, write_users: WriteUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a million users that would cost a second for each attempt."""
    path = write_users(b"".join(b"user%d:{PLAIN}x\n" % number for number in range(1000)))
    split = []
    monkeypatch.setattr(users, "Entry", lambda *words: split.append(words) or Entry(*words))
    assert not verify(path, user, b"wrong")
    assert Scram(path).step(b"n,,n=%b,r=abc" % user).startswith(b"r=abc")
    assert len(split) < 10


@pytest.mark.parametrize("order", [(BCRYPT, SCRAM), (SCRAM, BCRYPT)])
def test_the_decoy_is_the_first_hash_of_the_file(order: tuple[bytes, bytes], write_users: WriteUsers) -> None:
    path = write_users(b"#ann:%b\nann:{PLAIN}a\nempty:{SCRAM-SHA-256}\n" % BCRYPT + b"x:%b\ny:%b\n" % order)
    assert Users(path).decoy() == order[0]
    assert Users(write_users(b"ann:{PLAIN}a\n")).decoy() == b"{PLAIN}-"


def test_the_search_for_a_scheme_ends_at_the_first_one(
    write_users: WriteUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, blocks = write_users(b"joe:%b\n" % SCRAM * 3000), []
    read = os.read
    monkeypatch.setattr(os, "read", lambda *words: blocks.append(words) or read(*words))
    assert has_scram_password(path)
    assert len(blocks) == 1


@pytest.mark.parametrize("boundary", range(-8, 24))
def test_an_entry_may_lie_in_two_blocks(boundary: int, write_users: WriteUsers) -> None:
    filler = b"#" * (secretfile.BLOCK - boundary) + b"\n"
    assert has_scram_password(write_users(filler + b"joe:%b\n" % SCRAM))
    assert not has_scram_password(write_users(filler + b"joe:%b\n" % BCRYPT))
