"""XCLIENT in the conversation: who may give it, its syntax, what it resets, what it never gives."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.offer import Offer
from qmail_smtpd.smtp.settings import Unreadable
from qmail_smtpd.smtp.xclient import ATTRIBUTES, LONGEST_ARGUMENT, WITHOUT_LOGIN, Malformed, decode, parse
from qmail_smtpd.xclient.client import canonical_address
from tests.kit.echo import Echo, converse
from tests.kit.support import times

ADDR = b"XCLIENT ADDR=192.0.2.7\r\n"
TO_OUTSIDE = b"MAIL FROM:<s@s.test>\r\nRCPT TO:<u@outside.test>\r\n"
AUTH = Offer((b"LOGIN", b"PLAIN"))
LOG_IN = b"AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n"  # joe, secret

VALUES = [
    (b"NAME=Client.Example", {b"NAME": b"client.example"}),
    (b"NAME=a_b-c.9x", {b"NAME": b"a_b-c.9x"}),
    (b"name=a+2Eb", {b"NAME": b"a.b"}),
    (b"NAME=[UNAVAILABLE]", {b"NAME": None}),
    (b"NAME=[TempUnavail]", {b"NAME": None}),
    (b"ADDR=192.0.2.7", {b"ADDR": b"192.0.2.7"}),
    (b"addr=IPV6:2001:DB8:0::1", {b"ADDR": b"2001:db8::1"}),
    (b"ADDR=ipv6:::ffff:192.0.2.7", {b"ADDR": b"192.0.2.7"}),
    (b"ADDR=[unavailable]", {b"ADDR": None}),
    (b"PORT=00025", {b"PORT": b"25"}),
    (b"PORT=65535", {b"PORT": b"65535"}),
    (b"PORT=[UNAVAILABLE]", {b"PORT": None}),
    (b"PROTO=esmtp", {b"PROTO": b"ESMTP"}),
    (b"PROTO=SMTP", {b"PROTO": b"SMTP"}),
    (b"HELO=a+20b+0D+0A+FFc", {b"HELO": b"a b???c"}),
    (b"HELO=" + b"h" * 255, {b"HELO": b"h" * 255}),
    (b"HELO=[UNAVAILABLE]", {b"HELO": None}),
    (b"LOGIN=joe+40example.org", {b"LOGIN": b"joe@example.org"}),
    (b"LOGIN=joe+tag", {b"LOGIN": b"joe+tag"}),  # no xtext: nginx before 1.29.2
    (b"LOGIN=[UNAVAILABLE]", {b"LOGIN": None}),
    (b"DESTADDR=192.0.2.1 DESTPORT=587", {b"DESTADDR": b"192.0.2.1", b"DESTPORT": b"587"}),
    (b" \t ADDR=192.0.2.7\t NAME=x.y ", {b"ADDR": b"192.0.2.7", b"NAME": b"x.y"}),
    (b"NAME=x.y PORT=1 ADDR=192.0.2.7", {b"ADDR": b"192.0.2.7", b"NAME": b"x.y", b"PORT": b"1"}),
]
FAULTS = [
    (b"", replies.XCLIENT_SYNTAX),
    (b" \t", replies.XCLIENT_SYNTAX),
    (b"ADDR", replies.XCLIENT_SYNTAX),
    (b"ADDR=", replies.XCLIENT_SYNTAX),
    (b"ADDR=192.0.2.7 PORT", replies.XCLIENT_SYNTAX),
    (b"HELO=" + b"h" * 256, replies.XCLIENT_SYNTAX),
    (b"HELO=h" + b" " * LONGEST_ARGUMENT, replies.XCLIENT_SYNTAX),
    (b"=x", replies.XCLIENT_ATTRIBUTE),
    (b"FOO=1", replies.XCLIENT_ATTRIBUTE),
    (b"REVERSE_NAME=a.b", replies.XCLIENT_ATTRIBUTE),
    (b"ADDR=192.0.2.7 ADDR=192.0.2.7", replies.XCLIENT_ATTRIBUTE),
    (b"ADDR=192.0.2.7 LOGIN=joe addr=127.0.0.1", replies.XCLIENT_ATTRIBUTE),
    *(
        (b"%b=%b" % (name, value), b"501 bad %b syntax (#5.5.4)" % name)
        for name, values in {
            b"NAME": b"a..b -a.b a-.b a.b. .a 192.0.2.7 123 a=b a+20b a+0Ab a+ a@b a/b unknown@x " + b"a" * 64 + b".b",
            b"ADDR": b"x 192.0.2 192.0.2.256 192.0.2.07 [192.0.2.7] 192.0.2.7. 2001:db8::1 IPV6:192.0.2.7 IPV6: "
            b"IPV6:g::1 IPV6:fe80::1%eth0 [TEMPUNAVAIL] +0A192.0.2.7 192.0.2.7+0D 127.1",
            b"PORT": b"x -1 65536 99999 000025 +31+2B 1.0 +B2 [TEMPUNAVAIL]",
            b"PROTO": b"LMTP [UNAVAILABLE] ESMTPS",
            b"LOGIN": b"a+00b a+0Ab +7F",
            b"DESTADDR": b"x IPV6:x [127.0.0.1]",
            b"DESTPORT": b"x 70000",
        }.items()
        for value in values.split(b" ")
    ),
]


@pytest.mark.parametrize(("argument", "attributes"), VALUES)
def test_attributes_are_decoded(argument: bytes, attributes: dict[bytes, bytes | None]) -> None:
    assert parse(argument, ATTRIBUTES, canonical_address) == attributes


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize(("argument", "reply"), FAULTS)
def test_a_command_with_a_fault_gets_501_and_has_no_effect(argument: bytes, reply: bytes, size: int) -> None:
    with pytest.raises(Malformed) as raised:
        parse(argument, ATTRIBUTES, canonical_address)
    assert raised.value.reply == reply
    session, echo = converse(b"XCLIENT " + argument + b"\r\nNOOP\r\n", size, xclient=ATTRIBUTES, relayclient=b"")
    assert echo.replies[1:] == [reply, replies.OK]
    assert not echo.clients
    assert session.settings.relayclient == b""


@given(st.binary(max_size=40))
@hypothesis_settings(max_examples=times(300), deadline=None)
def test_every_text_survives_xtext(text: bytes) -> None:
    encoded = b"".join(
        bytes((byte,)) if 0x21 <= byte <= 0x7E and byte not in b"+=" else b"+%02X" % byte for byte in text
    )
    assert decode(encoded) == text


@given(st.binary(max_size=80))
@hypothesis_settings(max_examples=times(500), deadline=None)
def test_any_argument_gives_clean_values_or_501(argument: bytes) -> None:
    _, echo = converse(b"XCLIENT " + argument.translate(None, b"\0\n") + b"\r\n", xclient=ATTRIBUTES)
    assert echo.replies[1][:4] == (b"220 " if echo.clients else b"501 ")
    for value in [value for attributes in echo.clients for value in attributes.values() if value is not None]:
        assert value
        assert not set(value) & set(b"\0\r\n\t")


@pytest.mark.parametrize("command", [b"XCLIENT", b"XCLIENT ADDR=192.0.2.7", b"xclient LOGIN=joe", b"XCLIENT FOO=1"])
def test_who_is_not_listed_gets_502(command: bytes) -> None:
    for data in (command + b"\r\n", b"MAIL FROM:<a@b.test>\r\n" + command + b"\r\n"):
        _, echo = converse(data)
        assert echo.replies[-1] == replies.UNIMPLEMENTED
        assert not echo.clients


def test_ehlo_offers_it_to_listed_hosts_alone() -> None:
    assert not [line for line in converse(b"EHLO x\r\n")[1].replies if b"XCLIENT" in line]
    _, echo = converse(b"EHLO x\r\n", xclient=ATTRIBUTES, databytes=9)
    assert echo.replies[-2:] == [b"250-SIZE 9", b"250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"]
    assert converse(b"EHLO x\r\n", xclient=WITHOUT_LOGIN)[1].replies[-1] == (
        b"250 XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT"
    )


@pytest.mark.parametrize("before", [b"", b"EHLO x\r\n", b"EHLO x\r\n" + LOG_IN, b"MAIL FROM:<>\r\nRSET\r\n"])
def test_it_begins_again_with_the_greeting(before: bytes) -> None:
    session, echo = converse(
        before + ADDR + b"RCPT TO:<u@ok.test>\r\n", xclient=ATTRIBUTES, auth=AUTH, relayclient=b"@r"
    )
    assert echo.replies[-2:] == [b"220 mx ESMTP", replies.MAIL_FIRST]
    assert (session.user, session.senders, session.helo, session.settings.relayclient) == (None, None, None, None)
    assert session.settings.remoteip == b"192.0.2.7"
    assert (b"xclient", {b"proxy": b"unknown"}) in echo.decisions


def test_in_a_mail_transaction_it_gets_503() -> None:
    _, echo = converse(b"MAIL FROM:<a@b.test>\r\n" + ADDR + b"RCPT TO:<u@ok.test>\r\n", xclient=ATTRIBUTES)
    assert echo.replies[1:] == [replies.OK, replies.XCLIENT_IN_MAIL, replies.OK]
    assert not echo.clients


@pytest.mark.parametrize("size", [0, 1, 7])
def test_commands_may_be_pipelined_behind_it(size: int) -> None:
    data = (
        ADDR
        + b"EHLO c\r\nMAIL FROM:<s@s.test>\r\nRCPT TO:<u@ok.test>\r\nRCPT TO:<u@outside.test>\r\nDATA\r\nhello\r\n.\r\n"
    )
    _, echo = converse(data, size, xclient=ATTRIBUTES, relayclient=b"")
    assert [line[:3] for line in echo.replies if line[3:4] == b" "] == b"220 220 250 250 250 553 354 250".split()
    [(message, envelope)] = echo.queued
    assert message.startswith(b"Received: from unknown (HELO c) (192.0.2.7)\n")
    assert envelope == b"Fs@s.test\0Tu@ok.test\0\0"


def test_after_addr_a_proxys_client_cannot_give_it_again() -> None:
    """nginx connects its client with the server after XCLIENT: all that follows is the client's."""
    echo = Echo()
    echo.relaying_clients[b"127.0.0.1"] = b""
    again = b"XCLIENT ADDR=127.0.0.1 LOGIN=root\r\n"
    later = b"RSET\r\nEHLO x\r\n" + again + b"STARTTLS\r\n" + again
    _, echo = converse(ADDR + again + later, 0, echo, xclient=ATTRIBUTES, starttls=True)
    assert echo.handshakes == 1
    _, echo = converse(ADDR + again + later + again + TO_OUTSIDE, 0, echo, xclient=ATTRIBUTES)
    assert echo.clients == [{b"ADDR": b"192.0.2.7"}] * 2
    assert echo.replies[-1] == replies.RCPTHOSTS
    assert not [line for line in echo.replies if b"XCLIENT NAME" in line]


