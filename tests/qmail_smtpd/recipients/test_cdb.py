"""The search in a cdb of control/: the right answer or an error for every file, and an end."""

import os
import random
from pathlib import Path
from struct import pack_into

import pytest
from cdblib import djb_hash

from qmail_smtpd import control
from qmail_smtpd.recipients.cdb import MoreRcpthosts
from qmail_smtpd.smtp.settings import Unreadable
from tcprules.compile import write_cdb

KEYS = [b"more.test", b".deep.test", *(b"host%d.test" % number for number in range(600))]


def whole_cdb(home: Path) -> bytes:
    """Return the content of a cdb with the keys."""
    path = home / "control/morercpthosts.cdb"
    write_cdb(bytes(path), bytes(path) + b".tmp", ((key, b"") for key in KEYS))
    return path.read_bytes()


def look_up(home: Path, content: bytes, keys: list[bytes]) -> list[bool | None]:
    """Look up the keys in a cdb with this content: whether it has each, None for an error."""
    path = home / "control/morercpthosts.cdb"
    path.write_bytes(content)
    answers: list[bool | None] = []
    descriptor = control.open_control(b"morercpthosts.cdb")
    for key in keys:
        try:
            answers.append(MoreRcpthosts(descriptor).has(key))
        except Unreadable:
            answers.append(None)
    os.close(descriptor)
    return answers


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "control").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_only_the_keys_of_a_cdb_are_found(home: Path) -> None:
    content = whole_cdb(home)
    assert look_up(home, content, KEYS) == [True] * len(KEYS)
    assert look_up(home, content, [b"", b"more", b"more.test\0", b"MORE.test", b"host600.test"]) == [False] * 5


def test_a_missing_cdb_has_no_keys(home: Path) -> None:
    assert not MoreRcpthosts(control.open_control(b"morercpthosts.cdb")).has(b"more.test")


def test_a_cdb_that_is_replaced_after_opening_has_no_effect(home: Path) -> None:
    content = whole_cdb(home)
    more = MoreRcpthosts(control.open_control(b"morercpthosts.cdb"))
    (home / "new").write_bytes(content[:100])
    (home / "new").rename(home / "control/morercpthosts.cdb")
    assert more.has(b"more.test")
    os.close(more.descriptor)


def test_a_truncated_cdb_gives_the_right_answer_or_an_error(home: Path) -> None:
    content = whole_cdb(home)
    keys = [*KEYS[:3], b"other.test"]
    for length in [*range(0, 2100, 7), *range(2100, len(content), 997)]:
        right = [key in KEYS for key in keys]
        for answer, wanted in zip(look_up(home, content[:length], keys), right, strict=True):
            assert answer in (wanted, None)
    assert look_up(home, b"", keys) == [None] * 4


def test_a_cdb_truncated_in_its_header_answers_for_the_tables_that_are_left(home: Path) -> None:
    first, last = (next(key for key in KEYS if djb_hash(key) & 255 == table) for table in (0, 255))
    assert look_up(home, bytes(8), [first, last]) == [False, None]
    assert look_up(home, bytes(2047), [first, last]) == [False, None]
    assert look_up(home, bytes(2048), [first, last]) == [False, False]


def test_a_cdb_with_random_changes_gives_an_answer_or_an_error(home: Path) -> None:
    content = whole_cdb(home)
    rng = random.Random(1)  # the same changes in each run
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 8, 300])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        look_up(home, bytes(damaged), KEYS[:2])


def test_a_search_ends_in_a_cdb_without_empty_slots(home: Path) -> None:
    slots = 8
    content = bytearray(2048 + 16 + slots * 8)
    for table in range(256):
        pack_into("<LL", content, table * 8, 2064, slots)
    for slot in range(slots):
        pack_into("<LL", content, 2064 + slot * 8, 1, 2048)
    assert look_up(home, bytes(content), [b"more.test"]) == [False]


def test_a_key_length_of_four_gigabytes_is_not_read(home: Path) -> None:
    content = bytearray(whole_cdb(home))
    for position in range(2048, len(content) - 8, 4):
        if content[position : position + 8] == b"\x09\0\0\0\0\0\0\0":
            pack_into("<L", content, position, 0xFFFFFFFF)
    assert look_up(home, bytes(content), [b"more.test"]) == [False]


def test_a_key_longer_than_a_domain_is_not_looked_up(home: Path) -> None:
    (home / "control/morercpthosts.cdb").write_bytes(b"broken")
    more = MoreRcpthosts(control.open_control(b"morercpthosts.cdb"))
    assert not more.has(b"." * 256)
    with pytest.raises(Unreadable):
        more.has(b"." * 255)
    os.close(more.descriptor)


def test_a_cdb_that_is_a_directory_is_an_error_only_when_it_is_read(home: Path) -> None:
    (home / "control/morercpthosts.cdb").mkdir()
    more = MoreRcpthosts(control.open_control(b"morercpthosts.cdb"))
    with pytest.raises(Unreadable):
        more.has(b"more.test")
    os.close(more.descriptor)
