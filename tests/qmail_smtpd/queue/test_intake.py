"""The envelope parser of the queue programs, with complete and malformed envelopes, in blocks of any size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.queue.intake import ADDRESS_LIMIT, ADDRESS_TOO_LONG, NOT_READ, Envelope, Failure

LONGEST = b"x" * (ADDRESS_LIMIT - 1)

WHOLE = [
    (b"Fsender@example.com\0Tone@example.com\0\0", [b"sender@example.com", b"one@example.com"]),
    (b"Fa\0Tb\0Tc\0Tb\0\0", [b"a", b"b", b"c", b"b"]),
    (b"F\0Tone@example.com\0\0", [b"", b"one@example.com"]),
    (b"Fa\0T\0\0", [b"a", b""]),
    (b"Fa\0\0", [b"a"]),
    (b"FF\0TT\0\0", [b"F", b"T"]),
    (b"Fa b\r\n\xff\0T\x01\0\0", [b"a b\r\n\xff", b"\x01"]),
    (b"F" + LONGEST + b"\0T" + LONGEST + b"\0\0", [LONGEST, LONGEST]),
]

BROKEN = [
    (b"\0", NOT_READ),
    (b"\0\0", NOT_READ),
    (b"Ta\0Tb\0\0", NOT_READ),
    (b"fa\0Tb\0\0", NOT_READ),
    (b"Fa\0Fb\0\0", NOT_READ),
    (b"Fa\0Tb\0c\0\0", NOT_READ),
    (b"Fa\0Tb\0Uc", NOT_READ),
    (b" Fa\0", NOT_READ),
    (b"F" + LONGEST + b"x\0Tb\0\0", ADDRESS_TOO_LONG),
    (b"Fa\0T" + LONGEST + b"x\0\0", ADDRESS_TOO_LONG),
    (b"Fa\0T" + LONGEST + b"x", ADDRESS_TOO_LONG),
]

TRUNCATED = [b"", b"F", b"Fa", b"Fa\0", b"Fa\0T", b"Fa\0Tb", b"Fa\0Tb\0", b"Fa\0Tb\0T\0"]


def feed(blocks: list[bytes]) -> tuple[bool, list[bytes]]:
    envelope = Envelope()
    return any(envelope.feed(block) for block in blocks), envelope.addresses


def single_bytes(text: bytes) -> list[bytes]:
    return [text[i : i + 1] for i in range(len(text))]


@pytest.mark.parametrize("split", [lambda text: [text], single_bytes], ids=["whole", "bytewise"])
@pytest.mark.parametrize("tail", [b"", b"Tmore@example.com\0\0", b"\0\0\0"])
@pytest.mark.parametrize(("text", "addresses"), WHOLE)
def test_an_envelope_ends_at_its_last_nul(text, addresses, tail, split):
    assert feed(split(text + tail)) == (True, addresses)


@pytest.mark.parametrize("split", [lambda text: [text], single_bytes], ids=["whole", "bytewise"])
@pytest.mark.parametrize(("text", "status"), BROKEN)
def test_a_wrong_letter_or_length_fails_as_soon_as_it_is_read(text, status, split):
    with pytest.raises(Failure) as failure:
        feed(split(text))
    assert failure.value.status == status


@pytest.mark.parametrize("text", TRUNCATED)
def test_an_envelope_without_its_last_nul_is_never_complete(text):
    assert feed([text])[0] is False
    assert feed(single_bytes(text))[0] is False


addresses = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b""))


@given(st.lists(addresses, min_size=1), st.lists(st.integers(min_value=0, max_value=200)))
def test_addresses_do_not_depend_on_the_blocks(fields, cuts):
    letters = [b"F"] + [b"T"] * (len(fields) - 1)
    text = b"".join(letter + field + b"\0" for letter, field in zip(letters, fields, strict=True)) + b"\0"
    edges = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    blocks = [text[start:end] for start, end in pairwise(edges)]
    assert feed(blocks) == (True, fields)


@given(st.text(alphabet="FTa\0", max_size=12).map(str.encode))
def test_only_a_well_formed_envelope_is_accepted(text):
    try:
        whole, fields = feed(single_bytes(text))
    except Failure:
        return
    assert not whole or text.startswith(b"F" + b"\0T".join(fields) + b"\0\0")
