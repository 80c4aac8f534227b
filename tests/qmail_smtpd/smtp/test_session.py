"""The conversation with an echo backend: every table whole, byte by byte, and followed by garbage."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.settings import Unreadable
from tests.kit.echo import Echo, converse
from tests.kit.support import times

TRANSACTION = b"MAIL FROM:<s@s.test>\r\nRCPT TO:<u@ok.test>\r\n"
MESSAGE = TRANSACTION + b"DATA\r\nhello\r\n.\r\n"
RECEIVED = b"Received: from unknown (unknown)\n  by unknown with SMTP; 24 Nov 2004 01:02:03 -0000\n"
GREETING = b"220 mx ESMTP"


def codes(echo: Echo) -> str:
    """Return the codes of all replies after the greeting."""
    assert echo.replies[0] == GREETING
    return " ".join(line[:3].decode() for line in echo.replies[1:])


CONVERSATIONS = [
    (b"QUIT\r\n", "221", 0),
    (b"HELO a\r\nEHLO\r\n", "250 250 250 250", None),
    (b"NOOP x\r\nHELP\r\nVRFY a\r\nRSET\r\n", "250 214 252 250", None),
    (b"noop\r\nNoOp\r\nNOOP\n", "250 250 250", None),
    (b"NOOP\r\r\n", "502", None),  # only one CR is removed
    (b"NOOP\0junk\r\n", "250", None),
    (b"\r\n\n \r\n NOOP\r\nNOOP\tx\r\n", "502 502 502 502 502", None),
    (b"EXPN a\r\nETRN\r\nSTARTTLS\r\nAUTH PLAIN\r\nBDAT 3\r\n", "502 502 502 502 502", None),
    (b"RCPT TO:<u@ok.test>\r\nDATA\r\n", "503 503", None),
    (b"MAIL\r\nDATA\r\n", "250 503", None),
    (TRANSACTION + b"RSET\r\nRCPT TO:<u@ok.test>\r\n", "250 250 250 503", None),
    (TRANSACTION + b"HELO a\r\nDATA\r\n", "250 250 250 503", None),
    (TRANSACTION + b"EHLO a\r\nDATA\r\n", "250 250 250 250 250 503", None),
    (TRANSACTION + b"MAIL FROM:<b@b.test>\r\nDATA\r\n", "250 250 250 503", None),
    (MESSAGE + b"DATA\r\nRCPT TO:<u@ok.test>\r\n", "250 250 354 250 503 503", None),
    (MESSAGE + MESSAGE + b"QUIT\r\n", "250 250 354 250 250 250 354 250 221", 0),
    (TRANSACTION + b"RCPT TO:<u@evil.test>\r\nDATA\r\n.\r\n", "250 250 553 354 250", None),
    (TRANSACTION + b"DATA\r\na\nb\r\n.\r\nQUIT\r\n", "250 250 354 451", 1),
    (TRANSACTION + b"DATA\r\n\r\n.\r\r\n.\r\nQUIT\r\n", "250 250 354 250 221", 0),
    (b"x" * 20_000 + b"\r\nNOOP " + b"x" * 20_000 + b"\r\n", "502 250", None),
]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(("data", "wanted", "status"), CONVERSATIONS)
def test_commands_have_these_replies(data: bytes, wanted: str, status: int | None, size: int) -> None:
    session, echo = converse(data, size)
    assert codes(echo) == wanted
    assert session.status == status


@pytest.mark.parametrize(("data", "wanted", "status"), CONVERSATIONS)
def test_garbage_after_it_does_not_change_earlier_replies(data: bytes, wanted: str, status: int | None) -> None:
    session, echo = converse(data + b"\xff\0garbage\r\n.\r\n")
    assert codes(echo).startswith(wanted)
    assert session.status == status
    assert status is None or codes(echo) == wanted


def test_a_message_is_queued_with_its_received_line_and_envelope() -> None:
    _, echo = converse(MESSAGE)
    assert echo.queued == [(RECEIVED + b"hello\n", b"Fs@s.test\0Tu@ok.test\0\0")]


def test_relayclient_is_appended_to_every_recipient() -> None:
    data = b"MAIL FROM:<>\r\nRCPT TO:<u@ok.test>\r\nRCPT TO:<>\r\nRCPT TO:<x@evil.test>\r\nDATA\r\n.\r\n"
    _, echo = converse(data, relayclient=b"@relay")
    assert echo.queued == [(RECEIVED, b"F\0Tu@ok.test@relay\0T@relay\0Tx@evil.test@relay\0\0")]


def test_duplicate_recipients_keep_order_and_case() -> None:
    _, echo = converse(b"MAIL <S@s>\r\nRCPT <B@ok.test>\r\nRCPT <a@OK.test>\r\nRCPT <B@ok.test>\r\nDATA\r\n.\r\n")
    assert echo.queued[0][1] == b"FS@s\0TB@ok.test\0Ta@OK.test\0TB@ok.test\0\0"


def test_a_refused_mail_does_not_end_the_previous_transaction() -> None:
    _, echo = converse(TRANSACTION + b"MAIL FROM:<" + b"x" * 900 + b">\r\nDATA\r\n.\r\n")
    assert codes(echo) == "250 250 555 354 250"
    assert echo.queued[0][1] == b"Fs@s.test\0Tu@ok.test\0\0"


@pytest.mark.parametrize("hello", [b"HELO unknown\r\n", b"EHLO UNKNOWN\r\n", b"HELO x\r\nHELO unknown\r\n", b""])
def test_a_helo_name_equal_to_remotehost_is_not_in_the_received_line(hello: bytes) -> None:
    _, echo = converse(hello + MESSAGE)
    assert echo.queued[0][0].startswith(RECEIVED)


def test_the_last_helo_name_is_in_the_received_line() -> None:
    _, echo = converse(b"HELO a\r\nEHLO b_c\r\n" + MESSAGE)
    assert b"from unknown (HELO b?c) (unknown)\n" in echo.queued[0][0]


def test_a_literal_of_this_host_is_replaced_by_localiphost() -> None:
    _, echo = converse(b"MAIL <a@[127.0.0.1]>\r\nRCPT <u@[127.0.0.257]>\r\nDATA\r\n.\r\n", localiphost=b"ok.test")
    assert echo.queued[0][1] == b"Fa@ok.test\0Tu@ok.test\0\0"


def test_without_localiphost_a_literal_is_kept_and_not_looked_up() -> None:
    echo = Echo()
    echo.failure = AssertionError("asked")
    converse(b"MAIL <a@[127.0.0.1]>\r\nRCPT <u>\r\nDATA\r\n.\r\n", echo=echo, localiphost=None)
    assert echo.queued[0][1] == b"Fa@[127.0.0.1]\0Tu\0\0"


@pytest.mark.parametrize("command", [b"MAIL <a@[127.0.0.1]>", b"RCPT <u@evil.test>", b"RCPT <u@[1.2.3.4]>"])
def test_an_unreadable_setting_ends_the_session(command: bytes) -> None:
    echo = Echo()
    echo.failure = Unreadable(b"421 trouble", b"no cdb")
    session, _ = converse(b"MAIL <a@b>\r\n" + command + b"\r\nQUIT\r\n", echo=echo)
    assert (echo.replies[-1], session.status) == (b"421 trouble", 1)


def test_the_transaction_ends_if_no_queue_process_can_be_started() -> None:
    echo = Echo()
    echo.queue_starts = False
    converse(TRANSACTION + b"DATA\r\nDATA\r\n", echo=echo)
    assert echo.replies[-2:] == [replies.QQ_FAILURE, replies.MAIL_FIRST]


# Messages refused after the final dot.

HOPS = b"Received: x\r\n" * 100 + b"\r\n"


@pytest.mark.parametrize(
    ("text", "limit", "reply"),
    [
        (b"12345\r\n", 6, b"250 ok 1 qp 2"),
        (b"123456\r\n", 6, replies.TOO_BIG),
        (b"..3456\r\n", 6, b"250 ok 1 qp 2"),
        (HOPS, 0, replies.TOO_MANY_HOPS),
        (HOPS, 6, replies.TOO_MANY_HOPS),
        (HOPS[13:], 0, b"250 ok 1 qp 2"),
    ],
)
def test_a_refused_message_is_discarded_without_an_envelope(text: bytes, limit: int, reply: bytes) -> None:
    session, echo = converse(TRANSACTION + b"DATA\r\n" + text + b".\r\nNOOP\r\n", databytes=limit)
    assert echo.replies[-2:] == [reply, replies.OK]
    assert bool(echo.queued) == reply.startswith(b"250")
    assert bool(echo.discarded) != bool(echo.queued)
    assert session.status is None


def test_the_reply_to_a_message_is_that_of_the_queue() -> None:
    echo = Echo(queue_reply=b"451 qq timeout (#4.3.0)")
    converse(MESSAGE + b"NOOP\r\n", echo=echo)
    assert echo.replies[-2:] == [b"451 qq timeout (#4.3.0)", replies.OK]


# SMTP smuggling: what another mailer may take for the end of a message does not end it here.

SMUGGLED = b"MAIL FROM:<evil@s.test>\r\nRCPT TO:<victim@ok.test>\r\nDATA\r\nsmuggled\r\n.\r\n"


def smuggle(end: bytes, **changes: object) -> Echo:
    """Send a second message after an invalid end of data: it must become part of the first, or nothing is queued."""
    for size in (0, 1):
        session, echo = converse(TRANSACTION + b"DATA\r\nfirst" + end + SMUGGLED + b"QUIT\r\n", size, **changes)
        assert [envelope for _, envelope in echo.queued] in ([], [b"Fs@s.test\0Tu@ok.test\0\0"])
        assert bool(echo.queued) == (session.status == 0)
    return echo


def test_smuggling_by_lf_dot_lf_ends_the_session() -> None:
    assert smuggle(b"\n.\n").replies[-1] == replies.STRAY_NEWLINE


def test_smuggling_by_lf_dot_crlf_ends_the_session() -> None:
    assert smuggle(b"\n.\r\n").replies[-1] == replies.STRAY_NEWLINE


def test_smuggling_by_crlf_dot_lf_ends_the_session() -> None:
    assert smuggle(b"\r\n.\n").replies[-1] == replies.STRAY_NEWLINE


def test_smuggling_by_cr_dot_lf_ends_the_session() -> None:
    assert smuggle(b"\r.\n").replies[-1] == replies.STRAY_NEWLINE


def test_smuggling_by_lf_dot_cr_ends_the_session() -> None:
    assert smuggle(b"\n.\r").replies[-1] == replies.STRAY_NEWLINE


def test_smuggling_by_cr_dot_cr_does_not_end_the_message() -> None:
    assert b"first\r.\rMAIL FROM:<evil" in smuggle(b"\r.\r").queued[0][0]


def test_smuggling_by_cr_dot_crlf_does_not_end_the_message() -> None:
    assert b"first\r.\nMAIL FROM:<evil" in smuggle(b"\r.\r\n").queued[0][0]


def test_smuggling_by_crlf_dot_cr_does_not_end_the_message() -> None:
    assert b"first\n.\rMAIL FROM:<evil" in smuggle(b"\r\n.\r").queued[0][0]


def test_smuggling_by_crlf_dot_cr_cr_lf_does_not_end_the_message() -> None:
    assert b"first\n.\r\nMAIL FROM:<evil" in smuggle(b"\r\n.\r\r\n").queued[0][0]


def test_smuggling_by_crlf_nul_dot_crlf_does_not_end_the_message() -> None:
    assert b"first\n\0.\nMAIL FROM:<evil" in smuggle(b"\r\n\0.\r\n").queued[0][0]


def test_smuggling_by_crlf_dot_nul_crlf_does_not_end_the_message() -> None:
    assert b"first\n\0\nMAIL FROM:<evil" in smuggle(b"\r\n.\0\r\n").queued[0][0]


def test_cr_cr_lf_dot_crlf_ends_the_message_and_keeps_the_cr() -> None:
    _, echo = converse(TRANSACTION + b"DATA\r\na\r\r\n.\r\nQUIT\r\n")
    assert (echo.queued[0][0], echo.replies[-1]) == (RECEIVED + b"a\r\n", b"221 mx")


@pytest.mark.parametrize("end", [b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\r\r\n", b"a\rb"])
def test_a_refused_bare_cr_ends_the_session(end: bytes) -> None:
    assert smuggle(end, refuse_bare_cr=True).replies[-1] == replies.STRAY_NEWLINE


# Limits.


def test_failed_commands_are_counted_and_refused_recipients_are_not() -> None:
    failures = b"X\r\nDATA\r\nMAIL <" + b"x" * 900 + b">\r\n"
    session, echo = converse(b"MAIL <a@b>\r\n" + b"RCPT <u@evil.test>\r\n" * 9 + failures * 3, maxerrors=5)
    assert codes(echo) == "250" + " 553" * 9 + " 502 503 555 502 503 421"
    assert (echo.replies[-1], session.status) == (replies.TOO_MANY_ERRORS, 1)


def test_a_queue_program_that_cannot_be_started_counts_for_maxerrors() -> None:
    echo = Echo()
    echo.queue_starts = False
    begin = b"MAIL FROM:<a@b>\r\nRCPT TO:<u@ok.test>\r\nDATA\r\n"
    session, _ = converse(begin * 9, echo=echo, maxerrors=5)
    assert echo.replies.count(b"451 qqt failure (#4.3.0)") == 5
    assert echo.replies[-1] == b"421 too many errors (#4.7.0)"
    assert session.status == 1


def test_maxerrors_of_zero_is_no_limit() -> None:
    session, echo = converse(b"X\r\n" * 1000, maxerrors=0)
    assert (session.status, len(echo.replies)) == (None, 1001)


def test_a_command_keeps_its_first_8192_bytes() -> None:
    session, _ = converse(b"HELO " + b"x" * 9000 + b"\r\n", relayclient=b"")
    assert session.helo == b"x" * (8192 - 5)


@pytest.mark.parametrize("size", [0, 1, 4096])
@pytest.mark.parametrize("length", [8190, 8191, 8192, 8193, 8194])
def test_a_cr_at_the_limit_of_a_line_is_kept_only_within_the_limit(length: int, size: int) -> None:
    session, _ = converse(b"HELO " + b"x" * (length - 5) + b"\r\r\n", size)
    assert session.helo == (b"x" * (length - 5) + b"\r")[: 8192 - 5]


def test_an_endless_line_takes_bounded_memory() -> None:
    session, _ = converse(b"x" * 1_000_000, 1000)
    assert len(session.pending) == 8193


# SIZE.

BIG = b"MAIL FROM:<a@b> SIZE=101\r\n"


def test_size_is_offered_if_there_is_a_limit() -> None:
    assert converse(b"EHLO a\r\n", databytes=100)[1].replies[1:] == [
        b"250-mx",
        b"250-PIPELINING",
        b"250-8BITMIME",
        b"250 SIZE 100",
    ]
    assert converse(b"EHLO a\r\n")[1].replies[1:] == [b"250-mx", b"250-PIPELINING", b"250 8BITMIME"]


def test_a_declared_size_over_the_limit_is_refused_and_does_not_end_the_previous_transaction() -> None:
    _, echo = converse(b"EHLO a\r\n" + TRANSACTION + BIG + b"DATA\r\n.\r\n", databytes=100)
    assert echo.replies[7:9] == [replies.TOO_BIG, replies.GO_AHEAD]


@pytest.mark.parametrize("hello", [b"", b"HELO a\r\n"])
def test_a_declared_size_is_ignored_if_size_was_not_offered(hello: bytes) -> None:
    assert converse(hello + BIG, databytes=100)[1].replies[-1] == replies.OK
    assert converse(b"EHLO a\r\n" + BIG)[1].replies[-1] == replies.OK


@pytest.mark.parametrize(
    "parameters", [b"SIZE=100", b"SIZE=x", b"SIZE", b"BODY=8BITMIME", b"AUTH=<> X=Y", b"XSIZE=101"]
)
def test_other_parameters_are_ignored(parameters: bytes) -> None:
    _, echo = converse(b"EHLO a\r\nMAIL FROM:<a@b> " + parameters + b"\r\n", databytes=100)
    assert echo.replies[-1] == replies.OK


# The log.


def test_decisions_are_logged_with_client_addresses_and_reason() -> None:
    data = b"HELO me\r\nMAIL <s@s>\r\nRCPT <u@ok.test>\r\nRCPT <u@evil>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
    _, echo = converse(data)
    helo = {b"helo": b"me"}
    assert echo.decisions == [
        (b"accepted", {**helo, b"sender": b"s@s", b"recipient": b"u@ok.test"}),
        (b"refused", {**helo, b"sender": b"s@s", b"recipient": b"u@evil", b"reason": b"rcpthosts"}),
        (b"queued", {**helo, b"sender": b"s@s", b"recipients": b"1", b"bytes": b"6", b"qp": b"2"}),
        (
            b"end",
            {**helo, b"reason": b"quit", b"messages": b"1", b"recipients": b"1", b"refused": b"1", b"errors": b"0"},
        ),
    ]


@pytest.mark.parametrize(
    ("data", "event", "reason"),
    [
        (b"DATA\r\na\nb", b"aborted", b"stray-newline"),
        (b"DATA\r\n" + HOPS + b".\r\n", b"rejected", b"hops"),
        (b"DATA\r\n" + b"x" * 200 + b"\r\n.\r\n", b"rejected", b"size"),
        (b"MAIL <" + b"x" * 900 + b">\r\n", b"refused", b"syntax"),
        (b"EHLO a\r\n" + BIG, b"refused", b"size"),
    ],
)
def test_a_message_that_is_not_queued_is_logged_with_the_reason(data: bytes, event: bytes, reason: bytes) -> None:
    _, echo = converse(TRANSACTION + data, databytes=100)
    reasons = [facts[b"reason"] for logged, facts in echo.decisions if logged == event]
    assert reasons == [reason]


# Any bytes.

FRAGMENTS = [
    b"MAIL FROM:<a@b>\r\n",
    b"RCPT TO:<u@ok.test>\r\n",
    b"RCPT TO:<u@[127.0.0.1]>\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"EHLO x\r\n",
    b"QUIT\r\n",
    b"\r\n.\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"\0",
    b"<",
    b'"',
    b"\\",
    b"SIZE=999",
    b"\xff\xfe",
    b"Received: x\r\n",
]
BYTES = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=9), max_size=25).map(b"".join)


@given(BYTES, st.integers(1, 11))
@hypothesis_settings(max_examples=times(200))
def test_the_replies_to_any_bytes_do_not_depend_on_how_they_are_split(data: bytes, size: int) -> None:
    whole, first = converse(TRANSACTION + data, databytes=20)
    parts, second = converse(TRANSACTION + data, size, databytes=20)
    assert first.replies == second.replies
    assert first.queued == second.queued
    assert whole.status == parts.status
    # the number of bytes of an aborted message depends on the blocks
    assert first.decisions == second.decisions or first.decisions[-2][0] == b"aborted"


@given(BYTES)
@hypothesis_settings(max_examples=times(200))
def test_every_reply_is_one_of_the_known_lines(data: bytes) -> None:
    known = {value for value in vars(replies).values() if isinstance(value, bytes)}
    known |= {GREETING, b"250 mx", b"221 mx", b"250-mx", b"250-PIPELINING", b"250-8BITMIME", b"250 SIZE 20"}
    _, echo = converse(TRANSACTION + data, databytes=20)
    assert set(echo.replies) <= known | {b"250 ok 1 qp 2"}


@given(BYTES)
@hypothesis_settings(max_examples=times(100))
def test_a_message_is_queued_only_with_a_complete_envelope(data: bytes) -> None:
    _, echo = converse(TRANSACTION + data)
    for message, envelope in echo.queued:
        assert message.startswith(b"Received: ")
        fields = envelope.split(b"\0")
        assert fields[0][:1] == b"F"
        assert fields[-2:] == [b"", b""]
        assert len(fields) > 3
        assert all(field[:1] == b"T" for field in fields[1:-2])
