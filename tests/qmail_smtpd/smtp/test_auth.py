"""AUTH in a session: each mechanism's exchange, whole, in pieces and followed by garbage; the effects of a login."""

import pytest

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.offer import (
    NOTHING,
    Offer,
    ineffective_for_server,
    ineffective_words,
    parse_for_server,
    parse_smtpauth,
)
from qmail_smtpd.smtp.session import Session
from qmail_smtpd.smtp.settings import Unreadable
from tests.kit.echo import Echo, converse
from tests.kit.login import b64

ALL = Offer((b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"))


def replies_to(text: str, size: int = 0, **changes: object) -> tuple[list[str], Session, Echo]:
    """Feed the text to a session in pieces of `size` bytes; return the replies without the greeting."""
    session, echo = converse(text.encode("latin-1"), size, **{"auth": ALL, **changes})
    return [line.decode("latin-1") for line in echo.replies[1:]], session, echo


PLAIN = f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0) + 'secret')}\r\n"
WRONG = f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0) + 'wrong')}\r\n"
LOGIN_WRONG = f"AUTH LOGIN {b64('joe')}\r\n{b64('wrong')}\r\n"
OK, FAILED, BAD, CANCELLED = (
    reply.decode() for reply in (replies.AUTH_OK, replies.AUTH_FAILED, replies.AUTH_MALFORMED, replies.AUTH_CANCELLED)
)
USERNAME, PASSWORD = f"334 {b64('Username:')}", f"334 {b64('Password:')}"
CHALLENGE = f"334 {b64('<1.2@mx>')}"

