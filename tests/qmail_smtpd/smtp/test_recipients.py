"""When the session asks whether a recipient exists, and what the answer does."""

import pytest

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.settings import Unreadable
from tests.kit.echo import Echo, converse

MAIL = b"MAIL FROM:<s@s.test>\r\n"


def rcpt(*recipients: bytes) -> bytes:
    return MAIL + b"".join(b"RCPT TO:<%b>\r\n" % recipient for recipient in recipients)


def refusing(*recipients: bytes) -> Echo:
    echo = Echo()
    echo.refusals = dict.fromkeys(recipients, (replies.UNKNOWN, b"unknown"))
    return echo


@pytest.mark.parametrize("size", [0, 1])
def test_an_unknown_recipient_is_refused_and_the_others_are_accepted(size: int) -> None:
    _, echo = converse(rcpt(b"no@ok.test", b"u@ok.test"), size, refusing(b"no@ok.test"), recipients_are_checked=True)
    assert echo.replies[2:] == [replies.UNKNOWN, replies.OK]
    assert echo.asked == [(b"s@s.test", b"no@ok.test"), (b"s@s.test", b"u@ok.test")]
    facts = {b"sender": b"s@s.test", b"recipient": b"no@ok.test", b"reason": b"unknown"}
    assert (b"refused", facts) in echo.decisions


def test_nothing_is_asked_if_nothing_is_configured() -> None:
    _, echo = converse(rcpt(b"u@ok.test"))
    assert (echo.replies[2:], echo.asked) == ([replies.OK], [])


@pytest.mark.parametrize(
    ("recipient", "changes"),
    [
        (b"u@evil.test", {}),
        (b"u%evil.test@ok.test", {"relaystrict": True}),
        (b"u@ok.test" + b"x" * 900, {}),
        (b"u@ok.test", {"badmailfrom": frozenset({b"s@s.test"})}),
        (b"u@evil.test", {"relayclient": b""}),
        (b"u@ok.test", {"relayclient": b"", "rcpthosts": None}),
    ],
)
def test_a_recipient_that_is_refused_or_may_be_elsewhere_is_not_asked_about(
    recipient: bytes, changes: dict[str, object]
) -> None:
    assert converse(rcpt(recipient), recipients_are_checked=True, **changes)[1].asked == []


def test_for_a_client_that_may_relay_the_listed_domains_are_asked_about_without_its_suffix() -> None:
    data = rcpt(b"no@ok.test", b"no@more.test", b"u@a.wild.test")
    echo = refusing(b"no@ok.test", b"no@more.test")
    echo.more = (b"more.test",)
    converse(data, 0, echo, recipients_are_checked=True, relayclient=b"@relay")
    assert echo.replies[2:] == [replies.UNKNOWN, replies.UNKNOWN, replies.OK]
    assert [recipient for _, recipient in echo.asked] == [b"no@ok.test", b"no@more.test", b"u@a.wild.test"]


ANSWERS = [None, (replies.OK, b"-"), (b"550 no", b"unknown"), (b"451 later", b"rcptcheck:timeout")]


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_answer_makes_a_recipient_acceptable_that_rcpthosts_refuses(answer: tuple[bytes, bytes] | None) -> None:
    echo = Echo()
    if answer:
        echo.refusals = {b"u@evil.test": answer}
    session, _ = converse(rcpt(b"u@evil.test"), 0, echo, recipients_are_checked=True)
    assert (echo.replies[2:], session.envelope.count) == ([replies.RCPTHOSTS], 0)


def test_a_list_that_cannot_be_read_ends_the_session() -> None:
    echo = Echo()
    echo.failure = Unreadable(replies.CONTROLS_UNREADABLE, b"unable to read control/validrcptto.cdb: not a cdb")
    session, _ = converse(rcpt(b"u@ok.test"), 0, echo, recipients_are_checked=True)
    assert (echo.replies[2:], session.status) == ([replies.CONTROLS_UNREADABLE], 1)
