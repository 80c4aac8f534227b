"""The parser of DATA: compared with the byte machine of qmail-smtpd.c, and with named cases."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmail_smtpd.smtp.message import Message
from tests.kit.echo import feed
from tests.kit.machine import BARE_LF, END, machine
from tests.kit.support import times

PIECES = [
    b"\r",
    b"\n",
    b".",
    b"\r\n",
    b"\r\n.",
    b"\r\n.\r",
    b"\r\n.\r\n",
    b"a",
    b"Received",
    b"dElivered: x",
    b"\0",
    b"\xff",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
LEGAL = st.lists(st.sampled_from([p for p in PIECES if p not in (b"\n", b"\r\n.\r\n")]), max_size=20).map(b"".join)


@given(TEXTS | LEGAL, st.integers(1, 9))
@example(b"a\r\n.\r.\r\n", 1)
@example(b"Received: a\r\n.\r\nReceived: b", 4)
@settings(max_examples=times(300))
def test_blocks_of_any_size_give_the_result_of_the_byte_machine(data: bytes, size: int) -> None:
    stored, state, rest, hops = machine(data)
    message = Message()
    text = feed(message, data, size)
    assert message.stray == (state == BARE_LF)
    if message.stray:
        return  # the session ends: what was stored before does not matter
    assert message.ended == (state == END)
    assert message.hops == hops
    if message.ended:
        assert (text, message.rest) == (stored, rest)
        assert message.size == len(stored)
    else:
        assert stored.startswith(text)  # the rest is held back
        assert feed(message, b"x\r\n.\r\n", 6) == machine(data + b"x\r\n.\r\n")[0][len(text) :]


@given(TEXTS, st.integers(1, 9), st.integers(1, 20))
def test_the_limit_counts_the_bytes_to_be_stored(data: bytes, size: int, limit: int) -> None:
    stored, state, _, _ = machine(data)
    message = Message(limit)
    text = feed(message, data, size)
    if state == END:
        assert message.too_big == (len(stored) > limit)
        assert len(text) <= limit


@given(TEXTS, st.integers(1, 9))
def test_no_cr_is_stored_if_a_bare_cr_is_refused(data: bytes, size: int) -> None:
    _, state, _, _ = machine(data)
    message = Message(refuse_bare_cr=True)
    text = feed(message, data, size)
    if state == END:
        assert message.stray == (b"\r" in machine(data)[0])
    assert message.stray or b"\r" not in text


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\n"),
        (b"..\r\n.\r\n", b".\n"),
        (b"...\r\n.\r\n", b"..\n"),
        (b".a\r\n.\r\n", b"a\n"),
        (b"a\r\n.\ra\r\n.\r\n", b"a\n.\ra\n"),  # the dot is kept
        (b"a\r\n.\r\r\n.\r\n", b"a\n.\r\n"),  # here too
        (b"a\r\r\n.\r\n", b"a\r\n"),  # CR CR LF . CR LF ends the message
        (b"a\rb\0\xff\r\n.\r\n", b"a\rb\0\xff\n"),
        (b"\r\n.\r\n", b"\n"),
    ],
)
def test_a_message_is_stored_like_this(data: bytes, stored: bytes, size: int) -> None:
    message = Message()
    assert feed(message, data + b"QUIT\r\n", size) == stored
    assert (message.ended, message.stray, message.rest) == (True, False, b"QUIT\r\n")


HOPS = b"Received: x\r\nDELIVERED-to: y\r\n"


@pytest.mark.parametrize("size", [1, 5, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("data", "hops"),
    [
        (HOPS, 2),
        (HOPS * 50, 100),
        (b"receivedfoo\r\ndeliver\r\n", 1),
        (b".Received: x\r\n", 0),
        (b" Received: x\r\n", 0),
        (b"a: b\r\n\r\n" + HOPS, 0),
        (HOPS + b"\r\n" + HOPS, 2),
        (b"\r\n" + HOPS, 0),
        (b"a\r\r\n" + HOPS, 2),  # not an empty line
        (HOPS + b".\r\n" + HOPS, 2),  # what follows the message is not its header
    ],
)
def test_hops_are_header_lines_with_these_beginnings(data: bytes, hops: int, size: int) -> None:
    message = Message()
    feed(message, data + b".\r\n", size)
    assert message.hops == hops


def test_a_long_line_is_not_held_back() -> None:
    message = Message()
    for _ in range(100):
        assert len(message.feed(b"x" * 10_000)) == 10_000
    assert len(message.held) == 0