def test_attributes_of_several_commands_add_up_but_not_login() -> None:
    data = b"XCLIENT HELO=h PROTO=SMTP LOGIN=joe\r\nXCLIENT PORT=9\r\n" + ADDR
    session, echo = converse(data, xclient=ATTRIBUTES)
    assert echo.clients[-1].items() >= {b"HELO": b"h", b"PORT": b"9", b"ADDR": b"192.0.2.7"}.items()
    assert (session.helo, session.user, session.settings.relayclient) == (b"h", None, None)


def test_the_name_of_helo_is_used_until_the_client_gives_its_own() -> None:
    session, _ = converse(b"EHLO proxy\r\nXCLIENT ADDR=192.0.2.7 NAME=c.test HELO=client\r\n", xclient=ATTRIBUTES)
    assert session.helo == b"client"
    session, _ = converse(b"XCLIENT NAME=c.test HELO=C.test\r\n", xclient=ATTRIBUTES)
    assert session.helo is None  # as after HELO C.test
    session, _ = converse(b"XCLIENT HELO=client\r\nEHLO own\r\n", xclient=ATTRIBUTES)
    assert session.helo == b"own"


def test_login_logs_the_user_in_where_the_host_may_send_it() -> None:
    echo = Echo()
    echo.sender_lists[b"joe"] = frozenset({b"s@s.test"})
    data = b"XCLIENT ADDR=192.0.2.7 LOGIN=joe\r\nMAIL FROM:<other@s.test>\r\n" + TO_OUTSIDE + b"DATA\r\n.\r\n" + LOG_IN
    session, echo = converse(data, 0, echo, xclient=ATTRIBUTES, auth=Offer(AUTH.mechanisms, required=True))
    assert [line[:3] for line in echo.replies] == b"220 220 553 250 250 354 250 503".split()
    assert b"(joe@192.0.2.7)\n  by unknown with ESMTPA;" in echo.queued[0][0]
    assert (b"login", {b"result": b"yes", b"mechanism": b"XCLIENT", b"user": b"joe"}) in echo.decisions
    assert (session.user, echo.identity) == (b"joe", (b"", b"joe"))


