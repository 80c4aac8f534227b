"""Real clients against the whole chain: tcpserver, qmail-smtpd, maildir-queue. What they sent lies in the Maildir."""

import email.message
import email.policy
import os
import re
import smtplib
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.mailserver import Server
from tests.kit.support import peer, script

SENDER = "me@home.example"
INSIDE = "someone@example.com"
OUTSIDE = "someone@elsewhere.example"
REFUSED = (553, b"sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")
PRELOAD = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]


@pytest.fixture(params=[[], PRELOAD], ids=["exec", "preload"])
def server(request, tmp_path):
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, request.param) as server:
        yield server


# smtplib


def test_smtplib_relays_from_an_address_that_may(server):
    with server.smtp() as smtp:
        assert smtp.sendmail(SENDER, [INSIDE, OUTSIDE], "Subject: t\n\nhello\n") == {}
    (path,) = server.maildir.glob("new/*")
    envelope = f"Return-Path: <{SENDER}>\nDelivered-To: {INSIDE}\nDelivered-To: {OUTSIDE}\n"
    received = "Received: from unknown (HELO client.example) (127.0.0.1)\n  by localhost with SMTP; "
    assert path.read_text().startswith(envelope + received)
    assert server.bodies() == [b"Subject: t\n\nhello\n"]


def test_smtplib_from_elsewhere_reaches_the_listed_domain_alone(server):
    with server.smtp("127.0.0.2") as smtp:
        assert smtp.sendmail(SENDER, [INSIDE, OUTSIDE], "Subject: t\n\nhello\n") == {OUTSIDE: REFUSED}
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            smtp.sendmail(SENDER, OUTSIDE, "Subject: t\n\nhello\n")
    assert refused.value.recipients == {OUTSIDE: REFUSED}
    (path,) = server.maildir.glob("new/*")
    assert re.findall("^Delivered-To: (.*)$", path.read_text(), re.M) == [INSIDE]


def test_smtplib_from_a_denied_address_is_disconnected(server):
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
        server.smtp("127.0.0.3")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no header and no line end",
        b"\r\n",
        b".\r\n",
        b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n...\r\n",
        b"Subject: long\r\n\r\n" + b"x" * 100_000 + b"\r\n",
        b"Subject: 8 bit\r\n\r\n" + bytes(set(range(256)) - {10, 13}) + b"\r\n",
        b"Subject: many lines\r\n\r\n" + b"a line of text\r\n" * 100_000,
    ],
)
def test_smtplib_sends_any_text_and_it_is_stored_as_it_is(server, text):
    with server.smtp() as smtp:
        smtp.ehlo()
        assert smtp.mail(SENDER)[0] == smtp.rcpt(INSIDE)[0] == smtp.data(text)[0] == 250
    whole = text if text.endswith(b"\r\n") or not text else text + b"\r\n"
    # smtplib ends an empty text with a line end, too
    assert server.bodies() == [(whole or b"\r\n").replace(b"\r\n", b"\n")]


def test_smtplib_sends_a_message_with_an_attachment(server):
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = SENDER, INSIDE, "Grüße"
    message.set_content("Schöne Grüße\n.\nund Schluß\n")
    message.add_attachment(os.urandom(100_000), maintype="application", subtype="octet-stream", filename="noise")
    message.set_boundary("frontier")
    with server.smtp() as smtp:
        smtp.send_message(message)
    assert server.bodies() == [message.as_bytes().replace(b"\r\n", b"\n")]


def test_smtplib_tries_every_command_in_one_session(server):
    with server.smtp() as smtp:
        assert smtp.helo() == (250, b"mail.example.com")
        assert smtp.ehlo() == (250, b"mail.example.com\nPIPELINING\n8BITMIME")
        assert smtp.noop() == (250, b"ok")
        assert smtp.verify("someone")[0] == 252
        assert smtp.help().startswith(b"notqmail home page: ")
        assert smtp.docmd("TURN") == (502, b"unimplemented (#5.5.1)")
        assert smtp.rcpt(INSIDE) == (503, b"MAIL first (#5.5.1)")
        for number in range(3):
            smtp.mail(SENDER)
            assert smtp.rset() == (250, b"flushed")
            smtp.sendmail(SENDER, INSIDE, f"Subject: {number}\n\n")
        assert smtp.quit() == (221, b"mail.example.com")
    assert server.bodies() == [b"Subject: 0\n\n", b"Subject: 1\n\n", b"Subject: 2\n\n"]


def test_twenty_clients_at_once_lose_nothing(server):
    def send(client):
        with server.smtp() as smtp:
            for number in range(5):
                smtp.sendmail(SENDER, INSIDE, f"Subject: {client:02} {number}\n\nhello\n")

    with ThreadPoolExecutor(20) as clients:
        list(clients.map(send, range(20)))
    wanted = [f"Subject: {client:02} {number}\n\nhello\n".encode() for client in range(20) for number in range(5)]
    assert server.bodies() == sorted(wanted)


def test_a_client_that_vanishes_in_the_middle_of_a_message_leaves_none(server):
    with socket.create_connection(("127.0.0.1", server.port), 60) as client, client.makefile("rb") as replies:
        client.sendall(f"EHLO x\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{INSIDE}>\r\nDATA\r\nhello\r\n".encode())
        while not replies.readline().startswith(b"354"):
            pass
    with server.smtp() as smtp:  # the queue of the first has ended once a second message went all the way
        smtp.sendmail(SENDER, INSIDE, "Subject: whole\n\n")
    assert server.bodies() == [b"Subject: whole\n\n"]


