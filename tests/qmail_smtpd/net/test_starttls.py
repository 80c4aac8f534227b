"""STARTTLS and its effects: in the conversation alone, and in whole sessions on pipes."""

import re
from base64 import b64encode
from pathlib import Path

import pytest

from qmail_smtpd.smtp.offer import Offer
from qmail_smtpd.smtp.received import protocol
from qmail_smtpd.smtp.session import Session
from tests.kit.echo import Echo, converse
from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, talk
from tests.kit.tlspeer import Client, Smtp, certify, get_all, trusting

CIPHER = b"TLS_AES_256_GCM_SHA384"
PLAIN = "AUTH PLAIN " + b64encode(b"\0joe\0secret").decode()
WRONG = "AUTH PLAIN " + b64encode(b"\0joe\0wrong").decode()
OFFER = Offer((b"LOGIN", b"PLAIN"))


# The conversation alone.


def replies_under_tls(text: str, **changes: object) -> tuple[list[bytes], Session, Echo]:
    """Feed the lines one at a time to a session with a certificate, and return the replies under TLS."""
    session, echo = converse(b"", 0, **{"starttls": True, **changes})
    for line in text.splitlines():
        session.feed(line.encode() + b"\r\n")
    return echo.replies, session, echo


def ehlo_lines(**changes: object) -> list[bytes]:
    return converse(b"EHLO me\r\n", 0, **changes)[1].replies[1:]


def test_starttls_is_offered_before_all_other_keywords() -> None:
    plain = [b"250-mx", b"250-PIPELINING", b"250 8BITMIME"]
    assert ehlo_lines() == plain
    assert ehlo_lines(starttls=True) == [b"250-mx", b"250-STARTTLS", *plain[1:]]
    old = ehlo_lines(starttls=True, auth=Offer((b"LOGIN",), old_style=True), databytes=9)
    assert b" ".join(line[4:] for line in old) == b"mx STARTTLS AUTH LOGIN AUTH=LOGIN PIPELINING 8BITMIME SIZE 9"


def test_starttls_is_not_offered_under_tls() -> None:
    assert replies_under_tls("STARTTLS\nEHLO me")[0] == [b"250-mx", b"250-PIPELINING", b"250 8BITMIME"]


@pytest.mark.parametrize(
    ("line", "changes", "reply"),
    [
        ("STARTTLS", {"starttls": False}, b"502 unimplemented (#5.5.1)"),
        ("STARTTLS x", {"starttls": False}, b"502 unimplemented (#5.5.1)"),
        ("STARTTLS now", {}, b"501 Syntax error (no parameters allowed) (#5.5.4)"),
        ("starttls   x", {}, b"501 Syntax error (no parameters allowed) (#5.5.4)"),
    ],
)
def test_a_session_continues_if_starttls_is_refused(line: str, changes: dict[str, object], reply: bytes) -> None:
    replies, session, echo = replies_under_tls(f"MAIL <a@b>\n{line}\nRCPT <u@ok.test>", **changes)
    assert replies[1:] == [b"250 ok", reply, b"250 ok"]
    assert session.cipher is None
    assert not echo.handshakes


def test_an_unusable_certificate_is_a_454_each_time() -> None:
    echo = Echo()
    echo.certificate = False
    replies = converse(b"MAIL <a@b>\r\nSTARTTLS\r\nSTARTTLS\r\nRCPT <u@ok.test>\r\n", 0, echo, starttls=True)[1].replies
    assert replies[2:] == [b"454 TLS not available (#4.3.0)"] * 2 + [b"250 ok"]


def test_a_454_to_starttls_counts_for_maxerrors() -> None:
    echo = Echo()
    echo.certificate = False
    session, _ = converse(b"STARTTLS\r\n" * 5000, echo=echo, starttls=True)
    refusals = session.settings.maxerrors + 1
    assert echo.replies[1:] == [b"454 TLS not available (#4.3.0)"] * (refusals - 1) + [b"421 too many errors (#4.7.0)"]
    tls, errors, end = echo.decisions[:-2], echo.decisions[-2], echo.decisions[-1]
    assert tls == [(b"refused", {b"reason": b"tls"})] * refusals
    assert errors == (b"refused", {b"reason": b"errors"})
    assert (end[0], end[1][b"errors"]) == (b"end", b"%d" % refusals)


