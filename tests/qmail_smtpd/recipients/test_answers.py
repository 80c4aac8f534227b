"""Remembered answers: in a file and in the process, for their time, and never a wrong one."""

import os
from pathlib import Path

import pytest

from qmail_smtpd.recipients import answers
from qmail_smtpd.recipients.answers import DIGEST_SIZE, HEADER_SIZE, SLOT, SLOTS, Answers, Unusable


class Clock:
    now = 1_000_000_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(answers, "time", lambda: Clock.now)
    monkeypatch.setattr(answers, "memory", {})
    Clock.now = 1_000_000_000.0
    return Clock


@pytest.fixture(params=["file", "memory"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> bytes | None:
    return bytes(tmp_path / "answers") if request.param == "file" else None


def test_accepted_and_refused_have_their_own_times(path: bytes | None, clock: type[Clock]) -> None:
    known = Answers(path, b"inet:127.0.0.1:25", 600, 120)
    assert known.find(b"joe@ok.test") is None
    known.remember(b"joe@ok.test", True)
    known.remember(b"no@ok.test", False)
    assert (known.find(b"joe@ok.test"), known.find(b"no@ok.test"), known.find(b"x@ok.test")) == (True, False, None)
    clock.now += 120
    assert (known.find(b"joe@ok.test"), known.find(b"no@ok.test")) == (True, None)
    clock.now += 480
    assert known.find(b"joe@ok.test") is None


def test_another_server_has_answers_of_its_own(path: bytes | None, clock: type[Clock]) -> None:
    Answers(path, b"one", 600, 120).remember(b"joe@ok.test", True)
    assert Answers(path, b"two", 600, 120).find(b"joe@ok.test") is None
    assert Answers(path, b"one", 600, 120).find(b"joe@ok.test") is True


def test_an_answer_that_is_newer_than_the_clock_is_not_used(path: bytes | None, clock: type[Clock]) -> None:
    known = Answers(path, b"one", 600, 120)
    known.remember(b"joe@ok.test", True)
    clock.now -= 10
    assert known.find(b"joe@ok.test") is None


def test_no_seconds_remember_nothing(path: bytes | None, clock: type[Clock]) -> None:
    known = Answers(path, b"one", 0, 0)
    known.remember(b"joe@ok.test", True)
    assert known.find(b"joe@ok.test") is None


def test_the_number_of_answers_is_bounded(path: bytes | None, clock: type[Clock]) -> None:
    known = Answers(path, b"one", 600, 120)
    for number in range(2 * SLOTS):
        known.remember(b"%d@ok.test" % number, False)
    assert known.find(b"%d@ok.test" % (2 * SLOTS - 1)) is False
    assert len(answers.memory) <= SLOTS
    if path:
        assert os.stat(path).st_size <= HEADER_SIZE + SLOT.size * SLOTS


def test_the_file_holds_no_address_and_is_private(tmp_path: Path, clock: type[Clock]) -> None:
    path = tmp_path / "answers"
    Answers(bytes(path), b"one", 600, 120).remember(b"joe@ok.test", True)
    assert b"joe" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("trouble", ["another file", "link", "directory", "fifo", "no directory"])
def test_a_foreign_file_is_left_alone(tmp_path: Path, trouble: str, clock: type[Clock]) -> None:
    path = tmp_path / "answers"
    (tmp_path / "other").write_bytes(b"precious\n" * 100)
    if trouble == "another file":
        path.write_bytes(b"precious\n" * 100)
    elif trouble == "link":
        path.symlink_to("other")
    elif trouble == "directory":
        path.mkdir()
    elif trouble == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / "none/answers"
    known = Answers(bytes(path), b"one", 600, 120)
    with pytest.raises(Unusable):
        known.find(b"joe@ok.test")
    with pytest.raises(Unusable):
        known.remember(b"joe@ok.test", True)
    if trouble == "another file":
        assert path.read_bytes() == b"precious\n" * 100
    assert (tmp_path / "other").read_bytes() == b"precious\n" * 100


def test_a_damaged_file_gives_no_answer_that_was_not_given(tmp_path: Path, clock: type[Clock]) -> None:
    path = tmp_path / "answers"
    known = Answers(bytes(path), b"one", 600, 120)
    known.remember(b"joe@ok.test", False)
    content = path.read_bytes()
    slot = len(content) - SLOT.size  # the only one that has been written is the last one
    for place in range(slot, slot + DIGEST_SIZE + 8):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        assert known.find(b"joe@ok.test") in (None, False)
    path.write_bytes(content[:-1])
    assert known.find(b"joe@ok.test") is None