# swaks, curl, Postfix's load generator


def swaks(server, *options):
    command = [peer("/usr/bin/swaks"), "--server", f"127.0.0.1:{server.port}", "--ehlo", "client.example"]
    return subprocess.run([*command, "--from", SENDER, *options], capture_output=True, text=True)


BODY = "Subject: t\n\nhello\n.\n..dots\n"
MODES = [[], ["--pipeline"], ["--protocol", "SMTP"]]


@pytest.mark.peer
@pytest.mark.parametrize("mode", MODES, ids=["esmtp", "pipelined", "smtp"])
def test_swaks_relays_from_an_address_that_may(server, mode):
    result = swaks(server, "--to", f"{INSIDE},{OUTSIDE}", "--data", BODY.replace("\n", "\\n"), *mode)
    assert result.returncode == 0, result.stdout
    assert re.search(r"^<-  250 ok \d+ qp \d+$", result.stdout, re.M)
    (path,) = server.maildir.glob("new/*")
    assert re.findall("^Delivered-To: (.*)$", path.read_text(), re.M) == [INSIDE, OUTSIDE]
    (body,) = server.bodies()
    assert body.decode().startswith(BODY)  # swaks ends it with an empty line


@pytest.mark.peer
@pytest.mark.parametrize("mode", MODES, ids=["esmtp", "pipelined", "smtp"])
def test_swaks_from_elsewhere_gets_the_reason_for_its_refusal(server, mode):
    result = swaks(server, "--to", OUTSIDE, "--local-interface", "127.0.0.2", *mode)
    assert result.returncode == 24  # swaks(1): no recipient was taken
    assert "<** 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)" in result.stdout
    assert server.bodies() == []


@pytest.mark.peer
def test_swaks_through_a_pipe(server, tmp_path):
    command = f"env QMAILHOME={server.home} QMAILQUEUE={script('maildir-queue')} QUEUE_MAILDIR={server.maildir}"
    command += f" TCPREMOTEIP=192.0.2.1 {script('qmail-smtpd')}"
    for recipient, code in ((INSIDE, 0), (OUTSIDE, 24)):
        options = ["--from", SENDER, "--to", recipient, "--ehlo", "client.example", "--body", "hello"]
        result = subprocess.run([peer("/usr/bin/swaks"), "--pipe", command, *options], capture_output=True, text=True)
        assert result.returncode == code, result.stdout
    assert len(server.bodies()) == 1


@pytest.mark.peer
def test_curl_sends_a_file(server, tmp_path):
    text = b"From: x\r\nSubject: t\r\n\r\n.\r\nhello\r\n"
    (tmp_path / "mail").write_bytes(text)
    command = [peer("/usr/bin/curl"), "-sS", f"smtp://127.0.0.1:{server.port}/client.example", "--mail-from", SENDER]
    subprocess.run([*command, "--mail-rcpt", INSIDE, "--upload-file", tmp_path / "mail"], check=True)
    assert server.bodies() == [text.replace(b"\r\n", b"\n")]


@pytest.mark.peer
def test_postfix_smtp_source_sends_a_hundred_messages_in_ten_sessions_at_once(server):
    command = [peer("/usr/sbin/smtp-source"), "-s", "10", "-m", "100", "-l", "4096", "-f", SENDER, "-t", INSIDE]
    subprocess.run([*command, f"127.0.0.1:{server.port}"], check=True)
    assert len(server.bodies()) == 100
    assert list(Path(server.maildir).glob("tmp/*")) == []


# a bare LF: docs/qmail-smtpd.md names the clients that send one

LF_TEXT = b"Subject: t\n\nhello\nworld\n"
BARE_LF = b"451 See https://cr.yp.to/docs/smtplf.html."


def test_smtplib_sends_the_line_ends_of_bytes_as_they_are(server):
    with server.smtp() as smtp:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            smtp.sendmail(SENDER, [INSIDE], LF_TEXT)
        assert (refused.value.smtp_code, refused.value.smtp_error) == (451, BARE_LF[4:])
    with server.smtp() as smtp:
        assert smtp.sendmail(SENDER, [INSIDE], LF_TEXT.decode()) == {}
        assert smtp.send_message(email.message_from_bytes(LF_TEXT), SENDER, [INSIDE]) == {}
    assert server.bodies() == [LF_TEXT] * 2


@pytest.mark.peer
def test_curl_sends_the_line_ends_of_a_file_as_they_are_without_crlf(server, tmp_path):
    (tmp_path / "text").write_bytes(LF_TEXT)
    url = f"smtp://127.0.0.1:{server.port}/client.example"
    command = [peer("/usr/bin/curl"), "-sv", url, "--mail-from", SENDER, "--mail-rcpt", INSIDE, "-T", tmp_path / "text"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode
    assert b"< " + BARE_LF in done.stderr
    assert server.bodies() == []
    subprocess.run([*command, "--crlf"], capture_output=True, check=True)
    assert server.bodies() == [LF_TEXT]