def test_login_is_refused_where_the_host_may_not_send_it() -> None:
    session, echo = converse(b"XCLIENT ADDR=192.0.2.7 LOGIN=joe\r\n" + TO_OUTSIDE, xclient=WITHOUT_LOGIN)
    assert echo.replies[1:] == [replies.XCLIENT_ATTRIBUTE, replies.OK, replies.RCPTHOSTS]
    assert session.user is None


def test_starttls_keeps_the_client_but_neither_login_nor_helo() -> None:
    data = b"XCLIENT ADDR=192.0.2.7 LOGIN=joe HELO=h\r\nSTARTTLS\r\n"
    session, echo = converse(data, xclient=ATTRIBUTES, starttls=True, relayclient=b"")
    session.feed(b"XCLIENT ADDR=127.0.0.1\r\n" + TO_OUTSIDE)
    assert echo.replies == [replies.UNIMPLEMENTED, replies.OK, replies.RCPTHOSTS]
    assert (session.user, session.helo, session.settings.remoteip) == (None, None, b"192.0.2.7")
    assert echo.identity == (None, None)


def test_under_tls_it_works_as_without() -> None:
    session, echo = converse(b"STARTTLS\r\n", xclient=ATTRIBUTES, starttls=True)
    session.feed(ADDR + b"EHLO c\r\nMAIL FROM:<s@s.test>\r\nRCPT TO:<u@ok.test>\r\nDATA\r\n.\r\n")
    assert echo.replies[0] == b"220 mx ESMTP"
    assert b"(192.0.2.7)\n  by unknown with ESMTPS (TLS_AES_256_GCM_SHA384 encrypted);" in echo.queued[0][0]