EXCHANGES = [
    (PLAIN, [OK]),
    (PLAIN.lower().replace(b64("\0joe\0secret").lower(), b64("\0joe\0secret")), [OK]),
    (PLAIN.replace(" ", "   "), [OK]),
    (f"AUTH PLAIN\r\n{b64(chr(0) + 'joe' + chr(0) + 'secret')}\r\n", ["334 ", OK]),
    (f"AUTH PLAIN {b64('joe' + chr(0) + 'joe' + chr(0) + 'secret')}\r\n", [OK]),
    (f"AUTH PLAIN {b64('other_user' + chr(0) + 'joe' + chr(0) + 'secret')}\r\n", [FAILED]),
    (WRONG, [FAILED]),
    ("AUTH PLAIN =\r\n", [BAD]),
    ("AUTH PLAIN *\r\n", [BAD]),
    ("AUTH PLAIN\r\n=\r\n", ["334 ", BAD]),
    ("AUTH PLAIN\r\n\r\n", ["334 ", BAD]),
    ("AUTH PLAIN\r\n*\r\n", ["334 ", CANCELLED]),
    ("AUTH PLAIN !!!!\r\n", [BAD]),
    (f"AUTH PLAIN {b64('joe')}\r\n", [BAD]),
    (f"AUTH PLAIN {b64(chr(0) + 'joe')}\r\n", [BAD]),
    (f"AUTH PLAIN {b64(chr(0) * 2 + 'secret')}\r\n", [BAD]),
    (f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0))}\r\n", [BAD]),
    (f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0) + 'secret' + chr(0))}\r\n", [BAD]),
    (f"AUTH PLAIN {b64(chr(0) + 'joe' + chr(0) + 'secret')} x\r\n", [BAD]),
    (f"AUTH LOGIN\r\n{b64('joe')}\r\n{b64('secret')}\r\n", [USERNAME, PASSWORD, OK]),
    (f"AUTH LOGIN {b64('joe')}\r\n{b64('secret')}\r\n", [PASSWORD, OK]),
    (LOGIN_WRONG, [PASSWORD, FAILED]),
    ("AUTH LOGIN\r\n*\r\n", [USERNAME, CANCELLED]),
    (f"AUTH LOGIN\r\n{b64('joe')}\r\n*\r\n", [USERNAME, PASSWORD, CANCELLED]),
    ("AUTH LOGIN =\r\n", [BAD]),
    ("AUTH LOGIN\r\n\r\n", [USERNAME, BAD]),
    (f"AUTH LOGIN {b64('joe')}\r\n\r\n", [PASSWORD, BAD]),
    (f"AUTH LOGIN {b64('joe' + chr(0) + 'x')}\r\n", [BAD]),
    (f"AUTH LOGIN {b64('joe')}\r\n{b64('secret' + chr(0))}\r\n", [PASSWORD, BAD]),
    (f"AUTH LOGIN {b64('joe')}\r\n{b64('secret')}\0\r\n", [PASSWORD, BAD]),
    (f"AUTH LOGIN\r\n{b64('u' * 6000)}\r\n{b64('secret')}\r\n", [USERNAME, PASSWORD, OK]),
    (f"AUTH LOGIN\r\n{b64('u' * 6003)}\r\n", [USERNAME, BAD]),
    (f"AUTH LOGIN\r\n{b64('u' * 60000)}\r\n", [USERNAME, BAD]),
    (f"AUTH PLAIN {b64(chr(0) + 'u' * 60000 + chr(0) + 'secret')}\r\n", [BAD]),
    (f"AUTH CRAM-MD5\r\n{b64('joe secret')}\r\n", [CHALLENGE, OK]),
    (f"AUTH CRAM-MD5 {b64('x')}\r\n{b64('joe smith secret')}\r\n", [CHALLENGE, OK]),
    (f"AUTH CRAM-MD5\r\n{b64('joe wrong')}\r\n", [CHALLENGE, FAILED]),
    (f"AUTH CRAM-MD5\r\n{b64('joe')}\r\n", [CHALLENGE, BAD]),
    (f"AUTH CRAM-MD5\r\n{b64('joe ')}\r\n", [CHALLENGE, BAD]),
    (f"AUTH CRAM-MD5\r\n{b64(' secret')}\r\n", [CHALLENGE, BAD]),
    (f"AUTH CRAM-MD5\r\n{b64('joe' + chr(0) + ' secret')}\r\n", [CHALLENGE, BAD]),
    ("AUTH CRAM-MD5\r\n*\r\n", [CHALLENGE, CANCELLED]),
    (
        f"AUTH SCRAM-SHA-256 {b64('first')}\r\n{b64('proof')}\r\n\r\n",
        [f"334 {b64('heard first')}", f"334 {b64('heard proof')}", OK],
    ),
    (
        f"AUTH SCRAM-SHA-256\r\n{b64('first')}\r\n{b64('proof')}\r\n\r\n",
        ["334 ", f"334 {b64('heard first')}", f"334 {b64('heard proof')}", OK],
    ),
    (f"AUTH SCRAM-SHA-256 {b64('junk')}\r\n", [BAD]),
    (f"AUTH SCRAM-SHA-256 {b64('first')}\r\n{b64('wrong')}\r\n", [f"334 {b64('heard first')}", FAILED]),
    (f"AUTH SCRAM-SHA-256 {b64('proof')}\r\n{b64('more')}\r\n", [f"334 {b64('heard proof')}", BAD]),
    (f"AUTH SCRAM-SHA-256 {b64('proof')}\r\n*\r\n", [f"334 {b64('heard proof')}", CANCELLED]),
    ("AUTH\r\n", ["504 auth type unimplemented (#5.5.1)"]),
    ("AUTH DIGEST-MD5\r\n", ["504 auth type unimplemented (#5.5.1)"]),
    (f"AUTH=PLAIN {b64('x')}\r\n", ["502 unimplemented (#5.5.1)"]),
    (PLAIN + PLAIN, [OK, "503 you're already authenticated (#5.5.0)"]),
    (WRONG + PLAIN, [FAILED, OK]),
    ("MAIL FROM:<>\r\n" + PLAIN, ["250 ok", "503 no auth during mail transaction (#5.5.0)"]),
    ("MAIL FROM:<>\r\nAUTH X\r\n", ["250 ok", "503 no auth during mail transaction (#5.5.0)"]),
    (PLAIN + "MAIL FROM:<>\r\nAUTH X\r\n", [OK, "250 ok", "503 you're already authenticated (#5.5.0)"]),
    ("MAIL FROM:<>\r\nRSET\r\n" + PLAIN, ["250 ok", "250 flushed", OK]),
]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(("text", "wanted"), EXCHANGES)
def test_an_exchange_has_these_replies(text: str, wanted: list[str], size: int) -> None:
    assert replies_to(text, size)[0] == wanted


