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


LIMIT = b"421 too many invalid addresses, goodbye (#4.3.0)"


@pytest.mark.parametrize("size", [0, 1])
def test_after_so_many_unknown_recipients_the_next_one_ends_the_session(size: int) -> None:
    data = rcpt(b"no@ok.test", b"u@ok.test", b"no@ok.test", b"u@ok.test") + b"NOOP\r\n"
    session, echo = converse(data, size, refusing(b"no@ok.test"), recipients_are_checked=True, brtlimit=2)
    assert echo.replies[2:] == [replies.UNKNOWN, replies.OK, replies.UNKNOWN, LIMIT]
    assert session.status == 1
    assert echo.decisions[-2:] == [
        (b"refused", {b"reason": b"brtlimit"}),
        (b"end", {b"reason": b"brtlimit", b"messages": b"0", b"recipients": b"1", b"refused": b"2", b"errors": b"2"}),
    ]


def test_the_limit_counts_over_transactions_and_after_starttls() -> None:
    data = (rcpt(b"no@ok.test") + b"RSET\r\nSTARTTLS\r\n", rcpt(b"no@ok.test") + b"EHLO x\r\n" + rcpt(b"u@ok.test"))
    echo = refusing(b"no@ok.test")
    session, _ = converse(data[0], 0, echo, recipients_are_checked=True, brtlimit=2, starttls=True)
    session.feed(data[1])
    assert echo.handshakes == 1
    assert echo.replies[-1] == LIMIT


def test_other_refusals_do_not_count_for_the_limit() -> None:
    echo = Echo()
    echo.refusals = {b"later@ok.test": (replies.NOT_VERIFIED, b"rcptcheck:exit-111")}
    data = rcpt(b"later@ok.test", b"u@evil.test", b"later@ok.test", b"u@ok.test")
    converse(data, 0, echo, recipients_are_checked=True, brtlimit=1)
    assert echo.replies[2:] == [replies.NOT_VERIFIED, replies.RCPTHOSTS, replies.NOT_VERIFIED, replies.OK]


@pytest.mark.parametrize("reply", [replies.NOT_VERIFIED, replies.CHECK_FAILED, replies.UNKNOWN])
def test_each_refusal_that_may_have_run_a_program_counts_as_an_error(reply: bytes) -> None:
    echo = Echo()
    echo.refusals = {b"u@ok.test": (reply, b"x")}
    converse(rcpt(*[b"u@ok.test"] * 3), 0, echo, recipients_are_checked=True, maxerrors=2)
    assert echo.replies[2:] == [reply, reply, replies.TOO_MANY_ERRORS]


def test_with_a_limit_for_the_address_earlier_sessions_count() -> None:
    echo = refusing(b"no@ok.test")
    echo.unknown_before = 2
    changes = {"recipients_are_checked": True, "brtlimit": 3, "logins_limited": True}
    session, _ = converse(rcpt(b"u@ok.test", b"no@ok.test", b"u@ok.test"), 0, echo, **changes)
    assert echo.replies[2:] == [replies.OK, replies.UNKNOWN, LIMIT]
    assert (session.status, echo.unknown_counted) == (1, 1)


def test_without_such_a_limit_only_the_session_counts() -> None:
    echo = refusing(b"no@ok.test")
    echo.unknown_before = 9
    converse(rcpt(b"no@ok.test", b"u@ok.test"), 0, echo, recipients_are_checked=True, brtlimit=2)
    assert echo.replies[2:] == [replies.UNKNOWN, replies.OK]
    assert echo.unknown_counted == 0
