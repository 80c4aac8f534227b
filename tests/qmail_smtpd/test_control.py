"""Control files, which are read as by the original."""

import os
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd import control
from qmail_smtpd.control_checks import UNREAD
from qmail_smtpd.smtp.replies import CONTROLS_UNREADABLE
from qmail_smtpd.smtp.settings import Unreadable
from tests.kit.support import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "control").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"mx.test\n", b"mx.test"),
        (b"mx.test", b"mx.test"),
        (b"  mx.test \t \nsecond\n", b"  mx.test"),
        (b"#mx.test\n", b"#mx.test"),
        (b"mx.test\r\n", b"mx.test\r"),
        (b"", b""),
        (b"\nsecond\n", b""),
        (b"a\0b\n", b"a\0b"),
        (b"a\v\f \n", b"a\v\f"),
    ],
)
def test_a_line_is_the_unchanged_first_line(home: Path, content: bytes, line: bytes) -> None:
    (home / "control/me").write_bytes(content)
    assert control.read_line(b"me") == line


def test_a_missing_file_is_none(home: Path) -> None:
    assert control.read_line(b"me") is None
    assert control.read_list(b"me") is None


@pytest.mark.parametrize("read", [control.read, control.read_line, control.read_list])
def test_reading_a_directory_is_an_error(home: Path, read: object) -> None:
    (home / "control/me").mkdir()
    with pytest.raises(Unreadable) as caught:
        read(b"me")  # type: ignore[operator]
    assert caught.value.reply == CONTROLS_UNREADABLE
    assert caught.value.why == b"unable to read control/me: is a directory"


def why(read: Callable[[], object]) -> bytes:
    """Return the line for the log about a file that cannot be read."""
    with pytest.raises(Unreadable) as caught:
        read()
    return caught.value.why


def test_a_fifo_is_an_error_and_not_an_empty_list(home: Path) -> None:
    os.mkfifo(home / "control/badmailfrom")
    assert why(lambda: control.read_list(b"badmailfrom")) == b"unable to read control/badmailfrom: invalid argument"


def test_a_link_to_dev_null_is_an_empty_file(home: Path) -> None:
    (home / "control/rcpthosts").symlink_to("/dev/null")
    assert control.read_list(b"rcpthosts") == frozenset()


READERS: list[Callable[[bytes], object]] = [
    control.read,
    control.read_line,
    control.read_list,
    control.open_control,
    lambda name: control.authsenders(b"joe"),
]


@pytest.mark.parametrize("read", READERS)
def test_a_link_that_leads_nowhere_is_an_error_and_not_a_missing_file(
    home: Path, read: Callable[[bytes], object]
) -> None:
    (home / "control/authsenders").symlink_to("nowhere")
    assert why(lambda: read(b"authsenders")) == b"unable to read control/authsenders: file does not exist"
    (home / "control/nowhere").write_bytes(b"")
    read(b"authsenders")


@pytest.mark.parametrize("directory", ["control", ""])
def test_a_directory_that_is_a_link_leading_nowhere_is_an_error(tmp_path: Path, directory: str) -> None:
    home = tmp_path / "home"
    if directory:
        home.mkdir()
    (home / directory).symlink_to("nowhere")
    assert why(lambda: control.read(b"norelay", bytes(home))) == b"unable to read control/norelay: file does not exist"
    assert control.exists(b"servercert.pem", bytes(home))


def test_a_missing_directory_has_no_files(tmp_path: Path) -> None:
    assert control.read(b"norelay", bytes(tmp_path / "none")) is None
    assert control.exists(b"servercert.pem", bytes(tmp_path / "none")) is False


@pytest.mark.parametrize(
    "make", [lambda at: (at.touch(), os.truncate(at, 1 << 40)), lambda at: at.symlink_to("/dev/zero")]
)
def test_a_file_that_is_too_large_for_a_list_is_an_error(home: Path, make: Callable[[Path], object]) -> None:
    make(home / "control/rcpthosts")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert why(lambda: control.read(b"rcpthosts")) == b"unable to read control/rcpthosts: file too big"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * control.LARGEST // 1024


def test_a_cached_file_that_becomes_a_dangling_link_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "cache_enabled", [True])
    monkeypatch.setattr(control, "current_cache", [])
    monkeypatch.setattr(control, "SETTLED", 0.0)
    (home / "lists").write_bytes(b"a.test\n")
    (home / "control/rcpthosts").symlink_to("../lists")
    for _ in range(2):
        control.enter(bytes(home))
        assert control.cached("hosts", lambda: control.read_list(b"rcpthosts")) == {b"a.test"}
    (home / "lists").unlink()  # control/ itself has not changed
    for _ in range(2):
        control.enter(bytes(home))
        with pytest.raises(Unreadable):
            control.cached("hosts", lambda: control.read_list(b"rcpthosts"))
    (home / "lists").write_bytes(b"b.test\n")
    control.enter(bytes(home))
    assert control.cached("hosts", lambda: control.read_list(b"rcpthosts")) == {b"b.test"}