@pytest.mark.parametrize(("text", "wanted"), EXCHANGES)
def test_the_line_after_an_exchange_is_a_command(text: str, wanted: list[str]) -> None:
    assert replies_to(text + "NOOP\r\n\x00\xff\r\nQUIT\r\njunk")[0] == [
        *wanted,
        "250 ok",
        "502 unimplemented (#5.5.1)",
        "221 mx",
    ]


@pytest.mark.parametrize("end", range(1, len(LOGIN_WRONG)))
def test_a_client_that_disconnects_during_an_exchange_is_not_logged_in(end: int) -> None:
    session = replies_to(LOGIN_WRONG[:end])[1]
    session.finish(1, b"", b"gone")
    assert session.user is None
    assert session.settings.relayclient is None


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_a_mechanism_that_is_not_offered_is_refused(mechanism: str) -> None:
    others = Offer(tuple(name for name in ALL.mechanisms if name != mechanism.encode()))
    assert replies_to(f"AUTH {mechanism}\r\n", auth=others)[0] == ["504 auth type unimplemented (#5.5.1)"]
    assert replies_to(f"AUTH {mechanism}\r\n", auth=ALL)[0][0].startswith("334 ")


def test_auth_without_a_mechanism_is_unavailable_and_unconfigured_auth_unimplemented() -> None:
    assert replies_to(PLAIN, auth=NOTHING)[0] == ["503 auth not available (#5.3.3)"]
    assert replies_to(PLAIN, auth=None)[0] == ["502 unimplemented (#5.5.1)"]


TABLE = [
    (None, [], False),
    ("-", [], False),
    ("", [b"AUTH LOGIN PLAIN"], False),
    ("yes", [b"AUTH LOGIN PLAIN"], False),
    ("0", [b"AUTH LOGIN PLAIN"], False),
    ("!", [b"AUTH LOGIN PLAIN"], True),
    ("cram", [b"AUTH CRAM-MD5"], False),
    ("CRAM-only", [b"AUTH CRAM-MD5"], False),
    ("+cram", [b"AUTH LOGIN PLAIN CRAM-MD5"], False),
    ("!cram", [b"AUTH CRAM-MD5"], True),
    ("!+CRAM", [b"AUTH LOGIN PLAIN CRAM-MD5"], True),
    ("+", [b"AUTH LOGIN PLAIN"], False),
]


LISTS = [  # $SMTPAUTH -> the offer with a checker; with a users file; whether SCRAM is added if the file uses it
    ("PLAIN LOGIN", "PLAIN LOGIN", "PLAIN LOGIN", False),
    ("plain", "PLAIN", "PLAIN", False),
    ("LOGIN\tPLAIN  CRAM-MD5", "LOGIN PLAIN CRAM-MD5", "LOGIN PLAIN CRAM-MD5", False),
    ("CRAM-MD5 PLAIN", "CRAM-MD5 PLAIN", "CRAM-MD5 PLAIN", False),
    ("PLAIN PLAIN", "PLAIN", "PLAIN", False),
    ("SCRAM-SHA-256", "", "SCRAM-SHA-256", False),
    ("SCRAM-SHA-256 PLAIN", "PLAIN", "SCRAM-SHA-256 PLAIN", False),
    ("PLAIN -LOGIN", "PLAIN", "PLAIN", False),
    ("PLAIN -PLAIN", "", "", False),
    ("PLAIN XOAUTH2", "PLAIN", "PLAIN", False),
    ("-SCRAM-SHA-256", "LOGIN PLAIN", "LOGIN PLAIN", False),
    ("-scram-sha-256", "LOGIN PLAIN", "LOGIN PLAIN", False),
    ("-LOGIN", "PLAIN", "PLAIN", True),
    ("-LOGIN -PLAIN", "", "SCRAM-SHA-256", False),
    ("-LOGIN -PLAIN -SCRAM-SHA-256", "", "", False),
    ("+cram -SCRAM-SHA-256", "LOGIN PLAIN CRAM-MD5", "LOGIN PLAIN CRAM-MD5", False),
    ("+cram -PLAIN", "LOGIN CRAM-MD5", "LOGIN CRAM-MD5", True),
    ("+CRAM-MD5", "LOGIN PLAIN CRAM-MD5", "LOGIN PLAIN CRAM-MD5", True),
    ("CRAM-MD5 -SCRAM-SHA-256", "CRAM-MD5", "CRAM-MD5", False),
    ("CRAM-MD5 please", "CRAM-MD5", "CRAM-MD5", True),  # a word of the table
    ("CRAM-MD5 and PLAIN", "CRAM-MD5", "CRAM-MD5", True),
    ("-SCRAM", "LOGIN PLAIN", "LOGIN PLAIN", True),
]


