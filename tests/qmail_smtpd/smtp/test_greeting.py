"""The limits in the reply to EHLO, and control/smtpgreetdelay: silence before the greeting."""

import socket
from pathlib import Path

import pytest

from qmail_smtpd.setup import LONGEST_GREET_DELAY
from tests.kit.echo import Echo, converse
from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, start, talk
from tests.kit.server import Server
from tests.kit.support import script
from tests.kit.tlspeer import Client, Smtp, certify, trusting

EARLY = b"554 SMTP protocol violation (#5.5.1)\r\n"


def home_with(tmp_path: Path, **control: object) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, **control})


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, b"250 8BITMIME"),
        ({"limits": True}, b"250 LIMITS RCPTMAX=10000"),
        ({"limits": True, "maxrcpt": 7}, b"250 LIMITS RCPTMAX=7"),
        ({"limits": True, "maxrcpt": 0}, b"250 8BITMIME"),
    ],
)
def test_ehlo_names_the_limit_of_recipients_where_it_is_wanted(changes: dict[str, object], last: bytes) -> None:
    assert converse(b"EHLO a\r\n", **changes)[1].replies[-1] == last


def test_limits_are_named_where_the_control_file_exists(tmp_path: Path) -> None:
    home = home_with(tmp_path, limits="", maxrcpt="50\n")
    assert b"\r\n250 LIMITS RCPTMAX=50\r\n" in talk(home, "EHLO me\r\nQUIT\r\n").stdout


# Clients that speak before the greeting.


@pytest.mark.parametrize("text", ["EHLO me\r\n", "Q", MESSAGE * 100])
def test_a_client_that_sends_before_the_greeting_is_refused(tmp_path: Path, text: str) -> None:
    result = talk(home_with(tmp_path, smtpgreetdelay="20\n"), text)
    assert (result.stdout, result.status, result.queue) == (EARLY, 1, [])
    assert b"event=refused" in result.stderr
    assert b"reason=early\n" in result.stderr


def test_a_client_that_is_gone_before_the_greeting_gets_no_reply(tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, smtpgreetdelay="20\n"), "")
    assert (result.stdout, result.status) == (b"", 1)


def test_a_silent_client_is_greeted_after_the_delay(tmp_path: Path) -> None:
    with Smtp(home_with(tmp_path, smtpgreetdelay="1\n")) as smtp:
        assert smtp.reply().startswith(b"220 ")
        assert smtp.ask("EHLO me").endswith("250 8BITMIME")
        assert smtp.end(b"QUIT\r\n").status == 0


@pytest.mark.parametrize(
    ("control", "environ"),
    [({}, {"RELAYCLIENT": ""}), ({"xclienthosts": "192.0.2.1\n"}, {}), ({"smtpgreetdelay": "0\n"}, {})],
)
def test_a_client_that_may_relay_and_a_listed_proxy_do_not_wait(
    tmp_path: Path, control: dict[str, object], environ: dict[str, str]
) -> None:
    home = home_with(tmp_path, **{"smtpgreetdelay": "200\n", **control})
    result = talk(home, "QUIT\r\n", {**CLIENT, "TCPREMOTEIP": "192.0.2.1", **environ})
    assert result.codes == ["220", "221"]


@pytest.mark.parametrize("early", [b"EHLO me\r\n", b""])
def test_the_delay_is_within_tls_if_that_begins_with_the_first_byte(tmp_path: Path, early: bytes) -> None:
    home = home_with(tmp_path, smtpgreetdelay="1\n")
    certificate, _ = certify(home / "control")
    with Smtp(home, {**CLIENT, "SMTPS": "1"}) as smtp:
        smtp.client = Client(smtp.ends, trusting(certificate)).handshake()
        smtp.client.send(early)
        assert smtp.reply().startswith(b"554 " if early else b"220 ")


def test_timeoutsession_ends_the_delay(tmp_path: Path) -> None:
    process = start(home_with(tmp_path, smtpgreetdelay="200\n", timeoutsession="1\n"))
    assert process.wait(20) == 1
    assert process.communicate()[0] == b""


def test_a_worker_refuses_an_early_client_and_greets_the_next(tmp_path: Path) -> None:
    home = home_with(tmp_path, smtpgreetdelay="1\n")
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ={"QMAILHOME": str(home)}) as server:
        for _ in range(2):
            assert server.ask(b"EHLO me\r\n" * 1000) == EARLY
            with server.connect() as client:
                assert client.recv(4) == b"220 "
                client.shutdown(socket.SHUT_WR)


def test_a_delay_that_no_client_waits_for_is_shortened(tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, smtpgreetdelay="600\n"), "QUIT\r\n")
    assert b"warning: control/smtpgreetdelay is too long: using %d\n" % LONGEST_GREET_DELAY in result.stderr


@pytest.mark.parametrize(
    ("blocks", "is_logged"),
    [
        ([b"HELO x\r\nMAIL FROM:<a@b>\r\n"], True),
        ([b"EHLO x\r\nMAIL FROM:<a@b>\r\n"], True),
        ([b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<u@ok.test>\r\n"], False),
        ([b"HELO x\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<u@ok.test>\r\n", b"DATA\r\n", b"a\r\nb\r\n.\r\n"], False),
        ([b"HELO x\r\n", b"MAIL FROM:<a@b>\r\nNOOP\r\nNO", b"OP\r\nNOOP\r\n"], True),
    ],
)  # fmt: skip
def test_pipelining_before_it_is_offered_is_logged_once(blocks: list[bytes], is_logged: bool) -> None:
    for delay in (0, 1):
        echo = Echo()
        session, _ = converse(b"", echo=echo, greet_delay=delay)
        for block in blocks:
            session.feed(block)
        events = [event for event, _ in echo.decisions]
        assert events.count(b"pipelined") == (is_logged and delay)
        assert not [line for line in echo.replies if line.startswith(b"5")]
