"""Entries: their text, and when they are live."""

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
def test_any_user_name_survives_writing_and_reading(user: bytes, seen: int, end: int) -> None:
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
    "one word too many": LINE.replace(b"pop3", b"pop3 x"),
    "one word too few": LINE.replace(b" pop3", b""),
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
    "a time in Arabic digits": LINE.replace(b"1795500000", b"\xd9\xa1\xd9\xa7"),
    "a huge time": LINE.replace(b"1795502400", b"9" * 1000),
    "a huge user": LINE.replace(b"joe", b"j" * LONGEST),
    "an open-smtp line": b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000\n',
    "an entry of relay-ctrl": b"USER=joe\0DOMAIN=example.com\0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_line_is_no_entry(name: str) -> None:
    assert parse(BROKEN[name], ADDRESS) is None


@pytest.mark.parametrize("size", range(len(LINE)))
def test_a_truncated_line_is_no_entry(size: int) -> None:
    assert parse(LINE[:size], ADDRESS) is None


@given(st.binary())
def test_random_bytes_are_neither_an_entry_nor_an_error(data: bytes) -> None:
    assert parse(data, ADDRESS) is None


MOMENTS = [  # now - seen, the window of the check, whether the entry is live; it was recorded with a window of 2400
    (0, None, True),
    (2398, None, True),
    (2399, None, True),
    (2400, None, False),
    (2401, None, False),
    (899, 900, True),
    (900, 900, False),
    (2399, 3600, True),  # a longer window of the check does not prolong an entry
    (2400, 3600, False),
    (0, 0, False),
    (-3600, None, False),
    (-121, None, False),
    (-120, None, True),
    (-119, None, True),
    (3600, None, False),
]


@pytest.mark.parametrize(("age", "seconds", "expected"), MOMENTS)
def test_an_entry_is_live_from_its_login_to_the_end_of_the_shorter_window(
    age: int, seconds: int | None, expected: bool
) -> None:
    assert ENTRY.is_live(NOW + age, seconds) is expected


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.none() | st.integers(0, 2**20))
def test_an_entry_is_live_exactly_as_defined(now: int, seen: int, end: int, seconds: int | None) -> None:
    entry = Entry(ADDRESS, b"u", b"s", seen, end)
    in_time = now < end and (seconds is None or now < seen + seconds)
    assert entry.is_live(now, seconds) == (in_time and seen - now <= 120)