@pytest.mark.parametrize("bang", ["", "!"])
@pytest.mark.parametrize(("smtpauth", "checker", "file", "if_used"), LISTS)
def test_mechanisms_can_be_listed_and_removed(smtpauth: str, checker: str, file: str, if_used: bool, bang: str) -> None:
    for old in (False, True):
        offered = parse_smtpauth((bang + smtpauth).encode(), old)
        assert b" ".join(offered.mechanisms).decode() == checker
        assert (offered.required, offered.old_style, offered.scram_if_used) == (bool(bang), False, False)
    offered = parse_smtpauth((bang + smtpauth).encode(), False, users_file=True)
    assert b" ".join(offered.mechanisms).decode() == file
    assert (offered.required, offered.scram_if_used) == (bool(bang), if_used)


@pytest.mark.parametrize(("smtpauth", "lines", "required"), TABLE)
def test_with_a_users_file_scram_is_added_to_the_table_if_it_is_used(
    smtpauth: str | None, lines: list[bytes], required: bool
) -> None:
    offered = parse_smtpauth(None if smtpauth is None else smtpauth.encode(), False, users_file=True)
    assert offered.with_scram(False).lines() == lines
    assert offered.with_scram(offered.scram_if_used).lines() == [line + b" SCRAM-SHA-256" for line in lines]


@pytest.mark.parametrize(
    ("smtpauth", "checker", "file"),
    [
        ("PLAIN LOGIN", [], []),
        ("!PLAIN X-Y -Z", [b"X-Y", b"-Z"], [b"X-Y", b"-Z"]),
        ("PLAIN SCRAM-SHA-256", [b"SCRAM-SHA-256"], []),
        ("-SCRAM", [b"-SCRAM"], [b"-SCRAM"]),
        ("-SCRAM-SHA-256", [], []),
        *((text, [], []) for text, *_ in TABLE if text is not None),
    ],
)
def test_words_without_effect_are_found(smtpauth: str, checker: list[bytes], file: list[bytes]) -> None:
    assert ineffective_words(smtpauth.encode(), False) == checker
    assert ineffective_words(smtpauth.encode(), True) == file


def test_the_users_file_is_asked_once_in_a_session_and_only_if_a_login_is_possible() -> None:
    text = "EHLO x\r\nEHLO x\r\nAUTH SCRAM-SHA-256\r\n*\r\nQUIT\r\n"
    for used, offered in ((False, "250 AUTH LOGIN PLAIN"), (True, "250 AUTH LOGIN PLAIN SCRAM-SHA-256")):
        echo = Echo()
        echo.scram_users = used
        converse(text.encode(), 0, echo, auth=parse_smtpauth(b"", False, users_file=True))
        assert [line for line in echo.replies if b"AUTH" in line] == [offered.encode()] * 2
        assert [line[:3] for line in echo.replies[-3:-1]] == ([b"334", b"501"] if used else [b"504", b"502"])
        assert echo.questions == 1
    for changes in ({"auth_in_clear": False}, {"auth": parse_smtpauth(b"PLAIN", False, users_file=True)}):
        echo = Echo()
        converse(text.encode(), 0, echo, **{"auth": parse_smtpauth(b"", False, users_file=True), **changes})
        assert echo.questions == 0


@pytest.mark.parametrize(("smtpauth", "lines", "required"), TABLE)
def test_smtpauth_selects_the_mechanisms(smtpauth: str | None, lines: list[bytes], required: bool) -> None:
    for old in (False, True) if smtpauth is not None else (False,):
        offered = parse_smtpauth(None if smtpauth is None else smtpauth.encode(), old)
        assert (offered.lines(), offered.required) == (lines, required)