def test_a_loop_of_links_is_an_error_and_not_a_missing_file(home: Path) -> None:
    (home / "control/me").symlink_to("me")
    with pytest.raises(Unreadable):
        control.read_line(b"me")


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (b"6", b"6"),
        (b"6k", b"6"),
        (b"007\0", b"007"),
        (b"0", b"0"),
        (b"", b""),
        (b" 3", b""),
        (b"-1", b""),
        (b"+1", b""),
        (b"abc", b""),
        (b"1_000", b"1"),
        (b"\xd9\xa1", b""),
    ],
)
def test_only_leading_ascii_digits_are_a_number(text: bytes, digits: bytes) -> None:
    assert control.leading_digits(text) == digits


@pytest.mark.parametrize(
    ("digits", "number"),
    [
        (b"", 0),
        (b"0", 0),
        (b"007", 7),
        (b"4294967295", 4294967295),
        (b"4294967296", 0),
        (b"4294967297", 1),
        (b"18446744073709551621", 5),
        (b"1" + b"0" * 8000 + b"42", 42),
    ],
)
def test_numbers_wrap_around_as_in_the_original(digits: bytes, number: int) -> None:
    assert control.unsigned(digits) == number


@pytest.mark.parametrize(
    ("content", "entries"),
    [
        (b"A.test\n.B.test\n", {b"a.test", b".b.test"}),
        (b"a.test \t\n\n#c\n  \n", {b"a.test"}),
        (b" a.test\n", {b" a.test"}),
        (b" #c\n", {b" #c"}),
        (b"a.test # c\n", {b"a.test # c"}),
        (b"a.test\r\n", {b"a.test\r"}),
        (b"a\0b\0\n", {b"a", b"b", b""}),
        (b"\0a\n", set()),
        (b"last", {b"last"}),
        (b"", set()),
        (b"\xc3\x84.test\n", {b"\xc3\x84.test"}),  # only ASCII letters are lower-cased
        (b"a\vb\x85c\n", {b"a\vb\x85c"}),
    ],
)
def test_a_list_has_these_entries(home: Path, content: bytes, entries: set[bytes]) -> None:
    (home / "control/rcpthosts").write_bytes(content)
    assert control.read_list(b"rcpthosts") == entries


AUTHSENDERS = b"""# user: senders
joe: Joe@ok.test @list.test\t*@not.a.pattern
 ann :ann@ok.test
joe:second@ok.test
nobody:
JOE: *
crlf: crlf@ok.test\r
no colon
a:b: x@ok.test
j\xf6: *
"""


@pytest.mark.parametrize(
    ("user", "senders"),
    [
        (b"joe", {b"joe@ok.test", b"@list.test", b"*@not.a.pattern", b"second@ok.test"}),
        (b"ann", {b"ann@ok.test"}),
        (b"JOE", {b"*"}),  # the case of user names matters: joe and JOE are two users
        (b"crlf", {b"crlf@ok.test"}),
        (b"j\xf6", {b"*"}),
        (b"nobody", set()),
        (b"jo", set()),
        (b"joe:", set()),
        (b"a:b", set()),
        (b" ann ", set()),
        (b"no colon", set()),
        (b"# user", set()),
        (b"*", set()),
    ],
)
def test_authsenders_of_a_user_are_those_of_exactly_this_name(home: Path, user: bytes, senders: set[bytes]) -> None:
    assert control.authsenders(user) is None
    (home / "control/authsenders").write_bytes(AUTHSENDERS)
    assert control.authsenders(user) == senders


def test_a_byte_order_mark_hides_no_user_of_authsenders(home: Path) -> None:
    (home / "control/authsenders").write_bytes(b"\xef\xbb\xbfjoe: joe@ok.test\n")
    assert control.authsenders(b"joe") == {b"joe@ok.test"}


READS = re.compile(r'\b(?:read|read_line|read_list|read_number|read_size|has_word|exists)\(b"([a-z0-9.]+)"')


def test_every_control_file_that_is_read_is_on_a_manual_page_and_has_no_warning_that_it_is_not() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "qmail_smtpd").rglob("*.py"))
    names = set(READS.findall(sources))
    assert {"rcpthosts", "databytes", "popcleartext"} <= names  # the search itself finds something
    pages = "".join((ROOT / "docs" / page).read_text() for page in ("qmail-smtpd.md", "qmail-popup.md"))
    assert {name for name in names if not re.search(rf"\n\| `(control/)?{name}` \|", pages)} == set()
    assert names & {name.decode() for name in UNREAD} == set()
