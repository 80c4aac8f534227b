"""The Received line, to the byte."""

import pytest

from qmail_smtpd.smtp.received import date, received

WHEN = b"1 Jan 2004 00:00:00 -0000"


@pytest.mark.parametrize(
    ("helo", "info", "line"),
    [
        (None, None, b"Received: from h.test (192.0.2.1)\n  by mx with SMTP; " + WHEN + b"\n"),
        (b"", None, b"Received: from h.test (HELO ) (192.0.2.1)\n  by mx with SMTP; " + WHEN + b"\n"),
        (b"a b", b"", b"Received: from h.test (HELO a?b) (@192.0.2.1)\n  by mx with SMTP; " + WHEN + b"\n"),
        (b"[::1]", b"joe", b"Received: from h.test (HELO [::1]) (joe@192.0.2.1)\n  by mx with SMTP; " + WHEN + b"\n"),
    ],
)
def test_the_line_contains_client_and_host(helo: bytes | None, info: bytes | None, line: bytes) -> None:
    assert received(b"h.test", helo, info, b"192.0.2.1", b"mx", b"SMTP", WHEN) == line


def test_input_of_the_client_cannot_end_the_line_or_a_comment() -> None:
    hostile = bytes(range(256))
    line = received(hostile, hostile, hostile, hostile, hostile, b"SMTP", WHEN)
    assert line.count(b"\n") == 2
    assert line.count(b"(") == line.count(b")") == 2
    assert all(32 <= byte < 127 for byte in line.replace(b"\n", b""))


def test_only_the_day_has_no_leading_zero_in_a_date() -> None:
    assert date(2004, 2, 9, 3, 4, 5) == b"9 Feb 2004 03:04:05 -0000"
    assert date(2038, 12, 31, 23, 59, 60) == b"31 Dec 2038 23:59:60 -0000"