def test_the_old_patches_offer_three_mechanisms_in_two_lines_before_pipelining() -> None:
    wanted = ["250-mx", "250-AUTH LOGIN CRAM-MD5 PLAIN", "250-AUTH=LOGIN CRAM-MD5 PLAIN", "250-PIPELINING"]
    assert replies_to("EHLO x\r\n", auth=parse_smtpauth(None, True))[0] == [*wanted, "250 8BITMIME"]


def test_the_newer_patches_offer_auth_between_8bitmime_and_size() -> None:
    wanted = ["250-mx", "250-PIPELINING", "250-8BITMIME", "250-AUTH LOGIN PLAIN", "250 SIZE 40"]
    assert replies_to("EHLO x\r\n", auth=parse_smtpauth(b"", True), databytes=40)[0] == wanted


def test_required_auth_also_applies_to_relay_clients() -> None:
    required = Offer(ALL.mechanisms, required=True)
    mail = "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@ok.test>\r\n"
    refused = ["530 Authorization required (#5.7.1) ", "503 MAIL first (#5.5.1)"]
    for relayclient in (None, b""):
        lines, _, echo = replies_to(mail + PLAIN + mail, auth=required, relayclient=relayclient)
        assert lines == [*refused, OK, "250 ok", "250 ok"]
        assert (b"refused", {b"reason": b"unauthorized"}) in echo.decisions


def test_a_login_allows_relaying_and_adds_the_user_to_the_received_line() -> None:
    mail = "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@evil.test>\r\n"
    lines, session, echo = replies_to(mail + "RSET\r\n" + PLAIN + mail + "DATA\r\nhi\r\n.\r\n", relayclient=None)
    assert lines[1] == replies.RCPTHOSTS.decode()
    assert lines[3:] == [OK, "250 ok", "250 ok", "354 go ahead", "250 ok 1 qp 2"]
    assert echo.queued[0][0].startswith(b"Received: from unknown (joe@unknown)\n  by unknown with ESMTPA; ")
    assert echo.queued[0][1] == b"Fs@s.test\0Tu@evil.test\0\0"
    assert echo.identity == (b"", b"joe")
    assert session.user == b"joe"


def test_a_login_removes_the_suffix_of_relayclient() -> None:
    _, _, echo = replies_to(PLAIN + "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\nDATA\r\n.\r\n", relayclient=b"@relay")
    assert echo.queued[0][1] == b"F\0Tu@evil.test\0\0"


@pytest.mark.parametrize("command", ["RSET\r\n", "EHLO y\r\n", "HELO y\r\n"])
def test_rset_and_a_second_greeting_do_not_end_a_login(command: str) -> None:
    lines, session, _ = replies_to(PLAIN + command + PLAIN + "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\n")
    assert lines[-3:] == ["503 you're already authenticated (#5.5.0)", "250 ok", "250 ok"]
    assert session.user == b"joe"


def test_a_second_auth_after_rset_does_not_change_the_user() -> None:
    """In 0.8.3 a second AUTH with a wrong password changed the name in the Received line."""
    other_user = f"AUTH PLAIN {b64(chr(0) + 'other_user' + chr(0) + 'wrong')}\r\n"
    mail = "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\nDATA\r\n.\r\n"
    lines, _, echo = replies_to(PLAIN + "RSET\r\n" + other_user + mail)
    assert lines[2] == "503 you're already authenticated (#5.5.0)"
    assert b"(joe@" in echo.queued[0][0]
    assert echo.credentials == [(b"joe", b"secret", b"")]


def test_a_failed_login_changes_nothing() -> None:
    lines, session, echo = replies_to(WRONG + "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\n")
    assert lines == [FAILED, "250 ok", replies.RCPTHOSTS.decode()]
    assert (session.user, echo.identity, session.settings.remoteinfo) == (None, None, None)


def test_the_auth_parameter_of_mail_is_ignored() -> None:
    _, _, echo = replies_to("MAIL FROM:<s@s.test> AUTH=boss@ok.test\r\nRCPT TO:<u@ok.test>\r\nDATA\r\n.\r\n")
    assert b"boss" not in echo.queued[0][0]
    assert echo.identity is None


def test_the_next_auth_after_maxauth_failed_logins_ends_the_session() -> None:
    lines, session, echo = replies_to((WRONG + LOGIN_WRONG) * 5, maxauth=3)
    assert lines == [FAILED, PASSWORD, FAILED, FAILED, "421 too many failed logins (#4.7.0)"]
    assert session.status == 1
    assert echo.pauses == 3


