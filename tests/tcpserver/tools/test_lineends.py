"""CR and LF: the conversions of addcr, delcr and fixcrio, whole and in pieces."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpserver.tools.lineends import CRInserter, CRRemover, add_cr

Convert = Callable[[bytes], bytes]
TEXT = st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\0"])).map(b"".join)
KINDS: dict[str, Callable[[], Convert]] = {
    "addcr": lambda: add_cr,
    "delcr": lambda: CRRemover().feed,
    "fixcrio": lambda: CRInserter().feed,
}
CASES = [
    (b"", b"", b"", b""),
    (b"test", b"test", b"test", b"test"),
    (b"test\n", b"test\r\n", b"test\n", b"test\r\n"),
    (b"a\nb\n", b"a\r\nb\r\n", b"a\nb\n", b"a\r\nb\r\n"),
    (b"a\r\n", b"a\r\r\n", b"a\n", b"a\r\n"),
    (b"a\r\r\n", b"a\r\r\r\n", b"a\r\n", b"a\r\r\n"),
    (b"a\rb", b"a\rb", b"a\rb", b"a\rb"),
    (b"a\r", b"a\r", b"a\r", b"a\r"),
    (b"\n\r\n", b"\r\n\r\r\n", b"\n\n", b"\r\n\r\n"),
    (b"\0\n", b"\0\r\n", b"\0\n", b"\0\r\n"),
]


def converted(kind: str, pieces: list[bytes]) -> bytes:
    """Feed the pieces, and the end of the input."""
    convert = KINDS[kind]()
    return b"".join([convert(piece) for piece in pieces if piece] + [convert(b"")])


@pytest.mark.parametrize(("text", "added", "removed", "inserted"), CASES)
def test_each_case_is_converted_whole_and_byte_by_byte(
    text: bytes, added: bytes, removed: bytes, inserted: bytes
) -> None:
    for kind, expected in zip(KINDS, (added, removed, inserted), strict=True):
        assert converted(kind, [text]) == expected
        assert converted(kind, [text[at : at + 1] for at in range(len(text))]) == expected


@given(st.lists(TEXT))
def test_pieces_do_not_change_the_result(pieces: list[bytes]) -> None:
    for kind in KINDS:
        assert converted(kind, pieces) == converted(kind, [b"".join(pieces)])


@given(TEXT)
def test_delcr_undoes_addcr_and_fixcrio_repeats_nothing(text: bytes) -> None:
    assert converted("delcr", [add_cr(text)]) == text
    fixed = converted("fixcrio", [text])
    assert converted("fixcrio", [fixed]) == fixed