@pytest.mark.parametrize("line", ["STARTTLS", "StartTLS", "STARTTLS   ", "starttls\0x"])
def test_starttls_is_accepted_once(line: str) -> None:
    replies, _, echo = replies_under_tls(f"{line}\nSTARTTLS\nSTARTTLS x\nNOOP")
    assert echo.before_tls == [b"220 mx ESMTP", b"220 ready for tls"]
    assert replies == [b"503 TLS is active already (#5.5.1)"] * 2 + [b"250 ok"]
    assert echo.handshakes == 1


INJECTED = [
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<a@b>\r\nRCPT TO:<u@ok.test>\r\nDATA\r\nSubject: injected\r\n\r\n.\r\n",
    b"EHLO evil\r\n",
    b"RSET\n",
    b"NOO",
    b"\r\n\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n",
    b"x" * 100_000,
]


@pytest.mark.parametrize("injected", INJECTED)
@pytest.mark.parametrize("before", [b"", b"EHLO me\r\nMAIL FROM:<a@b>\r\n"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_commands_pipelined_after_starttls_are_never_executed(before: bytes, injected: bytes, end: bytes) -> None:
    session, echo = converse(before + b"STARTTLS" + end + injected, 0, starttls=True, auth=OFFER)
    assert echo.replies == []
    assert session.status is None
    session.feed(b"P 250\r\nRCPT TO:<u@ok.test>\r\nNOOP\r\n")  # nor is its incomplete end put before the next line
    assert echo.replies == [b"502 unimplemented (#5.5.1)", b"503 MAIL first (#5.5.1)", b"250 ok"]
    assert not echo.queued
    assert not echo.credentials


def test_data_after_starttls_is_dropped_however_the_packets_are_split() -> None:
    before = b"EHLO me\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\n"
    for position in range(len(before)):
        session, echo = converse(b"", 0, starttls=True)
        session.feed(before[:position])
        session.feed(before[position:] + INJECTED[1])
        assert echo.replies == []
        session.feed(b"RCPT TO:<u@ok.test>\r\n")
        assert echo.replies == [b"503 MAIL first (#5.5.1)"]
        assert not echo.queued


def test_starttls_discards_helo_sender_recipients_and_size() -> None:
    text = "EHLO me\nMAIL <a@b> SIZE=1\nRCPT <u@ok.test>\nSTARTTLS\nDATA\nMAIL <a@b> SIZE=x\nRCPT <v@ok.test>\nDATA\n."
    replies, _, echo = replies_under_tls(text, databytes=100)
    assert replies == [b"503 MAIL first (#5.5.1)", b"250 ok", b"250 ok", b"354 go ahead", b"250 ok 1 qp 2"]
    received = b"Received: from unknown (unknown)\n  by unknown with ESMTPS (%s encrypted); " % CIPHER
    assert echo.queued[0][0].startswith(received)
    assert echo.queued[0][1] == b"Fa@b\0Tv@ok.test\0\0"


@pytest.mark.parametrize("relayclient", [None, b"", b"@suffix"])
@pytest.mark.parametrize("remoteinfo", [None, b"", b"ident"])
def test_starttls_discards_a_login(relayclient: bytes | None, remoteinfo: bytes | None) -> None:
    text = f"{PLAIN}\nSTARTTLS\nMAIL <a@b>\nRCPT <u@ok.test>\nRCPT <u@evil.test>\nDATA\n.\n{PLAIN}\n{PLAIN}"
    replies, session, echo = replies_under_tls(text, auth=OFFER, relayclient=relayclient, remoteinfo=remoteinfo)
    assert (session.settings.relayclient, session.settings.remoteinfo) == (b"", b"joe")
    assert [reply[:3] for reply in replies] == [
        *(b"250", b"250", b"250" if relayclient is not None else b"553", b"354", b"250", b"235", b"503")
    ]
    assert echo.identities == [(b"", b"joe"), (relayclient, remoteinfo), (b"", b"joe")]
    info = b"" if remoteinfo is None else remoteinfo + b"@"
    assert b" (" + info + b"unknown)\n  by unknown with ESMTPS (" in echo.queued[0][0]
    assert b"Tu@ok.test" + (relayclient or b"") + b"\0" in echo.queued[0][1]


def test_starttls_discards_the_users_senders() -> None:
    echo = Echo()
    echo.sender_lists[b"joe"] = frozenset({b"joe@ok.test"})
    session, _ = converse(f"{PLAIN}\r\nSTARTTLS\r\n".encode(), 0, echo, starttls=True, auth=OFFER)
    session.feed(b"MAIL <else@ok.test>\r\n")
    assert echo.replies == [b"250 ok"]


def test_starttls_keeps_the_numbers_of_failed_logins_and_errors() -> None:
    replies, session, _ = replies_under_tls(f"{WRONG}\n{WRONG}\nX\nSTARTTLS\n{WRONG}\nX\n{WRONG}", auth=OFFER)
    assert [reply[:3] for reply in replies] == [b"535", b"502", b"421"]
    assert session.counts[b"errors"] == 5


def test_starttls_inside_an_auth_exchange_is_a_response() -> None:
    replies, _, echo = replies_under_tls("AUTH LOGIN\nSTARTTLS\nSTARTTLS!", auth=OFFER)
    assert replies[1:] == [b"334 VXNlcm5hbWU6", b"334 UGFzc3dvcmQ6", b"501 malformed auth input (#5.5.4)"]
    assert not echo.handshakes


def test_auth_that_needs_tls_is_neither_offered_nor_accepted_in_clear() -> None:
    text = f"EHLO me\n{PLAIN}\nAUTH\nAUTH X\nSTARTTLS\nEHLO me\n{PLAIN}"
    replies, session, echo = replies_under_tls(text, auth=OFFER, auth_in_clear=False)
    assert not [line for line in echo.before_tls if b"AUTH" in line]
    assert echo.before_tls[5:8] == [b"538 auth not available without TLS (#5.3.3)"] * 3
    assert b"250 AUTH LOGIN PLAIN" in replies
    assert session.user == b"joe"
    assert (b"login", {b"helo": b"me", b"result": b"no", b"reason": b"clear"}) in echo.decisions


def test_no_mail_is_accepted_in_clear_if_a_required_login_needs_tls() -> None:
    replies, _, _ = replies_under_tls("MAIL <a@b>", auth=Offer((b"LOGIN",), required=True), auth_in_clear=False)
    assert replies[1:] == [b"530 Authorization required (#5.7.1) "]


def test_a_required_login_must_be_repeated_under_tls() -> None:
    """A login in clear, if it is allowed, does not count under TLS."""
    text = f"{PLAIN}\nMAIL <a@b>\nRSET\nSTARTTLS\nMAIL <a@b>\n{PLAIN}\nMAIL <a@b>"
    replies, _, echo = replies_under_tls(text, auth=Offer((b"PLAIN",), required=True))
    assert [reply[:3] for reply in echo.before_tls] == [b"220", b"235", b"250", b"250", b"220"]
    assert [reply[:3] for reply in replies] == [b"530", b"235", b"250"]


def test_the_received_line_names_protocol_and_cipher() -> None:
    assert protocol(None, None) == b"SMTP"
    assert protocol(None, b"joe") == b"ESMTPA"
    assert protocol(CIPHER, None) == b"ESMTPS (TLS_AES_256_GCM_SHA384 encrypted)"
    assert protocol(CIPHER, b"joe") == b"ESMTPSA (TLS_AES_256_GCM_SHA384 encrypted, authenticated)"


# Whole sessions.

ENVIRONMENT_QUEUE = """#!/bin/sh
printf '%s %s %s %s\\n' "$TLS_PROTOCOL" "$TLS_CIPHER" "${RELAYCLIENT-unset}" "${TCPREMOTEINFO-unset}" >>env
exec bin/plain-queue
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a qmail home with a certificate, a user, and a queue program that records its environment."""
    home = make_home(tmp_path / "home", {**CONTROL, "users": "joe:{PLAIN}secret\n"})
    certify(home / "control")
    (home / "control/users").chmod(0o600)
    (home / "bin/qmail-queue").rename(home / "bin/plain-queue")
    (home / "bin/qmail-queue").write_text(ENVIRONMENT_QUEUE)
    (home / "bin/qmail-queue").chmod(0o755)
    return home


def certificate(home: Path) -> Path:
    return home / "control/servercert.pem"


AUTH = {**CLIENT, "SMTPAUTHFILE": "control/users", "AUTHSLEEP": "0"}


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
def test_a_message_under_tls_is_queued(home: Path, piece: int) -> None:
    with Smtp(home) as smtp:
        smtp.reply()
        assert smtp.ask("EHLO me") == "250-mx.example.org\n250-STARTTLS\n250-PIPELINING\n250 8BITMIME"
        assert smtp.ask("STARTTLS") == "220 ready for tls"
        smtp.secure(certificate(home), piece)
        assert smtp.client
        assert smtp.ask("EHLO you") == "250-mx.example.org\n250-PIPELINING\n250 8BITMIME"
        smtp.client.send(MESSAGE.encode() + b"QUIT\r\n")
        assert smtp.client.receive_all().endswith(b"\r\n221 mx.example.org\r\n")
        result = smtp.end()
        assert (result.status, result.stderr) == (0, b"")
        version, cipher = smtp.client.tls.version(), smtp.client.tls.cipher()
    assert cipher
    received = "Received: from client.example.net (HELO you) (192.0.2.1)\n"
    received += f"  by mx.example.org with ESMTPS ({cipher[0]} encrypted); "
    assert result.queue[0][0].startswith(received.encode())
    assert result.queue[0][0].endswith(b"\nSubject: t\n\nhello\n")
    assert (home / "env").read_text() == f"{version} {cipher[0]} unset unset\n"


def test_a_login_under_tls_allows_relaying(home: Path) -> None:
    with Smtp(home, AUTH) as smtp:
        smtp.reply()
        assert "AUTH" not in smtp.ask("EHLO me")
        assert smtp.ask(PLAIN) == "538 auth not available without TLS (#5.3.3)"
        smtp.ask("STARTTLS")
        smtp.secure(certificate(home))
        assert smtp.client
        assert "250 AUTH LOGIN PLAIN SCRAM-SHA-256" in smtp.ask("EHLO me")
        assert smtp.ask(PLAIN) == "235 ok, go ahead (#2.0.0)"
        smtp.client.send(MESSAGE.replace("example.com", "anywhere.test").encode() + b"QUIT\r\n")
        smtp.client.receive_all()
        result = smtp.end()
    assert b" (joe@192.0.2.1)\n" in result.queue[0][0]
    assert b" with ESMTPSA (" in result.queue[0][0]
    assert b" encrypted, authenticated); " in result.queue[0][0]
    assert (home / "env").read_text().split()[2:] == ["joe"]  # RELAYCLIENT is the empty string


def test_a_login_in_clear_does_not_count_under_tls(home: Path) -> None:
    (home / "control/authcleartext").touch()
    environ = {**AUTH, "RELAYCLIENT": "@suffix", "TCPREMOTEINFO": "ident"}
    with Smtp(home, environ) as smtp:
        smtp.reply()
        assert smtp.ask(PLAIN).startswith("235")
        smtp.ask("STARTTLS")
        smtp.secure(certificate(home))
        assert smtp.client
        smtp.client.send(MESSAGE.encode() + b"QUIT\r\n")
        smtp.client.receive_all()
        result = smtp.end()
    assert b" (ident@192.0.2.1)\n  by mx.example.org with ESMTPS (" in result.queue[0][0]
    assert b"Tu@example.com@suffix\0" in result.queue[0][1]
    assert (home / "env").read_text().split()[2:] == ["@suffix", "ident"]


@pytest.mark.parametrize("injected", INJECTED[:4])
def test_data_in_the_packet_of_starttls_is_dropped(home: Path, injected: bytes) -> None:
    """CVE-2011-0411: a man in the middle appends data to the packet with STARTTLS."""
    with Smtp(home) as smtp:
        smtp.reply()
        smtp.put(b"STARTTLS\r\n" + injected)
        assert smtp.reply() == b"220 ready for tls\r\n"
        smtp.secure(certificate(home))
        assert smtp.ask("RCPT TO:<u@example.com>") == "503 MAIL first (#5.5.1)"
        assert smtp.ask("NOOP") == "250 ok"
        assert not smtp.end().queue


def test_a_client_hello_in_the_packet_of_starttls_is_dropped_too(home: Path) -> None:
    """An attacker may have sent it: an honest client waits for the 220."""
    with Smtp(home) as smtp:
        smtp.reply()
        hello = Client(smtp.ends, trusting(certificate(home))).hello()
        smtp.put(b"STARTTLS\r\n" + hello)
        assert smtp.reply() == b"220 ready for tls\r\n"
        smtp.secure(certificate(home))
        assert smtp.ask("NOOP") == "250 ok"
        assert smtp.end().stderr == b""


def test_data_injected_after_the_220_breaks_the_handshake(home: Path) -> None:
    with Smtp(home) as smtp:
        smtp.reply()
        assert smtp.ask("STARTTLS") == "220 ready for tls"
        smtp.put(b"MAIL FROM:<a@b>\r\n" + Client(smtp.ends, trusting(certificate(home))).hello())
        result = smtp.end()
    assert result.status == 1
    assert result.stdout[:1] in (b"", b"\x15")
    assert result.stderr.count(b"\n") == 1
    assert b" reason=tls:" in result.stderr
    assert not result.queue


# SMTPS: TLS from the first byte.

SMTPS = {**CLIENT, "SMTPS": "1"}


def test_smtps_starts_tls_with_the_first_byte(home: Path) -> None:
    with Smtp(home, SMTPS) as smtp:
        smtp.secure(certificate(home))
        assert smtp.client
        assert smtp.reply() == b"220 mx.example.org ESMTP\r\n"
        assert smtp.ask("EHLO me") == "250-mx.example.org\n250-PIPELINING\n250 8BITMIME"
        assert smtp.ask("STARTTLS") == "503 TLS is active already (#5.5.1)"
        smtp.client.send(MESSAGE.encode() + b"QUIT\r\n")
        assert smtp.client.receive_all().endswith(b"\r\n221 mx.example.org\r\n")
        result = smtp.end()
    assert (result.status, result.stderr) == (0, b"")
    assert b" with ESMTPS (" in result.queue[0][0]


def test_an_empty_smtps_variable_is_off(home: Path) -> None:
    assert talk(home, "QUIT\r\n", {**CLIENT, "SMTPS": ""}).codes == ["220", "221"]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"EHLO client.example\r\nQUIT\r\n", b"wrong_version_number"),
        (b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n", b"http_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"the_client_is_gone"),
        (b"", b"the_client_is_gone"),
    ],
    ids=["smtp", "http", "half a hello", "nothing"],
)
def test_data_that_is_not_tls_ends_the_session_with_one_log_line(home: Path, sent: bytes, why: bytes) -> None:
    with Smtp(home, SMTPS) as smtp:
        result = smtp.end(sent)
    assert result.status == 1
    assert result.stdout[:1] in (b"", b"\x15")
    assert result.stderr.startswith(b"qmail-smtpd: event=refused pid=")
    assert result.stderr.endswith(b" ip=192.0.2.1 reason=tls:" + why + b"\n")
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("control_file", "environ"), [("timeoutsmtpd", SMTPS), ("timeoutsession", SMTPS), ("timeoutsmtpd", CLIENT)]
)
def test_a_client_that_stops_in_the_handshake_is_disconnected(
    home: Path, control_file: str, environ: dict[str, str], share: float
) -> None:
    (home / "control" / control_file).write_text("1\n")
    with Smtp(home, environ) as smtp:
        if environ is CLIENT:
            smtp.reply()
            smtp.ask("STARTTLS")
        hello = Client(smtp.ends, trusting(certificate(home))).hello()
        smtp.put(hello[: int(len(hello) * share)])
        assert smtp.process.wait(20) == 1
        assert smtp.process.stderr
        assert smtp.process.stderr.read().endswith(b" reason=tls:timeout_in_the_handshake\n")