def test_an_exchange_without_credentials_does_not_count_as_a_failed_login_and_is_not_delayed() -> None:
    harmless = "AUTH X\r\nAUTH PLAIN !\r\nAUTH LOGIN\r\n*\r\nMAIL FROM:<>\r\nAUTH PLAIN\r\nRSET\r\n"
    lines, session, echo = replies_to(harmless * 3 + PLAIN, maxauth=1)
    assert lines[-1] == OK
    assert (session.failed_logins, echo.pauses) == (0, 0)


@pytest.mark.parametrize(
    "exchange",
    [
        f"AUTH SCRAM-SHA-256 {b64('junk')}\r\n",
        f"AUTH SCRAM-SHA-256 {b64('first')}\r\n{b64('junk')}\r\n",
        f"AUTH SCRAM-SHA-256 {b64('first')}\r\n*\r\n",
        f"AUTH SCRAM-SHA-256 {b64('proof')}\r\n*\r\n",
        f"AUTH CRAM-MD5\r\n{b64('joe')}\r\n",
        "AUTH LOGIN\r\n*\r\n",
        "AUTH X\r\n",
    ],
)
def test_an_exchange_without_credentials_counts_as_a_failed_command(exchange: str) -> None:
    lines, session, _ = replies_to(exchange * 200)
    assert sum(line.startswith("50") for line in lines) == session.settings.maxerrors == 100
    assert lines[-1] == "421 too many errors (#4.7.0)"


def test_a_failed_login_also_counts_as_a_failed_command() -> None:
    lines, session, echo = replies_to(WRONG * 3, maxerrors=1)
    assert lines == [FAILED, "421 too many errors (#4.7.0)"]
    assert (session.status, session.user, echo.pauses) == (1, None, 2)


def test_maxauth_of_zero_is_no_limit() -> None:
    assert replies_to(WRONG * 20, maxauth=0)[0] == [FAILED] * 20


SENDERS = {b"joe": frozenset({b"joe@ok.test", b"@list.test"}), b"any": frozenset({b"*"}), b"none": frozenset[bytes]()}


@pytest.mark.parametrize(
    ("user", "sender", "accepted"),
    [
        ("joe", "joe@ok.test", True),
        ("joe", "JOE@ok.TEST", True),
        ("joe", "x@list.test", True),
        ("joe", "", True),
        ("joe", "boss@ok.test", False),
        ("joe", "x@sub.list.test", False),
        ("joe", "joe", False),
        ("joe", "list.test", False),  # an address without a domain matches no @domain
        ("joe", "joe@ok.test@evil.test", False),
        ("any", "x@y.test", True),
        ("none", "none@ok.test", False),
        ("none", "", True),
        ("unlisted", "unlisted@ok.test", True),  # the echo backend returns None, as without the file
    ],
)
def test_authsenders_restricts_the_senders_of_a_user(user: str, sender: str, accepted: bool) -> None:
    echo = Echo()
    echo.sender_lists = SENDERS
    text = f"AUTH PLAIN {b64(f'{chr(0)}{user}{chr(0)}secret')}\r\nMAIL FROM:<{sender}>\r\n"
    converse(text.encode(), 0, echo, auth=ALL)
    assert echo.replies[-1] == (replies.OK if accepted else b"553 sorry, that sender isn't yours (#5.7.1)")


@pytest.mark.parametrize(
    ("sender", "queued"),
    [
        ('"joe"@ok.test', b"joe@ok.test"),
        ("@evil.test:joe@ok.test", b"joe@ok.test"),
        ("x@evil.test@list.test", b"x@evil.test@list.test"),
        ('"@list.test"', b"@list.test"),
        ("x@[127.0.0.1]", b"x@mx"),  # a literal of this host is replaced by its name, as in every address
        ("@joe@ok.test", b""),  # a source route without its colon: nothing is left, as in the original
        ("@evil.test:boss@ok.test", None),
        ("joe@ok.test\\@evil.test", None),
        ('"boss@ok.test,joe"@ok.test', None),
        ("joe%ok.test@evil.test", None),
        ("joe@ok.test.", None),
        ("joe@ok.test ", None),
        ("*", None),
        ("x@[192.0.2.1]", None),
    ],
)
def test_authsenders_is_compared_with_the_sender_that_is_queued(sender: str, queued: bytes | None) -> None:
    echo = Echo()
    echo.sender_lists = {b"joe": frozenset({b"joe@ok.test", b"@list.test", b"@mx"})}
    text = f"{PLAIN}MAIL FROM:<{sender}>\r\nRCPT TO:<u@evil.test>\r\nDATA\r\n.\r\n"
    converse(text.encode(), 0, echo, auth=ALL)
    assert [envelope for _, envelope in echo.queued] == ([] if queued is None else [b"F%b\0Tu@evil.test\0\0" % queued])


