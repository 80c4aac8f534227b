"""The stamps of loggers: each is read, and what is none stays in the line."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.report.stamps import Stamps

NOW = 1795507923  # 2026-11-24 08:12:03 UTC
THEN = 1795507863  # a minute earlier


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


STAMPS = {
    "multilog t, svlogd -t": (b"@400000006b0546a11dcd6500 ", 0.5),
    "svlogd -tt": (b"2026-11-24_08:11:03.50000 ", 0.5),
    "svlogd -ttt": (b"2026-11-24T08:11:03.50000 ", 0.5),
    "s6-log T, tai64nlocal": (b"2026-11-24 03:11:03.500000000  ", 0.5),
    "journalctl -o short": (b"Nov 24 03:11:03 ", 0),
    "journalctl -o short-iso": (b"2026-11-24T09:11:03+0100 ", 0),
    "journalctl -o short-iso-precise": (b"2026-11-24T03:11:03.500000-05:00 ", 0.5),
    "journalctl -o short-unix": (b"1795507863.500000 ", 0.5),
    "journalctl -o short-full": (b"Tue 2026-11-24 08:11:03 UTC ", 0),
    "RFC 5424 in a file": (b"2026-11-24T08:11:03.5Z ", 0.5),
}


@pytest.mark.parametrize(("stamp", "fraction"), STAMPS.values(), ids=STAMPS)
def test_a_stamp_is_read_and_cut_off(stamp: bytes, fraction: float) -> None:
    stamps = Stamps(NOW)
    for _ in range(2):  # read, and remembered
        assert stamps.split(stamp + b"host x: text") == (THEN + fraction, b"host x: text")


def test_a_month_that_is_yet_to_come_is_last_years() -> None:
    assert Stamps(NOW).split(b"Dec  1 00:00:00 x")[0] == time.mktime((2025, 12, 1, 0, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"@",
        b"@40000000zzzzzzzz11111111 x",
        b"2026-13-24T08:11:03 x",
        b"0000-01-01T00:00:00Z x",
        b"99999-01-01T00:00:00Z x",
        b"2026-11-24T08:11 x",
        b"2026-11-24T08:11:03+1 x",
        b"9999999999999999999999-99-99",
        b"Nov 24 aa:11:03 x",
        b"Nov x",
        "١٢٣٤-11-24T08:11:03 x".encode(),
        b"1.2.3.4 x",
        b"tcpserver: status: 0/40",
    ],
)
def test_what_is_no_stamp_stays(line: bytes) -> None:
    assert Stamps(NOW).split(line) == (None, line)


@given(st.binary() | st.text("0123456789-:T_ +.@Nov", max_size=60).map(str.encode))
def test_any_bytes_are_split(line: bytes) -> None:
    when, rest = Stamps(NOW).split(line)
    assert line.endswith(rest)
    assert when is None or isinstance(when, int | float)