def test_the_timeout_reply_to_an_idle_client_is_under_tls(home: Path) -> None:
    (home / "control/timeoutsmtpd").write_text("1\n")
    with Smtp(home, SMTPS) as smtp:
        smtp.secure(certificate(home))
        assert smtp.client
        assert smtp.client.receive_all() == b"220 mx.example.org ESMTP\r\n451 timeout (#4.4.2)\r\n"
        assert smtp.process.wait(20) == 1


def test_the_reply_at_the_end_of_the_session_time_is_under_tls(home: Path) -> None:
    """An incomplete record does not extend the time."""
    (home / "control/timeoutsession").write_text("2\n")
    with Smtp(home, SMTPS) as smtp:
        smtp.secure(certificate(home))
        assert smtp.client
        smtp.put(smtp.client.encrypt(b"NOOP\r\n")[:-1])
        assert smtp.client.receive_all() == b"220 mx.example.org ESMTP\r\n421 timeout (#4.4.2)\r\n"
        assert smtp.process.wait(20) == 1


def test_a_bad_record_in_a_message_discards_it_with_one_log_line(home: Path) -> None:
    with Smtp(home, SMTPS) as smtp:
        smtp.secure(certificate(home))
        assert smtp.client
        for line in ("MAIL FROM:<a@b.test>", "RCPT TO:<u@example.com>", "DATA"):
            smtp.client.send(line.encode() + b"\r\n")
        smtp.client.receive_until(b"354 go ahead\r\n")
        smtp.client.send(b"Subject: t\r\n\r\nhello\r\n")
        record = smtp.client.encrypt(b".\r\n")
        smtp.put(record[:-1] + bytes((record[-1] ^ 1,)))
        assert smtp.process.wait(20) == 1
        get_all(smtp.ends[0])
        assert smtp.process.stderr
        log = smtp.process.stderr.read()
    assert log.count(b"\n") == 1
    assert b"event=aborted" in log
    assert b" reason=tls:" in log
    assert not [path for path in (home / "dump").glob("*.e") if path.read_bytes()]