def test_authsenders_does_not_apply_without_a_login() -> None:
    echo = Echo()
    echo.sender_lists = SENDERS
    converse(b"MAIL FROM:<anybody@y.test>\r\n", 0, echo, auth=ALL)
    assert echo.replies[-1] == replies.OK


def test_an_unreadable_authsenders_prevents_a_login() -> None:
    echo = Echo()
    echo.failure = Unreadable(replies.CONTROLS_UNREADABLE, b"unable to read control/authsenders: access denied")
    session, _ = converse(PLAIN.encode(), 0, echo, auth=ALL)
    assert echo.replies[-1] == replies.CONTROLS_UNREADABLE
    assert (session.status, session.user, session.settings.relayclient) == (1, None, None)


@pytest.mark.parametrize("text", [WRONG, LOGIN_WRONG, f"AUTH SCRAM-SHA-256 {b64('first')}\r\n{b64('wrong')}\r\n"])
def test_a_failed_login_is_logged_with_its_user_before_the_pause(text: str) -> None:
    """So fail2ban sees it at once, and also if the client disconnects during the pause."""
    _, _, echo = replies_to(text)
    [(event, facts)] = echo.decisions
    assert (event, facts[b"result"], facts[b"user"]) == (b"login", b"no", b"joe")
    assert echo.logged_before_pause == 1


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("AUTH xoauth2\r\n", b"XOAUTH2"),
        ("AUTH X-1_2\r\n", b"X-1_2"),
        ("AUTH\r\n", b""),
        (f"AUTH {b64(chr(0) + 'joe' + chr(0) + 'secret')}\r\n", b"?"),  # a client that omits the mechanism
        ("AUTH PLAIN:x\r\n", b"?"),
        ("AUTH " + "A" * 21 + "\r\n", b"?"),
    ],
)
def test_an_invalid_mechanism_name_is_not_logged_because_it_may_be_a_password(text: str, logged: bytes) -> None:
    lines, _, echo = replies_to(text)
    assert lines == ["504 auth type unimplemented (#5.5.1)"]
    assert [facts[b"mechanism"] for _, facts in echo.decisions] == [logged]


def test_logins_are_logged_with_user_mechanism_and_reason() -> None:
    _, _, echo = replies_to("EHLO here\r\n" + WRONG + "AUTH PLAIN !\r\n" + "AUTH LOGIN\r\n*\r\nAUTH X\r\n" + PLAIN)
    logins = [facts for event, facts in echo.decisions if event == b"login"]
    assert [(f[b"result"], f.get(b"reason"), f[b"mechanism"], f.get(b"user")) for f in logins] == [
        (b"no", b"password", b"PLAIN", b"joe"),
        (b"no", b"malformed", b"PLAIN", None),
        (b"no", b"cancelled", b"LOGIN", None),
        (b"no", b"mechanism", b"X", None),
        (b"yes", None, b"PLAIN", b"joe"),
    ]
    assert all(facts[b"helo"] == b"here" for facts in logins)
    assert not any(b"secret" in value or b"wrong" in value for facts in logins for value in facts.values())


# Exchanges that another server conducts.


OF_SERVER = (b"PLAIN", b"LOGIN", b"CRAM-MD5", b"SCRAM-SHA-256", b"XOAUTH2")


