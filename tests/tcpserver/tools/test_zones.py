"""Lists on the command line: zones, the answers that count, the names that are asked for a client; the little SMTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpserver.tools.blocklists.answers import TYPE_A, TYPE_TXT, Answer, is_answer, question
from tcpserver.tools.blocklists.zones import Zone
from tcpserver.tools.rblsmtpd import labels
from tcpserver.tools.refusal import LONGEST_LINE, Conversation


def counted(text: str, *addresses: str) -> list[bool]:
    zone = Zone(text, False, False, False)
    return [zone.counts(bytes(map(int, address.split(".")))) for address in addresses]


def test_without_a_pattern_every_answer_of_a_list_counts() -> None:
    assert counted("zen.example", "127.0.0.2", "127.0.0.1", "127.9.9.9") == [True] * 3


def test_answers_that_say_there_is_no_answer_never_count() -> None:
    never = ["127.255.255.252", "127.255.255.254", "127.255.255.0", "192.0.2.1", "10.0.0.2"]
    for text in ("zen.example", "zen.example=[0..255].[0..255].[0..255].[0..255]"):
        assert counted(text, *never) == [False] * 5


def test_a_pattern_has_numbers_lists_and_ranges() -> None:
    assert counted("z=127.0.0.2", "127.0.0.2", "127.0.0.3") == [True, False]
    assert counted("z=127.0.[0;2].[2..4;10]", "127.0.0.2", "127.0.2.4", "127.0.0.10", "127.0.0.5", "127.0.1.2") == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "a b",
        "a\n",
        "x" * 64,
        "x." * 100,
        "\u00e9",
        *(
            f"z={pattern}"
            for pattern in (
                "",
                "127",
                "127.0.0",
                "127.0.0.",
                "127.0.0.2.3",
                "127.0.0.256",
                "127.0.0.[5..2]",
                "1.2.3.[]",
            )
        ),
        *(
            f"z={pattern}"
            for pattern in ("1.2.3.[4", "1.2.3.[4]5", "1.2.3.4]", "1.2.3.[1..2..3]", "1.2.3.-4", "1.2.3.\u0663")
        ),
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        Zone(text, False, False, False)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        (b"192.0.2.1", "1.2.0.192"),
        (b"::ffff:192.0.2.1", "1.2.0.192"),
        (b"2001:db8::7", "7.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2"),
        (b"fe80::1%eth0", "1." + "0." * 28 + "8.e.f"),
        (b"", ""),
        (b"192.0.2", ""),
        (b"192.0.2.1.list.example", ""),
        (b"\xff", ""),
    ],
)
def test_a_client_is_asked_for_by_octets_or_nibbles(ip: bytes, expected: str) -> None:
    assert labels(ip) == expected


@given(st.binary(max_size=100), st.sampled_from([TYPE_A, TYPE_TXT]))
def test_any_bytes_behind_a_question_give_an_answer_or_a_failure(rest: bytes, kind: int) -> None:
    asked = question("2.0.0.127.list.example", kind)
    data = asked[:2] + b"\x85\x80\0\1\0\1\0\1\0\1" + asked[12:] + rest
    assert is_answer(data, asked)
    assert Answer(data, kind).is_failure or Answer(data, kind).records is not None


def test_only_the_answer_to_the_question_is_an_answer() -> None:
    asked = question("a.example", TYPE_A)
    answer = asked[:2] + b"\x81\x83" + asked[4:]
    assert is_answer(answer, asked)
    assert not is_answer(asked, asked)  # a question
    assert not is_answer(bytes([answer[0] ^ 1]) + answer[1:], asked)
    assert not is_answer(answer.replace(b"\1a", b"\1b"), asked)
    assert not is_answer(answer[:-3] + b"\x10\0\1", asked)
    assert not is_answer(answer[:12], asked)
    assert is_answer(answer.replace(b"\1a", b"\1A"), asked)


# -- the little SMTP

REFUSAL = b"451 no\r\n"
OK = b"250 rblsmtpd.local\r\n"
DIALOGUES = [
    (b"HELO x\r\nEhLo y\nmail from:<>\r\nRSET\r\nnoop\r\n", OK * 5),
    (b"rcpt to:<x@y>\r\ndata\r\n\r\nhelp\r\nhelo\tx\r\nhelox\r\nquit\0\r\n", REFUSAL * 7),
    (b"quit\r\nhelo\r\n", b"221 rblsmtpd.local\r\n"),
    (b"quit\r\r\nQUIT me\r\n", REFUSAL + b"221 rblsmtpd.local\r\n"),
    (b"noop " + b"x" * 5000 + b"\r\nquit", OK),
    (b"", b""),
]


@pytest.mark.parametrize(("commands", "replies"), DIALOGUES)
def test_commands_get_their_replies_whole_and_byte_by_byte(commands: bytes, replies: bytes) -> None:
    assert Conversation(REFUSAL).feed(commands) == replies
    talk, found = Conversation(REFUSAL), b""
    for at in range(len(commands)):
        if not talk.has_ended:
            found += talk.feed(commands[at : at + 1])
        assert len(talk.line) <= LONGEST_LINE
    assert found == replies