# Unusable certificates: the reply and the log.


def replace_key(control: Path) -> None:
    certify(control, "other")
    (control / "otherkey.pem").replace(control / "serverkey.pem")


def truncate_certificate(control: Path) -> None:
    path = control / "servercert.pem"
    path.write_text(path.read_text()[:200])


FAULTS = {
    "mismatched": (
        replace_key,
        b"control/serverkey.pem does not hold the key of the first certificate in control/servercert.pem",
    ),
    "no key": (lambda control: (control / "serverkey.pem").unlink(), b"control/servercert.pem contains no private key"),
    "public key": (
        lambda control: (control / "serverkey.pem").chmod(0o604),
        b"control/serverkey.pem contains the private key and is world-readable or world-writable",
    ),
    "cut short": (truncate_certificate, b"control/servercert.pem is broken"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_unusable_certificate_is_a_454_and_one_warning(home: Path, name: str) -> None:
    damage, why = FAULTS[name]
    damage(home / "control")
    result = talk(home, "EHLO me\r\nSTARTTLS\r\nSTARTTLS\r\n" + MESSAGE + "QUIT\r\n")
    assert b"\r\n250-STARTTLS\r\n" in result.stdout
    assert result.codes[5:] == ["454", "454", "250", "250", "354", "250", "221"]
    assert b"\r\n454 TLS not available (#4.3.0)\r\n" in result.stdout
    warning, *refusals = result.stderr.splitlines()
    assert warning == b"qmail-smtpd: warning: no TLS: " + why
    assert [re.sub(rb"pid=\d+ ", b"", line) for line in refusals] == [
        b"qmail-smtpd: event=refused ip=192.0.2.1 helo=me reason=tls"
    ] * 2
    assert b" with SMTP; " in result.queue[0][0]


def test_the_certificate_is_checked_once_a_session(home: Path) -> None:
    """A client that sends STARTTLS a thousand times costs no more than one that sends NOOP."""
    key = home / "control/serverkey.pem"
    key.chmod(0o644)
    with Smtp(home) as smtp:
        smtp.reply()
        assert smtp.ask("STARTTLS") == "454 TLS not available (#4.3.0)"
        key.chmod(0o600)
        assert smtp.ask("STARTTLS") == "454 TLS not available (#4.3.0)"
        assert smtp.end().stderr.count(b"warning: no TLS: ") == 1
    with Smtp(home) as smtp:
        smtp.reply()
        assert smtp.ask("STARTTLS") == "220 ready for tls"


@pytest.mark.parametrize("name", FAULTS)
def test_with_smtps_an_unusable_certificate_is_one_log_line_and_no_output(home: Path, name: str) -> None:
    damage, why = FAULTS[name]
    damage(home / "control")
    result = talk(home, "", SMTPS)
    assert (result.stdout, result.status) == (b"", 1)
    assert result.stderr == b"qmail-smtpd: warning: no TLS: " + why + b"\n"


def test_with_smtps_no_other_error_is_reported_in_clear_either(home: Path) -> None:
    (home / "control/me").unlink()
    result = talk(home, "", SMTPS)
    assert (result.stdout, result.status) == (b"", 1)
    assert result.stderr == b"qmail-smtpd: warning: control/me is missing\n"


# AUTH without TLS.

OFFERED_WITHOUT_TLS = b"qmail-smtpd: warning: AUTH is offered without TLS: there is no control/servercert.pem\n"
NOT_OFFERED = b"qmail-smtpd: warning: AUTH is not offered: there is no control/servercert.pem\n"


@pytest.mark.parametrize("file", [False, True], ids=["checker", "SMTPAUTHFILE"])
@pytest.mark.parametrize(
    ("files", "offered", "warning"),
    [
        ("", True, OFFERED_WITHOUT_TLS),
        ("authtls", False, NOT_OFFERED),
        ("authcleartext", True, b""),
        ("authcleartext authtls", False, NOT_OFFERED),
        ("servercert.pem", False, b""),
        ("servercert.pem authtls", False, b""),
        ("servercert.pem authcleartext", True, b""),
        ("servercert.pem authcleartext authtls", False, b""),
    ],
)
def test_control_files_decide_about_auth_in_clear(
    tmp_path: Path, files: str, offered: bool, warning: bytes, file: bool
) -> None:
    """Even an unusable certificate counts: here it is an empty file, or a dangling link."""
    home = make_home(tmp_path / "home", {**CONTROL, **dict.fromkeys(files.split(), ""), "users": "joe:{PLAIN}secret\n"})
    (home / "control/users").chmod(0o600)
    if file and "servercert.pem" in files:
        (home / "control/servercert.pem").unlink()
        (home / "control/servercert.pem").symlink_to("/nowhere")
    if file and not files:
        offered, warning = False, NOT_OFFERED
    environ = AUTH if file else {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0"}
    result = talk(home, f"EHLO me\r\n{PLAIN}\r\nQUIT\r\n", environ, words=[] if file else ["/bin/false", "/bin/echo"])
    assert (b"AUTH LOGIN PLAIN" in result.stdout) == offered
    assert result.codes[-2] == ("538" if not offered else "235" if file else "535")
    lines = result.stderr.splitlines(keepends=True)
    assert b"".join(line for line in lines if b"warning" in line) == warning


def test_a_dangling_link_named_authtls_forbids_auth_in_clear(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "control/authtls").symlink_to("/nowhere")
    environ = {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0"}
    result = talk(home, f"EHLO me\r\n{PLAIN}\r\nQUIT\r\n", environ, words=["/bin/false", "/bin/echo"])
    assert b"AUTH" not in result.stdout
    assert result.codes[-2] == "538"


def test_with_smtps_auth_causes_no_warning(home: Path) -> None:
    with Smtp(home, {**AUTH, "SMTPS": "1"}) as smtp:
        smtp.secure(certificate(home))
        smtp.reply()
        assert "AUTH" in smtp.ask("EHLO me")
        assert smtp.end().stderr == b""
