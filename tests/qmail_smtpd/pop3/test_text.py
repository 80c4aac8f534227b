"""The pure parts of POP3: parsing commands, and converting messages."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmail_smtpd.pop3.command import LONGEST_LINE, TOO_LONG, Commands, leading_number
from qmail_smtpd.pop3.outgoing import Outgoing, octets

TOO_LONG_COMMAND = (TOO_LONG, b"")
LINES = {  # input -> the parsed commands
    "CRLF": (b"STAT\r\n", [(b"stat", b"")]),
    "LF alone": (b"STAT\n", [(b"stat", b"")]),
    "one CR is removed": (b"STAT\r\r\n", [(b"stat\r", b"")]),
    "a CR inside stays": (b"USER a\rb\r\n", [(b"user", b"a\rb")]),
    "any case": (b"sTaT\r\n", [(b"stat", b"")]),
    "non-ASCII letters are not lowered": (b"ST\xc3\x84T\r\n", [(b"st\xc3\x84t", b"")]),
    "spaces before the argument": (b"RETR   1 \r\n", [(b"retr", b"1 ")]),
    "a space first": (b" STAT\r\n", [(b"", b"STAT")]),
    "a tab is no separator": (b"RETR\t1\r\n", [(b"retr\t1", b"")]),
    "a NUL ends the line": (b"USER joe\0x\r\n", [(b"user", b"joe")]),
    "a NUL ends the verb": (b"STAT\0 x\r\n", [(b"stat", b"")]),
    "an empty line": (b"\r\n\n", [(b"", b""), (b"", b"")]),
    "two at once": (b"USER a b\r\nPASS  c d\r\n", [(b"user", b"a b"), (b"pass", b"c d")]),
    "an unfinished one": (b"STAT\r\nQUIT\r", [(b"stat", b"")]),
    "the longest": (b"PASS " + b"x" * 505 + b"\r\n", [(b"pass", b"x" * 505)]),
    "one byte too long": (b"PASS " + b"x" * 506 + b"\r\nQUIT\r\n", [TOO_LONG_COMMAND, (b"quit", b"")]),
    "much too long": (
        b"x" * 100_000 + b"\nQUIT\n" + b"y" * 9000 + b"\n",
        [TOO_LONG_COMMAND, (b"quit", b""), TOO_LONG_COMMAND],
    ),
    "long and unfinished": (b"x" * 9000, []),
    "a long one that ends in a command": (b"x" * 600 + b"QUIT\r\n", [TOO_LONG_COMMAND]),
}


def commands(data: bytes, size: int = 0) -> list[tuple[bytes, bytes]]:
    parser = Commands()
    parsed = []
    for start in range(0, len(data), size or len(data) or 1):
        parser.add(data[start : start + (size or len(data))])
        while command := parser.next():
            parsed.append(command)
        assert len(parser.pending) < LONGEST_LINE
    return parsed


@pytest.mark.parametrize("size", [0, 1, 7, 513])
@pytest.mark.parametrize("case", LINES)
def test_lines_are_parsed_as_by_commands_c(case: str, size: int) -> None:
    data, expected = LINES[case]
    assert commands(data, size) == expected


@given(st.binary(), st.integers(1, 9))
def test_the_commands_do_not_depend_on_the_pieces(data: bytes, size: int) -> None:
    assert commands(data, size) == commands(data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1", (1, b"")),
        (b"12 3", (12, b" 3")),
        (b"007x", (7, b"x")),
        (b"", (None, b"")),
        (b"-1", (None, b"-1")),
        (b"+1", (None, b"+1")),
        (b" 1", (None, b" 1")),
        (b"\xd9\xa1", (None, b"\xd9\xa1")),  # an Arabic digit one
        (b"18446744073709551617", (2**64 + 1, b"")),  # scan_ulong.c wraps around to 1
    ],
)
def test_a_number_is_the_leading_digits(text: bytes, expected: tuple[int | None, bytes]) -> None:
    assert leading_number(text) == expected


def blast(file: bytes, lines: int | None) -> bytes:
    """Return what qmail-pop3d.c sends of a file, line by line, but no second CR and no empty line before the dot."""
    sent = b""
    in_header = True
    limit = 0 if lines is None else lines + 1
    rest = file
    while rest:
        line, ended, rest = rest.partition(b"\n")
        if limit and not in_header:
            limit -= 1
            if not limit:
                break
        in_header = in_header and line not in (b"", b"\r")
        sent += b"." * line.startswith(b".") + line + (b"\n" if ended and line.endswith(b"\r") else b"\r\n")
    return sent + b".\r\n"


def convert(file: bytes, lines: int | None = None, size: int = 65536) -> bytes:
    outgoing = Outgoing(lines)
    sent = b""
    for start in range(0, len(file), size):
        if outgoing.ended:
            break
        sent += outgoing.feed(file[start : start + size])
    return sent + outgoing.finish()


MESSAGES = {  # file, lines of the body, the bytes sent
    "all": (b"A: b\n\nbody\n", None, b"A: b\r\n\r\nbody\r\n.\r\n"),
    "no line of the body": (b"A: b\n\nbody\n", 0, b"A: b\r\n\r\n.\r\n"),
    "one line": (b"A: b\n\none\ntwo\n", 1, b"A: b\r\n\r\none\r\n.\r\n"),
    "an empty line counts": (b"A: b\n\n\ntwo\n", 1, b"A: b\r\n\r\n\r\n.\r\n"),
    "as many lines as there are": (b"A: b\n\none\n", 1, b"A: b\r\n\r\none\r\n.\r\n"),
    "more lines than there are": (b"A: b\n\none\n", 9**99, b"A: b\r\n\r\none\r\n.\r\n"),
    "a header alone": (b"A: b\n", 0, b"A: b\r\n.\r\n"),
    "no header": (b"\nbody\nmore\n", 1, b"\r\nbody\r\n.\r\n"),
    "nothing": (b"", None, b".\r\n"),
    "no end of line": (b"A: b\n\nbody", None, b"A: b\r\n\r\nbody\r\n.\r\n"),
    "no end of line, counted": (b"A: b\n\nbody", 1, b"A: b\r\n\r\nbody\r\n.\r\n"),
    "dots": (b".\n..\n\n.a\nb.\n", None, b"..\r\n...\r\n\r\n..a\r\nb.\r\n.\r\n"),
    "a dot as the last byte": (b"a\n.", None, b"a\r\n..\r\n.\r\n"),
    "CRLF": (b"A: b\r\n\r\n.body\r\n", None, b"A: b\r\n\r\n..body\r\n.\r\n"),
    "CRLF, no line of the body": (b"A: b\r\n\r\nbody\r\n", 0, b"A: b\r\n\r\n.\r\n"),
    "CRLF, one line of the body": (b"A: b\r\n\r\none\r\ntwo\r\n", 1, b"A: b\r\n\r\none\r\n.\r\n"),
    "CRLF after LF": (b"A: b\n\r\nbody\n", 0, b"A: b\r\n\r\n.\r\n"),
    "LF after CRLF": (b"A: b\r\n\nbody\r\n", 0, b"A: b\r\n\r\n.\r\n"),
    "CRLF first": (b"\r\nbody\r\n", 0, b"\r\n.\r\n"),
    "CRLF, and no end of line": (b"A: b\r\n\r\nbody", None, b"A: b\r\n\r\nbody\r\n.\r\n"),
    "a CR as the last byte": (b"a\r", None, b"a\r\r\n.\r\n"),
    "other CRs are data": (b"a\r\n\rb\r\r\n", None, b"a\r\n\rb\r\r\n.\r\n"),
    "two CRs are no empty line": (b"A: b\n\r\r\nbody\n", 0, b"A: b\r\n\r\r\nbody\r\n.\r\n"),
    "a CR before a dot": (b"a\r.\n", None, b"a\r.\r\n.\r\n"),
    "any bytes": (b"\0\xff\n", None, b"\0\xff\r\n.\r\n"),
}


@pytest.mark.parametrize("size", [65536, 1, 2, 3])
@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_is_sent_as_by_the_original_but_without_added_bytes(case: str, size: int) -> None:
    file, lines, expected = MESSAGES[case]
    assert convert(file, lines, size) == expected == blast(file, lines)


@given(
    st.lists(st.sampled_from([b"a", b"\n", b".", b"\r"])).map(b"".join),
    st.none() | st.integers(0, 5),
    st.integers(1, 5),
)
@example(b"\n", 0, 1)
def test_any_file_in_any_pieces_is_sent_as_by_the_original(file: bytes, lines: int | None, size: int) -> None:
    assert convert(file, lines, size) == blast(file, lines)


@given(st.lists(st.sampled_from([b"a", b"\n", b".", b"\r"])).map(b"".join))
def test_octets_are_the_length_that_a_client_receives_without_the_doubled_dots(file: bytes) -> None:
    sent = convert(file).removesuffix(b".\r\n").split(b"\r\n")
    received = b"\r\n".join(line.removeprefix(b".") for line in sent)
    bare_line_feeds = file.count(b"\n") - file.count(b"\r\n")
    assert octets(len(file), bare_line_feeds, not file.endswith(b"\n") and file != b"") == len(received)
