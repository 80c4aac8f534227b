"""Entries: their one line, and when they count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.entry import LONGEST, Entry, compose, parse
from tests.kit.relayhome import NOW, facts

ADDRESS = b"192.0.2.7"
LINE = b"1 192.0.2.7 pop3 1795500000 1795502400 joe@example.com\n"
ENTRY = Entry(ADDRESS, b"joe@example.com", b"pop3", NOW, NOW + 2400)


def test_an_entry_is_one_line() -> None:
    assert compose(ENTRY) == LINE
    assert facts(parse(LINE, ADDRESS)) == facts(ENTRY)


@given(st.binary(min_size=1), st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_whatever_the_user_is_called_the_line_says_the_same_when_it_is_read(user: bytes, seen: int, end: int) -> None:
    entry = Entry(ADDRESS, escaped(user), b"pop3", seen, end)
    line = compose(entry)
    assert len(line) <= LONGEST
    assert facts(parse(line, ADDRESS)) == facts(entry)


BROKEN = {
    "nothing": b"",
    "torn": LINE[:-1],
    "a second line": LINE + b"x\n",
    "the same line twice": LINE * 2,
    "a byte after it": LINE + b"x",
    "a NUL after it": LINE + b"\0",
    "a line before it": b"\n" + LINE,
    "another version": b"2" + LINE[1:],
    "another address": LINE.replace(b"2.7", b"2.8"),
    "the address in another spelling": LINE.replace(ADDRESS, b"::ffff:192.0.2.7"),
    "no user": LINE.replace(b"joe@example.com", b""),
    "no service": LINE.replace(b"pop3", b""),
    "a word too many": LINE.replace(b"pop3", b"pop3 x"),
    "a word too few": LINE.replace(b" pop3", b""),
    "two blanks": LINE.replace(b" pop3", b"  pop3"),
    "a tab": LINE.replace(b" pop3", b"\tpop3"),
    "a CR": LINE.replace(b"\n", b"\r\n"),
    "a newline in the user": LINE.replace(b"joe@", b"joe\nRELAYCLIENT=@"),
    "a NUL in the user": LINE.replace(b"joe", b"j\0e"),
    "a control byte in the user": LINE.replace(b"joe", b"j\x1be"),
    "eight bits in the user": LINE.replace(b"joe", b"j\xf6e"),
    "a negative time": LINE.replace(b" 17955", b" -17955"),
    "a time in hexadecimal": LINE.replace(b"1795500000", b"0x6b04e3a0"),
    "a time with a fraction": LINE.replace(b"1795500000", b"1795500000.5"),
    "a time of other digits": LINE.replace(b"1795500000", b"\xd9\xa1\xd9\xa7"),
    "an endless time": LINE.replace(b"1795502400", b"9" * 1000),
    "an endless user": LINE.replace(b"joe", b"j" * LONGEST),
    "an open-smtp line": b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000\n',
    "relay-ctrl's": b"USER=joe\0DOMAIN=example.com\0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_no_entry(name: str) -> None:
    assert parse(BROKEN[name], ADDRESS) is None


@pytest.mark.parametrize("size", range(len(LINE)))
def test_what_is_cut_short_is_no_entry(size: int) -> None:
    assert parse(LINE[:size], ADDRESS) is None


@given(st.binary())
def test_random_bytes_are_no_entry_and_no_error(data: bytes) -> None:
    assert parse(data, ADDRESS) is None


MOMENTS = [  # now - seen, the asker's window, whether it counts; the window of who has recorded it is 2400
    (0, None, True),
    (2398, None, True),
    (2399, None, True),
    (2400, None, False),
    (2401, None, False),
    (899, 900, True),
    (900, 900, False),
    (2399, 3600, True),  # a longer window here does not prolong what was granted there
    (2400, 3600, False),
    (0, 0, False),
    (-3600, None, False),
    (-121, None, False),
    (-120, None, True),
    (-119, None, True),
    (3600, None, False),
]


@pytest.mark.parametrize(("age", "seconds", "wanted"), MOMENTS)
def test_an_entry_counts_from_its_login_to_the_end_of_the_shorter_window(
    age: int, seconds: int | None, wanted: bool
) -> None:
    assert ENTRY.is_live(NOW + age, seconds) is wanted


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.none() | st.integers(0, 2**20))
def test_it_counts_exactly_as_the_definition_says(now: int, seen: int, end: int, seconds: int | None) -> None:
    entry = Entry(ADDRESS, b"u", b"s", seen, end)
    in_time = now < end and (seconds is None or now < seen + seconds)
    assert entry.is_live(now, seconds) == (in_time and seen - now <= 120)
