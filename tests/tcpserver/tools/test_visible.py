"""What who@, date@, finger@ and http@ print of an answer, beside cat -v and awk."""

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from tcpserver.tools.visible import BodyLines, visible

LINES = st.lists(st.sampled_from([b"\n", b"a", b" ", b"bc\n"])).map(b"".join)


def test_every_byte_is_printed_as_by_cat() -> None:
    data = bytes(range(256)) * 2
    assert visible(data) == subprocess.run(["cat", "-v"], input=data, capture_output=True, check=True).stdout


def body(pieces: list[bytes]) -> bytes:
    lines = BodyLines()
    return b"".join([lines.feed(piece) for piece in pieces if piece] + [lines.feed(b"")])


def test_the_body_is_printed_without_headers_and_empty_lines() -> None:
    assert body([b"HTTP/1.0 200 OK\nA: b\n\nhello\n\n\nworld"]) == b"hello\nworld\n"
    assert body([b"no end of the headers\n"]) == b""
    assert body([b"\nx"]) == b"x\n"
    assert body([b"\n"]) == b""


@given(LINES)
def test_pieces_do_not_change_the_body(text: bytes) -> None:
    _, found, rest = (b"\n" + text).partition(b"\n\n")
    assert body([text[at : at + 1] for at in range(len(text))]) == body([text])
    expected = [line for line in rest.split(b"\n") if line] if found else []
    assert body([text]).split(b"\n")[:-1] == expected


def test_a_line_without_end_is_printed_as_it_comes() -> None:
    lines = BodyLines()
    assert [lines.feed(piece) for piece in (b"\n", b"abc", b"def", b"\n", b"")] == [b"", b"abc", b"def", b"\n", b""]