@pytest.mark.parametrize(
    ("smtpauth", "offered", "at_once", "required"),
    [
        ("", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2", "PLAIN LOGIN", False),
        ("!", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2", "PLAIN LOGIN", True),
        ("xoauth2 plain", "XOAUTH2 PLAIN", "XOAUTH2 PLAIN", False),
        ("-LOGIN -CRAM-MD5", "PLAIN SCRAM-SHA-256 XOAUTH2", "PLAIN", False),
        ("cram", "CRAM-MD5", "CRAM-MD5", False),
        ("+cram", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2", "PLAIN LOGIN", False),
        ("yes", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2", "PLAIN LOGIN", False),
        ("!GSSAPI", "", "GSSAPI", True),
        ("!-", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2", "PLAIN LOGIN", True),
    ],
)
def test_smtpauth_selects_from_the_servers_mechanisms(
    smtpauth: str, offered: str, at_once: str, required: bool
) -> None:
    offer = parse_for_server(smtpauth.encode())
    assert b" ".join(offer.mechanisms).decode() == at_once
    settled = offer.of_server(OF_SERVER)
    assert b" ".join(settled.mechanisms).decode() == offered
    assert offer.required is settled.required is required
    assert ineffective_for_server(smtpauth.encode()) == ([b"YES"] if smtpauth == "yes" else [])


def test_no_exchange_is_passed_on_if_smtpauth_says_so() -> None:
    assert parse_for_server(b"-") is NOTHING


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    ("text", "wanted", "passed_on"),
    [
        (f"AUTH XOAUTH2 {b64('secret')}\r\n", [OK], [b"secret"]),
        (
            f"AUTH plain\r\n{b64('more')}\r\n{b64('secret')}\r\n",
            [PASSWORD, f"334 {b64('more?')}", OK],
            [b"more", b"secret"],
        ),
        (f"AUTH PLAIN\r\n{b64('no')}\r\n", [PASSWORD, FAILED], [b"no"]),
        ("AUTH PLAIN =\r\n", [FAILED], [b""]),
        ("AUTH PLAIN\r\n*\r\n", [PASSWORD, CANCELLED], [None]),
        ("AUTH PLAIN\r\n!\r\n", [PASSWORD, BAD], [None]),
        ("AUTH PLAIN !\r\n", [BAD], []),
        ("AUTH LOGIN\r\n", ["504 auth type unimplemented (#5.5.1)"], []),
    ],
)
def test_an_exchange_is_passed_on_step_by_step(
    text: str, wanted: list[str], passed_on: list[bytes | None], size: int
) -> None:
    found, session, echo = replies_to(text, size, auth=parse_for_server(b""))
    assert found == wanted
    assert [message for _, message in echo.passed_on] == passed_on
    assert session.user == (b"joe" if found[-1] == OK else None)
    assert echo.pauses == found.count(FAILED)


def test_a_login_fails_for_now_if_the_server_cannot_be_asked() -> None:
    echo = Echo()
    echo.mechanisms = None
    session, _ = converse(f"EHLO x\r\n{PLAIN}AUTH XOAUTH2\r\n".encode(), 0, echo, auth=parse_for_server(b""))
    assert b"250 AUTH PLAIN LOGIN" in echo.replies
    assert echo.replies[-2:] == [replies.AUTH_NOT_CHECKED] * 2
    assert echo.decisions[-1][1][b"reason"] == b"socket:closed"
    assert session.failed_logins == echo.pauses == 2
    echo.mechanisms = (b"PLAIN",)
    session.feed(f"AUTH PLAIN {b64('secret')}\r\n".encode())
    assert session.user == b"joe"


def test_the_server_is_asked_once_and_not_if_no_login_is_possible() -> None:
    assert replies_to("EHLO x\r\nEHLO x\r\nAUTH X\r\n", auth=parse_for_server(b""))[2].questions == 1
    found, _, echo = replies_to(f"EHLO x\r\n{PLAIN}", auth=parse_for_server(b""), auth_in_clear=False)
    assert echo.questions == 0
    assert found[-1].startswith("538 ")


def test_another_authzid_is_a_failed_login_with_a_reason_of_its_own() -> None:
    _, session, echo = replies_to(f"AUTH PLAIN {b64('ann' + chr(0) + 'joe' + chr(0) + 'secret')}\r\n")
    assert session.failed_logins == echo.pauses == 1
    assert not echo.credentials
    facts = {b"result": b"no", b"reason": b"authzid", b"mechanism": b"PLAIN", b"user": b"joe"}
    assert echo.decisions[-1] == (b"login", facts)
