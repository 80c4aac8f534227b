"""What the answers of policy services mean, alone and together. No answer accepts a recipient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.services import actions
from qmail_smtpd.services.actions import LATER, REFUSED, Verdict
from qmail_smtpd.services.protocol import Failure, decode, encode
from qmail_smtpd.smtp.ruling import Ruling
from tests.kit.echo import Echo, converse


def ruling(*answers: bytes) -> Ruling:
    """Return the ruling on these answers. An answer may end the questions: then the later ones do not count."""
    verdict = Verdict()
    for number, action in enumerate(answers):
        if not verdict.add(b"s%d" % number, action):
            break
    return verdict.finish()


@pytest.mark.parametrize("action", [b"DUNNO", b"dunno", b"OK", b"ok all is well", b"PERMIT", b"WARN x", b"INFO x"])
def test_a_recipient_is_left_as_it_is(action: bytes) -> None:
    assert ruling(action).reply is None


@pytest.mark.parametrize(
    ("action", "reply"),
    [
        (b"REJECT", b"554 " + REFUSED),
        (b"reject", b"554 " + REFUSED),
        (b"REJECT go away", b"554 go away (#5.7.1)"),
        (b"REJECT\tgo away", b"554 go away (#5.7.1)"),
        (b"REJECT 5.7.23 SPF", b"554 5.7.23 SPF"),
        (b"DEFER", b"450 " + LATER),
        (b"DEFER not now", b"450 not now (#4.7.1)"),
        (b"DEFER_IF_PERMIT", b"450 " + LATER),
        (b"defer_if_permit Greylisted, see http://postgrey/", b"450 Greylisted, see http://postgrey/ (#4.7.1)"),
        (b"450 4.2.0 wait", b"450 4.2.0 wait"),
        (b"550", b"550 " + REFUSED),
        (b"550 a\x00b\x07c\xe9", b"550 a?b?c? (#5.7.1)"),
        (b"550 " + b"x" * 5000, b"550 " + b"x" * actions.LONGEST_TEXT + b" (#5.7.1)"),
    ],
)
def test_a_recipient_is_refused_with_this_reply(action: bytes, reply: bytes) -> None:
    assert ruling(action).reply == reply


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((b"DUNNO", b"REJECT"), b"554"),
        ((b"OK", b"REJECT"), None),
        ((b"DEFER", b"REJECT"), b"450"),
        ((b"DEFER_IF_PERMIT", b"DUNNO"), b"450"),
        ((b"DEFER_IF_PERMIT", b"OK"), b"450"),
        ((b"DEFER_IF_PERMIT", b"REJECT"), b"554"),
        ((b"DEFER_IF_REJECT", b"DUNNO"), None),
        ((b"DEFER_IF_REJECT", b"OK", b"REJECT"), None),
        ((b"DEFER_IF_REJECT", b"REJECT"), b"450"),
        ((b"DEFER_IF_REJECT", b"521 bye"), b"450"),
        ((b"DEFER_IF_REJECT", b"451"), b"451"),
        ((b"PREPEND X-A: b", b"550 no"), b"550"),
    ],
)
def test_several_services_are_combined_as_postfix_does(answers: tuple[bytes, ...], code: bytes | None) -> None:
    reply = ruling(*answers).reply
    assert (reply and reply[:3]) == code


def test_the_refusing_service_is_in_the_facts() -> None:
    assert ruling(b"DEFER_IF_REJECT a", b"DUNNO", b"REJECT b").facts[b"service"] == b"s0"
    assert ruling(b"DUNNO", b"REJECT b").facts[b"service"] == b"s1"


def test_421_and_521_end_the_session() -> None:
    assert ruling(b"421 bye").ends_session
    assert ruling(b"521 bye").ends_session
    assert not ruling(b"550 bye").ends_session


def test_headers_and_notes_are_collected_in_order() -> None:
    found = ruling(b"PREPEND X-A: b", b"WARN look", b"PREPEND X-C: d\te", b"DUNNO")
    assert found.headers == [b"X-A: b", b"X-C: d e"]
    assert found.notes == [{b"service": b"s1", b"text": b"look"}]


def test_an_unsupported_action_is_named_once() -> None:
    actions.warned.clear()
    for word in (b"HOLD", b"DISCARD"):
        assert ruling(word + b" because").warnings == [b"policy service s0: " + word + b" is not supported: DUNNO"]
        assert ruling(word).warnings == []
        assert ruling(word).reply is None


@pytest.mark.parametrize(
    "action",
    [b"RELAY", b"250 ok", b"200", b"354 go", b"5500 x", b"55", b"permit_mynetworks", b"4.7.1 x"]
    + [b"PREPEND", b"PREPEND x", b"PREPEND : x", b"PREPEND a b: c", b"PREPEND X: " + b"y" * 1000],
)
def test_an_action_that_is_not_understood_is_a_failure(action: bytes) -> None:
    with pytest.raises(Failure):
        ruling(action)


@pytest.mark.parametrize(
    "answer",
    [
        b"\n\n",
        b"action\n\n",
        b"action=\n\n",
        b"action= \t\n\n",
        b"=DUNNO\n\n",
        b"x=y\n\n",
        b"action=DUNNO\naction=REJECT\n\n",
        b"action=DUNNO\nnonsense\n\n",
        b"action=DUNNO\r\n\n",
        b"action=DU\0NNO\n\n",
        b"\naction=DUNNO\n\n",
    ],
)
def test_a_malformed_answer_is_a_failure(answer: bytes) -> None:
    with pytest.raises(Failure):
        decode(answer)


def test_attributes_besides_the_action_are_ignored() -> None:
    assert decode(b"x=y\naction= REJECT a = b \nz=\n\n") == b"REJECT a = b"


@given(st.dictionaries(st.sampled_from([b"sender", b"helo_name", b"size"]), st.binary()))
def test_no_value_can_begin_another_attribute(attributes: dict[bytes, bytes]) -> None:
    text = encode(attributes)
    assert text.endswith(b"\n\n")
    lines = text[:-2].split(b"\n") if attributes else []
    assert [line.partition(b"=")[0] for line in lines] == list(attributes)
    assert text.isascii()
    assert not {b"\0", b"\r"} & {bytes((byte,)) for byte in text}


WORDS = [b"OK", b"PERMIT", b"DUNNO", b"REJECT", b"DEFER", b"DEFER_IF_PERMIT", b"DEFER_IF_REJECT", b"PREPEND", b"WARN"]
ACTIONS = st.one_of(
    st.binary(min_size=1, max_size=80),
    st.tuples(st.sampled_from([*WORDS, b"HOLD", b"250", b"421", b"450", b"550", b"RELAY"]), st.binary(max_size=80)).map(
        b" ".join
    ),
)


@given(st.lists(ACTIONS, max_size=4), st.booleans())
def test_no_answer_makes_a_recipient_acceptable_that_rcpthosts_refuses(answers: list[bytes], listed: bool) -> None:
    echo = Echo()
    try:
        echo.rulings = [ruling(*answers)]
    except Failure:
        echo.rulings = []
    recipient = b"u@ok.test" if listed else b"u@evil.test"
    lines = [b"HELO x", b"MAIL FROM:<s@s.test>", b"RCPT TO:<" + recipient + b">", b"DATA", b"x", b".", b"QUIT"]
    _, echo = converse(b"\r\n".join(lines) + b"\r\n", echo=echo, policy_services=True)
    assert len(echo.policy_questions) == listed
    assert not [envelope for _, envelope in echo.queued if b"evil.test" in envelope]
    assert all(len(reply) <= 510 and not {10, 13, 0} & set(reply) for reply in echo.replies)
    for message, _ in echo.queued:
        assert message.count(b"Received: from unknown (HELO x)") == 1
        header = message.partition(b"Received: ")[0]
        assert header == b"" or header.endswith(b"\n")
        assert b"\n\n" not in header