def test_a_client_that_the_rules_deny_gets_554_and_the_session_ends() -> None:
    echo = Echo()
    echo.denied_clients = (b"192.0.2.7",)
    session, echo = converse(ADDR + TO_OUTSIDE, 0, echo, xclient=ATTRIBUTES, relayclient=b"")
    assert echo.replies[1:] == [replies.XCLIENT_DENIED]
    assert session.status == 1
    assert [event for event, _ in echo.decisions] == [b"xclient", b"refused", b"end"]
    assert echo.decisions[1][1] == {b"reason": b"rules"}


def test_rules_that_cannot_be_read_end_the_session() -> None:
    echo = Echo()
    echo.failure = Unreadable(replies.CONTROLS_UNREADABLE, b"unable to read $XCLIENTRULES: no such file")
    session, echo = converse(ADDR + TO_OUTSIDE, 0, echo, xclient=ATTRIBUTES, relayclient=b"")
    assert echo.replies[1:] == [replies.CONTROLS_UNREADABLE]
    assert session.status == 1


# No sequence of commands gives rights to a client that is not listed, or that a proxy has named.

WORDS = st.sampled_from(
    [
        b"XCLIENT",
        b"xclient ADDR=127.0.0.1",
        b"XCLIENT NAME=localhost ADDR=127.0.0.1 LOGIN=joe",
        b"XCLIENT LOGIN=joe",
        b"XCLIENT ADDR=[UNAVAILABLE]",
        b"XCLIENT HELO=x",
        b"XCLIENT FOO=1",
        b"EHLO x",
        b"HELO x",
        b"RSET",
        b"STARTTLS",
        b"NOOP",
        b"MAIL FROM:<s@s.test>",
        b"RCPT TO:<u@ok.test>",
        b"RCPT TO:<u@outside.test>",
        b"AUTH PLAIN AGpvZQB3cm9uZw==",
        b"AUTH LOGIN",
        b"*",
        b"DATA\r\nhello\r\n.",
    ]
)
SEQUENCES = st.lists(
    WORDS | st.binary(max_size=30).map(lambda text: b"XCLIENT " + text.replace(b"\n", b" ")), max_size=15
)


@pytest.mark.parametrize("start", [b"", ADDR], ids=["not listed", "named by a proxy"])
@given(commands=SEQUENCES, size=st.sampled_from([0, 1, 3]))
@hypothesis_settings(max_examples=times(300), deadline=None)
def test_no_sequence_of_commands_gives_rights(start: bytes, commands: list[bytes], size: int) -> None:
    echo = Echo()
    echo.relaying_clients = dict.fromkeys((b"127.0.0.1", None), b"")
    listed = {"xclient": ATTRIBUTES} if start else {}
    data = b"".join(command + b"\r\n" for command in [start.removesuffix(b"\r\n"), *commands])
    session, echo = converse(data, size, echo, starttls=True, auth=AUTH, maxauth=0, maxerrors=0, **listed)
    assert len(echo.clients) == bool(start)
    assert (session.settings.relayclient, session.user) == (None, None)
    assert session.settings.remoteip == (b"192.0.2.7" if start else b"unknown")
    assert not [facts for event, facts in echo.decisions if event == b"accepted" and b"outside" in facts[b"recipient"]]
    assert not [envelope for _, envelope in echo.queued if b"outside" in envelope]
