"""The argument of BDAT, and the conversion of a message that comes in chunks."""

import pytest

from qmail_smtpd.smtp.chunk import LARGEST_CHUNK, LONGEST_ARGUMENT, ChunkedMessage, parse


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        (b" 0", (0, False)),
        (b" 86", (86, False)),
        (b" 86 LAST", (86, True)),
        (b"  86  laSt ", (86, True)),
        (b" 0000000000000000000086 ", (86, False)),
        (b" %d" % LARGEST_CHUNK, (LARGEST_CHUNK, False)),
    ],
)
def test_a_size_is_parsed(argument: bytes, wanted: tuple[int, bool]) -> None:
    assert parse(argument) == wanted


UNPARSABLE = [
    *(b"", b" ", b" x", b" -1", b" +1", b" 1x", b" 0x10", b" 1.0", b" 1e3", b" LAST", b" LAST 3", b"3", b"\t3"),
    *(b" 3 LAST LAST", b" 3 LAST x", b" 3 4", b" 3 LASTX", b" 3LAST", b" 3,LAST", b" 3 \0", b" 3\0 LAST"),
    *(b" 3\t", b" 3\r", b"\0 3"),
    *(b" " + b"9" * 30, b" %d" % (LARGEST_CHUNK + 1), b" " + b"\xb2", b" " * LONGEST_ARGUMENT + b"3"),
    b" 3" + b" " * LONGEST_ARGUMENT,
]  # fmt: skip


@pytest.mark.parametrize("argument", UNPARSABLE)
def test_any_other_text_is_no_size(argument: bytes) -> None:
    assert parse(argument) is None


def test_the_two_halves_of_a_crlf_may_be_in_different_chunks() -> None:
    message = ChunkedMessage(refuse_bare_cr=True)
    assert message.feed(b"a\r", False) + message.feed(b"", False) + message.feed(b"\n", True) == b"a\n"
    assert (message.size, message.refusal()) == (2, None)


def test_a_cr_at_the_end_of_the_message_is_a_bare_one() -> None:
    message = ChunkedMessage(refuse_bare_cr=True)
    message.feed(b"a\r", False)
    assert message.refusal() is None
    message.feed(b"", True)
    assert message.refusal() is not None


def test_a_long_chunk_is_not_held_back() -> None:
    message = ChunkedMessage()
    assert all(len(message.feed(b"x" * 10_000, False)) == 10_000 for _ in range(100))
    assert message.held == b""
