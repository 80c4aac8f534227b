"""Plugins in a session: which commands ask them, in what order with the checks, and what an outcome does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.plugins.commands import Reader
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.offer import Offer
from qmail_smtpd.smtp.outcome import Outcome
from tests.kit.echo import Echo, converse

SECTIONS = frozenset((b"connection", b"helo", b"mail", b"rcpt", b"data", b"auth"))
VARIABLES = {b"mail": b"SMTPMAILFROM", b"rcpt": b"SMTPRCPTTO"}
HELLO, MAIL, RCPT = "EHLO c.test", "MAIL FROM:<s@s.test>", "RCPT TO:<u@ok.test>"
SEND = ["DATA", "Subject: x", "", "hello", "."]
LOG_IN = "AUTH PLAIN AGpvZQBzZWNyZXQ="  # joe, secret


def outcome_of(output: bytes, section: bytes = b"rcpt", address: bytes = b"") -> Outcome:
    """Return the outcome of a plugin that writes this."""
    outcome = Outcome(address)
    Reader(outcome, {}, VARIABLES.get(section, b""), set()).read(b"p", output)
    return outcome


def talk(*commands: str, outcomes: dict[bytes, list[Outcome]] | None = None, **changes: object) -> Echo:
    echo = Echo()
    echo.outcomes = outcomes or {}
    converse("".join(f"{command}\r\n" for command in commands).encode(), 0, echo, **{"plugins": SECTIONS, **changes})
    return echo


def test_each_command_runs_its_section_with_its_address() -> None:
    echo = talk(HELLO, MAIL, RCPT, *SEND, "QUIT")
    runs = [(b"connection", b""), (b"helo", b""), (b"mail", b"s@s.test"), (b"rcpt", b"u@ok.test"), (b"data", b"")]
    assert echo.plugin_runs == runs
    assert len(echo.queued) == 1


def test_a_section_without_plugins_runs_none() -> None:
    assert talk(HELLO, MAIL, RCPT, *SEND, plugins=frozenset((b"helo",))).plugin_runs == [(b"helo", b"")]


def test_the_variables_are_those_of_qmail_spp() -> None:
    echo = talk(HELLO, MAIL, RCPT, "RCPT TO:<u@evil.test>", RCPT)
    assert echo.variables == {
        b"SMTPHELOHOST": b"c.test",
        b"SMTPMAILFROM": b"s@s.test",
        b"SMTPRCPTTO": b"u@ok.test",
        b"SMTPRCPTCOUNT": b"1",
        b"SMTPRCPTCOUNTALL": b"3",
        b"SMTPRCPTHOSTSOK": b"1",
    }
    assert talk(HELLO, MAIL, "RCPT TO:<u@evil.test>").variables[b"SMTPRCPTHOSTSOK"] == b"0"
    assert talk(HELLO, MAIL, "RCPT TO:<u@evil.test>", relayclient=b"").variables[b"SMTPRCPTHOSTSOK"] == b"1"


@pytest.mark.parametrize(
    ("section", "commands", "next_reply"),
    [
        (b"helo", [HELLO, MAIL], b"250 ok"),
        (b"mail", [HELLO, MAIL, RCPT], replies.MAIL_FIRST),
        (b"rcpt", [HELLO, MAIL, RCPT, "DATA"], replies.RCPT_FIRST),
        (b"data", [HELLO, MAIL, RCPT, "DATA", "DATA"], b"354 go ahead"),
    ],
)
def test_e_refuses_the_command(section: bytes, commands: list[str], next_reply: bytes) -> None:
    echo = talk(*commands, outcomes={section: [outcome_of(b"E550 no\n", section)]})
    assert echo.replies[-2:] == [b"550 no", next_reply]
    (facts,) = [facts for event, facts in echo.decisions if event == b"refused" and b"plugin" in facts]
    assert (facts[b"reason"], facts[b"section"], facts[b"reply"]) == (b"plugin", section, b"550_no")


@pytest.mark.parametrize(("output", "last"), [(b"R550 bye\n", b"550 bye"), (b"D\n", b"250 ok")])
def test_r_and_d_end_the_session(output: bytes, last: bytes) -> None:
    echo = talk(HELLO, MAIL, RCPT, "NOOP", outcomes={b"rcpt": [outcome_of(output)]})
    assert echo.replies[-1] == last
    assert echo.decisions[-1][0] == b"end"


@pytest.mark.parametrize(("output", "sent"), [(b"E554 no\n", [b"554 no"]), (b"D\n", [])])
def test_a_client_that_a_plugin_refuses_is_not_greeted_and_the_session_ends(output: bytes, sent: list[bytes]) -> None:
    assert talk(HELLO, MAIL, outcomes={b"connection": [outcome_of(output, b"connection")]}).replies == sent


def test_p_is_printed_before_the_reply() -> None:
    outcomes = {b"connection": [outcome_of(b"P220-welcome\n")], b"helo": [outcome_of(b"P250-a\nE550 no\n")]}
    assert talk(HELLO, outcomes=outcomes).replies == [b"220-welcome", b"220 mx ESMTP", b"250-a", b"550 no"]


def test_a_ends_all_plugins_of_the_session_but_no_check() -> None:
    echo = talk(
        HELLO,
        MAIL,
        "RCPT TO:<u@evil.test>",
        RCPT,
        "DATA",
        outcomes={b"mail": [outcome_of(b"A\n", b"mail", b"s@s.test")]},
    )
    assert [section for section, _ in echo.plugin_runs] == [b"connection", b"helo", b"mail"]
    assert echo.replies[-3:] == [replies.RCPTHOSTS, b"250 ok", b"354 go ahead"]
    assert echo.variables[b"SMTPRCPTTO"] == b"u@ok.test"


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [(b"v@ok.test", b"250 ok"), (b"v@evil.test", replies.RCPTHOSTS), (b"x" * 900, replies.SYNTAX), (b"", b"250 ok")],
)
def test_a_recipient_that_c_changes_is_checked_again(recipient: bytes, reply: bytes) -> None:
    outcome = Outcome(recipient)
    echo = talk(HELLO, MAIL, RCPT, *SEND, outcomes={b"rcpt": [outcome]})
    assert echo.replies[5] == reply
    expected = [b"Fs@s.test\0T" + recipient + b"\0\0"] if reply == b"250 ok" else []
    assert [envelope for _, envelope in echo.queued] == expected


def test_o_does_not_skip_rcpthosts() -> None:
    echo = talk(HELLO, MAIL, "RCPT TO:<u@evil.test>", outcomes={b"rcpt": [outcome_of(b"O\n", address=b"u@evil.test")]})
    assert echo.replies[-1] == replies.RCPTHOSTS


def test_a_sender_that_c_changes_is_checked() -> None:
    bad = [outcome_of(b"Cbad@s.test\nO\n", b"mail")]
    echo = talk(HELLO, MAIL, RCPT, outcomes={b"mail": bad}, badmailfrom=frozenset((b"bad@s.test",)))
    assert echo.replies[-1] == replies.BADMAILFROM
    assert echo.plugin_runs[-1] == (b"mail", b"s@s.test")


def test_an_error_for_later_is_sent_then_and_forgotten_at_rset() -> None:
    outcomes = {b"helo": [outcome_of(b"LM550-no\nLM550 mail\n", b"helo")]}
    echo = talk(HELLO, MAIL, MAIL, "RSET", MAIL, outcomes=outcomes)
    assert echo.replies[-6:] == [b"550-no", b"550 mail", b"550-no", b"550 mail", b"250 flushed", b"250 ok"]
    outcomes = {b"helo": [outcome_of(b"LD450 data\n", b"helo")]}
    assert talk(HELLO, MAIL, RCPT, "DATA", outcomes=outcomes).replies[-2:] == [b"250 ok", b"450 data"]
    outcomes = {b"helo": [outcome_of(b"LR450 rcpt\n", b"helo")]}
    assert talk(HELLO, MAIL, RCPT, outcomes=outcomes).replies[-1] == b"450 rcpt"


def test_headers_are_below_the_received_line_of_the_next_message_only() -> None:
    outcomes = {b"helo": [outcome_of(b"HX-A: b\n")], b"rcpt": [outcome_of(b"HX-C: d\n", address=b"u@ok.test")]}
    (first, _), (second, _) = talk(HELLO, MAIL, RCPT, *SEND, MAIL, RCPT, *SEND, outcomes=outcomes).queued
    assert first.endswith(b"-0000\nX-A: b\nX-C: d\nSubject: x\n\nhello\n")
    assert b"X-A" not in second


def test_an_auth_plugin_sees_the_user_and_can_refuse_the_login() -> None:
    offer = Offer((b"PLAIN",))
    commands = (LOG_IN, MAIL, "RCPT TO:<u@evil.test>")
    echo = talk(*commands, auth=offer)
    assert echo.replies[1:] == [replies.AUTH_OK, b"250 ok", b"250 ok"]
    assert (echo.variables[b"SMTPAUTHUSER"], echo.variables[b"SMTPAUTHMETHOD"]) == (b"joe", b"plain")
    echo = talk(*commands, auth=offer, outcomes={b"auth": [outcome_of(b"E535 not you\n")]})
    assert echo.replies[1:] == [b"535 not you", b"250 ok", replies.RCPTHOSTS]
    assert (echo.variables[b"SMTPAUTHUSER"], echo.variables[b"SMTPAUTHMETHOD"]) == (None, None)
    assert echo.identity is None


def test_plugins_are_not_asked_about_what_is_refused_for_other_reasons() -> None:
    def asked(*commands: str, **changes: object) -> int:
        return [section for section, _ in talk(HELLO, MAIL, *commands, **changes).plugin_runs].count(b"rcpt")

    assert asked(RCPT, "RCPT TO:<u@evil.test>") == 2
    assert asked("RCPT TO:<" + "x" * 900 + ">") == 0
    assert asked(RCPT, RCPT, maxrcpt=1) == 1
    assert asked(RCPT, badmailfrom=frozenset((b"@s.test",))) == 0


def test_starttls_discards_what_plugins_have_decided_since_the_connection() -> None:
    outcomes = {b"helo": [outcome_of(b"HX-A: b\nLM550 no\nA\n")]}
    echo = talk(HELLO, "STARTTLS", outcomes=outcomes, starttls=True)
    assert echo.variables[b"SMTPHELOHOST"] is None
    echo = Echo()
    echo.outcomes = {b"helo": [outcome_of(b"HX-A: b\nLM550 no\nA\n")]}
    session, _ = converse(b"EHLO x\r\nSTARTTLS\r\n", 0, echo, plugins=SECTIONS, starttls=True)
    session.feed(b"MAIL FROM:<s@s.test>\r\n")
    assert echo.replies[-1] == b"250 ok"
    assert echo.plugin_runs[-1][0] == b"mail"


def test_what_a_connection_plugin_has_accepted_stays_accepted_after_starttls() -> None:
    echo = Echo()
    echo.outcomes = {b"connection": [outcome_of(b"A\n")]}
    session, _ = converse(b"EHLO x\r\nSTARTTLS\r\n", 0, echo, plugins=SECTIONS, starttls=True)
    session.feed(b"EHLO x\r\nMAIL FROM:<s@s.test>\r\n")
    assert [section for section, _ in echo.plugin_runs] == [b"connection"]


def test_the_client_of_a_proxy_is_a_new_one_for_plugins() -> None:
    outcomes = {b"connection": [outcome_of(b"A\n"), outcome_of(b"E554 no\n")]}
    echo = talk("EHLO p", "XCLIENT ADDR=192.0.2.7", "NOOP", outcomes=outcomes, xclient=(b"ADDR",))
    assert [section for section, _ in echo.plugin_runs] == [b"connection", b"connection"]
    assert echo.replies[-1] == b"554 no"


LINES = st.sampled_from(
    [b"A", b"N", b"O", b"E250 ok", b"P250 ok", b"LR250 ok", b"SRELAYCLIENT=", b"Cu@evil.test", b"C"]
)
OUTPUTS = st.lists(st.one_of(st.binary(max_size=40), LINES), max_size=5).map(lambda lines: b"\n".join(lines) + b"\n")


@given(st.dictionaries(st.sampled_from(sorted(SECTIONS)), OUTPUTS), st.booleans())
def test_no_output_makes_a_recipient_acceptable_that_rcpthosts_refuses(outputs: dict[bytes, bytes], own: bool) -> None:
    address = b"u@ok.test" if own else b"u@evil.test"
    addresses = {b"mail": b"s@s.test", b"rcpt": address}
    outcomes = {section: [outcome_of(text, section, addresses.get(section, b""))] for section, text in outputs.items()}
    echo = talk(HELLO, MAIL, f"RCPT TO:<{address.decode()}>", *SEND, "QUIT", outcomes=outcomes)
    for message, envelope in echo.queued:
        recipients = envelope[:-2].split(b"\0")[1:]
        assert all(b"@" not in recipient or recipient.endswith(b"@ok.test") for recipient in recipients)
        assert message.startswith(b"Received: ")


def test_a_refused_data_or_bdat_has_one_reply() -> None:
    no = {b"data": [outcome_of(b"E450 no\n", b"data")]}
    assert talk(HELLO, MAIL, RCPT, "DATA", "NOOP", outcomes=no).replies[-2:] == [b"450 no", b"250 ok"]
    bye = {b"data": [outcome_of(b"R421 bye\n", b"data")]}
    assert talk(HELLO, MAIL, RCPT, "DATA", "NOOP", outcomes=bye).replies[-1] == b"421 bye"
    chunk = (HELLO, MAIL, RCPT, "BDAT 4 LAST", "ab", "NOOP")
    no = {b"data": [outcome_of(b"E450 no\n", b"data")]}
    assert talk(*chunk, outcomes=no, chunking=True).replies[-3:] == [b"250 ok", b"450 no", b"250 ok"]
    for commands in (chunk, (HELLO, MAIL, RCPT, "BDAT 0 LAST", "NOOP")):
        bye = {b"data": [outcome_of(b"R421 bye\n", b"data")]}
        assert talk(*commands, outcomes=bye, chunking=True).replies[-2:] == [b"250 ok", b"421 bye"]


def test_replies_keep_their_order_where_relayed_recipients_are_counted() -> None:
    first, second = Outcome(b"u@evil.test"), outcome_of(b"P250-more\nE550 no\n")
    commands = (HELLO, MAIL, "RCPT TO:<u@evil.test>", RCPT)
    echo = talk(*commands, outcomes={b"rcpt": [first, second]}, relayclient=b"", relay_limited=True)
    assert echo.replies[-3:] == [b"250 ok", b"250-more", b"550 no"]
    assert echo.variables[b"SMTPRCPTCOUNT"] == b"1"
