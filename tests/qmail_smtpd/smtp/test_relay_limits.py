"""RCPT with relay limits: which recipients count, one question for those that are pipelined, order of the replies."""

import pytest

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.ruling import Ruling
from qmail_smtpd.smtp.settings import Unreadable
from tests.kit.echo import Echo, converse

MAIL = b"MAIL FROM:<s@s.test>\r\n"
AWAY, HOME = b"RCPT TO:<a@away.test>\r\n", b"RCPT TO:<u@ok.test>\r\n"


def codes(echo: Echo) -> str:
    return " ".join(reply[:3].decode() for reply in echo.replies[1:])


def session(data: bytes, size: int = 0, allowance: int = 1000, **changes: object) -> Echo:
    echo = Echo()
    echo.allowance = allowance
    return converse(data, size, echo, **{"relay_limited": True, "relayclient": b"", **changes})[1]


@pytest.mark.parametrize("size", [0, 1, 7, 30])
def test_what_goes_over_the_limit_is_refused_in_the_order_of_the_commands(size: int) -> None:
    echo = session(MAIL + AWAY * 3 + HOME + AWAY + b"RCPT junk\r\n" + HOME + b"DATA\r\n.\r\nQUIT\r\n", size, 2)
    assert codes(echo) == "250 250 250 452 250 452 250 250 354 250 221"
    assert echo.replies[4] == b"452 too much mail relayed, try again later (#4.7.1)"
    assert echo.queued[0][1].count(b"T") == 5


def test_recipients_that_are_pipelined_are_one_question() -> None:
    assert session(MAIL + AWAY * 5 + HOME + AWAY).relayed == [(None, 6)]
    assert session(MAIL + AWAY * 2 + b"NOOP\r\n" + AWAY).relayed == [(None, 2), (None, 1)]
    assert session(MAIL + AWAY * 3, 1).relayed == [(None, 1)] * 3


def test_only_recipients_outside_rcpthosts_count_and_only_of_clients_that_relay() -> None:
    assert session(MAIL + HOME * 3 + b"RCPT <postmaster>\r\n").relayed == []
    assert session(MAIL + HOME + b"RCPT <a@more.test>\r\n" + AWAY, relayclient=None).relayed == []
    assert session(MAIL + AWAY, relay_limited=False).relayed == []
    assert session(MAIL + HOME + AWAY, rcpthosts=None).relayed == [(None, 2)]


def test_morercpthosts_is_asked() -> None:
    echo = Echo(more=(b"more.test",))
    converse(MAIL + b"RCPT <a@more.test>\r\n" + AWAY, 0, echo, relay_limited=True, relayclient=b"")
    assert echo.relayed == [(None, 1)]


def test_a_refused_recipient_does_not_count_and_a_dropped_one_stays_counted() -> None:
    too_long = b"RCPT <" + b"x" * 1000 + b"@away.test>\r\n"
    assert session(MAIL + too_long + AWAY + b"RSET\r\n" + MAIL + AWAY + MAIL + AWAY).relayed == [(None, 1)] * 3
    assert session(MAIL + AWAY * 4, maxrcpt=2).relayed == [(None, 2)]


def test_maxrcpt_counts_what_the_limit_has_let_through() -> None:
    echo = session(MAIL + AWAY * 3 + HOME * 3, allowance=1, maxrcpt=3)
    assert codes(echo) == "250 250 452 452 250 250 452"
    assert echo.replies[-1] == b"452 too many recipients (#4.5.3)"


def test_the_suffix_of_relayclient_is_added_after_the_decision() -> None:
    echo = session(MAIL + AWAY + b"DATA\r\n.\r\n", relayclient=b"@fax.test")
    assert b"Ta@away.test@fax.test\0" in echo.queued[0][1]


def test_the_log_has_the_recipient_and_the_reason() -> None:
    echo = session(MAIL + AWAY * 2, allowance=1)
    facts = {b"sender": b"s@s.test", b"recipient": b"a@away.test"}
    accepted = {**facts, b"relay": b"address"}
    assert echo.decisions == [(b"accepted", accepted), (b"refused", {**facts, b"reason": b"relaylimit"})]


def test_recipients_before_an_unreadable_control_file_get_their_replies() -> None:
    echo = Echo()
    failing = MAIL + AWAY + b"RCPT <a@[127.0.0.1]>\r\n"
    echo.failure = None

    def is_own_address(octets: bytes) -> bool:
        raise Unreadable(b"421 unable (#4.3.0)", b"why")

    echo.is_own_address = is_own_address  # type: ignore[method-assign]
    converse(failing + AWAY, 0, echo, relay_limited=True, relayclient=b"")
    assert codes(echo) == "250 250 421"


def test_a_session_that_ends_by_errors_gets_no_more_replies() -> None:
    too_long = b"RCPT <" + b"x" * 1000 + b"@away.test>\r\n"
    echo = session(MAIL + AWAY + too_long * 3 + AWAY + HOME + b"NOOP\r\n", maxerrors=1)
    assert codes(echo) == "250 250 555 421"


def test_policy_services_are_asked_first_and_what_they_refuse_does_not_count() -> None:
    echo = Echo()
    refusing = Ruling()
    refusing.refuse(b"service", b"554 no (#5.7.1)")
    echo.rulings = [Ruling(), refusing, Ruling()]
    converse(MAIL + AWAY * 3, 0, echo, relay_limited=True, relayclient=b"", policy_services=True)
    assert codes(echo) == "250 250 554 250"
    assert echo.relayed == [(None, 1), (None, 1)]


def test_recipients_of_this_host_that_do_not_exist_are_refused_in_their_place() -> None:
    echo = Echo()
    echo.refusals = {b"u@ok.test": (b"550 no (#5.1.1)", b"unknown")}
    converse(MAIL + AWAY + HOME + AWAY, 0, echo, relay_limited=True, relayclient=b"", recipients_are_checked=True)
    assert codes(echo) == "250 250 550 250"
    assert echo.relayed == [(None, 2)]


def test_brtlimit_ends_the_session_after_the_replies_to_those_before() -> None:
    echo = Echo()
    echo.refusals = {b"u@ok.test": (replies.UNKNOWN, b"unknown")}
    options: dict[str, object] = {"relay_limited": True, "recipients_are_checked": True, "brtlimit": 1}
    converse(MAIL + AWAY + HOME + AWAY + AWAY, 0, echo, relayclient=b"", **options)
    assert codes(echo) == "250 250 550 421"
