"""Real TLS clients that verify the certificate: smtplib, swaks, openssl, Postfix; and probes for weaknesses."""

import os
import re
import smtplib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.server import Server, until
from tests.kit.support import free_port, peer, script
from tests.kit.tlspeer import OPENSSL, certify, certify_by_authority, get, get_all, trusting

SENDER, INSIDE, OUTSIDE = "me@home.example", "someone@example.com", "someone@elsewhere.example"
PRELOAD = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
TEXT = "Subject: t\n\nhello\n"


class Mail:
    """Two servers for one qmail home: STARTTLS on `port`, SMTPS on `smtps_port`. The password of joe is `secret`."""

    def __init__(self, home: Path, options: list[str], program: str | None = None) -> None:
        (home / "control").mkdir(parents=True)
        (home / "control/me").write_text("mx.example.org\n")
        (home / "control/rcpthosts").write_text("example.com\n")
        (home / "control/users").write_text("joe:{PLAIN}secret\n")
        (home / "control/users").chmod(0o600)
        self.certificate, _ = certify(home / "control")
        self.maildir = home / "Maildir"
        programs = Path(script("tcpserver")).parent
        environ = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "QMAILHOME": str(home),
            "QMAILQUEUE": str(programs / "maildir-queue"),
            "QUEUE_MAILDIR": str(self.maildir),
            "SMTPAUTHFILE": "control/users",
            "AUTHSLEEP": "0",
        }
        words = ["-q", "-RHl", "mx.example.org", *options, "127.0.0.1", "0", "qmail-smtpd"]
        self.starttls = Server(words, program, environ)
        self.smtps = Server(words, program, {**environ, "SMTPS": "1"})
        self.port, self.smtps_port = self.starttls.port, self.smtps.port

    def stop(self) -> None:
        self.starttls.__exit__()
        self.smtps.__exit__()

    def messages(self) -> list[str]:
        return [path.read_text() for path in sorted(self.maildir.glob("new/*"))]

    def log(self) -> bytes:
        return self.starttls.log() + self.smtps.log()

    def run(self, *words: str, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
        """Run a client and wait for it."""
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
        return subprocess.run(
            words, input=stdin, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )


@pytest.fixture(params=[[], PRELOAD], ids=["exec", "preload"])
def mail(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mail]:
    mail = Mail(tmp_path / "home", request.param)
    yield mail
    mail.stop()


@pytest.fixture
def preloaded(tmp_path: Path) -> Iterator[Mail]:
    mail = Mail(tmp_path / "home", PRELOAD)
    yield mail
    mail.stop()


@pytest.fixture
def under_c(tmp_path: Path) -> Iterator[Mail]:
    """The same under Debian's C tcpserver."""
    mail = Mail(tmp_path / "home", [], peer("/usr/bin/tcpserver"))
    yield mail
    mail.stop()


# smtplib


@pytest.mark.peer
def test_smtplib_logs_in_and_relays_under_the_c_tcpserver(under_c: Mail) -> None:
    context = trusting(under_c.certificate)
    with smtplib.SMTP("127.0.0.1", under_c.port, timeout=30) as smtp:
        smtp.starttls(context=context)
        smtp.login("joe", "secret")
        smtp.sendmail(SENDER, OUTSIDE, TEXT)
    with smtplib.SMTP_SSL("127.0.0.1", under_c.smtps_port, timeout=30, context=context) as smtp:
        smtp.login("joe", "secret")
        smtp.sendmail(SENDER, OUTSIDE, TEXT)
    assert [" with ESMTPSA (" in message for message in under_c.messages()] == [True, True]


@pytest.mark.slow
def test_smtplib_verifies_a_chain_with_the_root_certificate_alone(mail: Mail) -> None:
    context = trusting(certify_by_authority(mail.certificate.parent))
    for smtp in (
        smtplib.SMTP("127.0.0.1", mail.port, timeout=30),
        smtplib.SMTP_SSL("127.0.0.1", mail.smtps_port, timeout=30, context=context),
    ):
        with smtp:
            if not isinstance(smtp, smtplib.SMTP_SSL):
                smtp.starttls(context=context)
            smtp.sendmail(SENDER, INSIDE, TEXT)
    assert len(mail.messages()) == 2


@pytest.mark.slow
def test_a_renewed_certificate_does_not_disturb_smtplib(mail: Mail) -> None:
    """It does not affect a session under TLS; a session that begins TLS afterwards gets the new certificate."""
    with (
        smtplib.SMTP_SSL("127.0.0.1", mail.smtps_port, timeout=30, context=trusting(mail.certificate)) as under_tls,
        smtplib.SMTP("127.0.0.1", mail.port, timeout=30) as in_clear,
    ):
        in_clear.ehlo()
        root = certify_by_authority(mail.certificate.parent)
        under_tls.sendmail(SENDER, INSIDE, TEXT)
        in_clear.starttls(context=trusting(root))
        in_clear.sendmail(SENDER, INSIDE, TEXT)
    assert len(mail.messages()) == 2


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "SMTP_SSL"])
def test_smtplib_logs_in_and_relays(mail: Mail, implicit: bool) -> None:
    context = trusting(mail.certificate)
    if implicit:
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            "127.0.0.1", mail.smtps_port, "client.example", timeout=30, context=context
        )
    else:
        smtp = smtplib.SMTP("127.0.0.1", mail.port, "client.example", timeout=30)
        with pytest.raises(smtplib.SMTPNotSupportedError):
            smtp.login("joe", "secret")
        smtp.starttls(context=context)
    with smtp:
        smtp.login("joe", "secret")
        assert smtp.sendmail(SENDER, [INSIDE, OUTSIDE], TEXT) == {}
    (message,) = mail.messages()
    received = r"Received: from unknown \(HELO client.example\) \(joe@127.0.0.1\)\n  by mx.example.org with ESMTPSA "
    assert re.search(received + r"\(TLS_\w+ encrypted, authenticated\); ", message)
    assert message.endswith(TEXT)


def test_smtplib_without_a_login_can_send_only_to_a_listed_domain(mail: Mail) -> None:
    with smtplib.SMTP("127.0.0.1", mail.port, "client.example", timeout=30) as smtp:
        smtp.starttls(context=trusting(mail.certificate))
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login("joe", "wrong")
        assert list(smtp.sendmail(SENDER, [INSIDE, OUTSIDE], TEXT)) == [OUTSIDE]
    (message,) = mail.messages()
    assert " with ESMTPS (TLS_" in message


def test_smtplib_sends_a_large_message(preloaded: Mail) -> None:
    body = "".join(f"line {number} of a long message, with a dot\n.\n" for number in range(100_000))
    with smtplib.SMTP_SSL(
        "127.0.0.1", preloaded.smtps_port, timeout=60, context=trusting(preloaded.certificate)
    ) as smtp:
        smtp.sendmail(SENDER, INSIDE, "Subject: large\n\n" + body)
    (message,) = preloaded.messages()
    assert message.endswith("\n\n" + body)


# swaks


def swaks(port: int, *words: str) -> list[str]:
    """Return the command to run swaks against this port, from SENDER."""
    program = peer("/usr/bin/swaks")
    if subprocess.run(["perl", "-MNet::SSLeay", "-e1"], capture_output=True, check=False).returncode:
        pytest.skip("peer missing: swaks without Net::SSLeay (Debian: libnet-ssleay-perl)")
    return [program, "--server", f"127.0.0.1:{port}", "--from", SENDER, *words]


@pytest.mark.peer
@pytest.mark.parametrize(
    "words", [["--tls"], ["--tls-on-connect"], ["--tls", "--pipeline"]], ids=lambda words: words[-1]
)
def test_swaks_logs_in_and_relays(mail: Mail, words: list[str]) -> None:
    port = mail.smtps_port if "--tls-on-connect" in words else mail.port
    words = [*words, "--tls-verify", "--tls-ca-path", str(mail.certificate), "--to", OUTSIDE, "--auth", "PLAIN"]
    done = mail.run(*swaks(port, *words, "--auth-user", "joe", "--auth-password", "secret"))
    assert done.returncode == 0, done.stdout
    assert "=== TLS started with cipher TLSv1.3" in done.stdout
    assert " with ESMTPSA (" in mail.messages()[0]


@pytest.mark.peer
def test_swaks_without_tls_is_not_offered_auth(preloaded: Mail) -> None:
    words = ["--to", INSIDE, "--auth", "--auth-user", "joe", "--auth-password", "secret"]
    done = preloaded.run(*swaks(preloaded.port, *words))
    assert "Host did not advertise authentication" in done.stdout
    assert not preloaded.messages()


# openssl s_client


def s_client(port: int, *words: str) -> list[str]:
    return [peer(OPENSSL), "s_client", "-connect", f"127.0.0.1:{port}", *words]


SESSION = f"EHLO client.example\nMAIL FROM:<{SENDER}>\nRCPT TO:<{INSIDE}>\nDATA\n{TEXT}.\nQUIT\n"


@pytest.mark.peer
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("start", [True, False], ids=["starttls", "smtps"])
def test_openssl_verifies_the_certificate_and_sends_a_message(mail: Mail, start: bool, version: str) -> None:
    words = ["-quiet", "-crlf", version, "-CAfile", str(mail.certificate), "-verify_return_error"]
    words += ["-verify_hostname", "mx.example.org", *(["-starttls", "smtp"] if start else [])]
    done = mail.run(*s_client(mail.port if start else mail.smtps_port, *words), stdin=SESSION)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("221 mx.example.org\n")
    assert mail.messages()[0].endswith(TEXT)
    assert mail.log() == b""


@pytest.mark.peer
def test_openssl_finds_no_compression_and_secure_renegotiation(preloaded: Mail) -> None:
    done = preloaded.run(*s_client(preloaded.smtps_port, "-crlf", "-tls1_2"), stdin="QUIT\n")
    assert "Compression: NONE" in done.stdout
    assert "Secure Renegotiation IS supported" in done.stdout  # RFC 5746's extension, which prevents CVE-2009-3555
    assert "Extended master secret: yes" in done.stdout
    assert "TLS session ticket:" in done.stdout


@pytest.mark.peer
def test_openssl_may_not_renegotiate(mail: Mail) -> None:
    client = subprocess.Popen(
        s_client(mail.smtps_port, "-tls1_2"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert client.stdin
    assert client.stdout
    output = b""
    while b"220 mx.example.org ESMTP" not in output:
        output += get(client.stdout.fileno())
    client.stdin.write(b"R\n")
    client.stdin.flush()
    assert b"no renegotiation" in client.communicate()[0]
    mail.smtps.wait_for_log(
        rb"^qmail-smtpd: event=refused pid=\d+ ip=127.0.0.1 tls=TLSv1.2 reason=tls:no_renegotiation$"
    )
    assert mail.log().count(b"\n") == 1


@pytest.mark.peer
def test_openssl_may_update_its_keys(mail: Mail) -> None:
    """RFC 8446 section 4.6.3: `K` updates the client's keys and requests an update of the server's."""
    client = subprocess.Popen(
        s_client(mail.smtps_port, "-tls1_3", "-crlf"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin
    assert client.stdout
    turns = [
        (b"220 mx", b"K\n"),
        (b"KEYUPDATE", b"noop\n"),
        (b"250 ok", b"k\n"),
        (b"KEYUPDATE", b"quit\n"),
        (b"221 mx", b""),
    ]
    for expected, text in turns:
        output = b""
        while expected not in output:
            part = get(client.stdout.fileno())
            assert part, output
            output += part
        client.stdin.write(text)  # empty after 221: the client may have exited by then
        client.stdin.flush()
    client.communicate()
    assert mail.log() == b""


@pytest.mark.peer
def test_early_data_of_openssl_is_rejected(preloaded: Mail, tmp_path: Path) -> None:
    """Early data can be replayed. The ticket is from another server that accepts it; ours does a full handshake."""
    port = free_port()
    control, session, early = preloaded.certificate.parent, tmp_path / "session", tmp_path / "early"
    early.write_text(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{INSIDE}>\r\n")
    words = ["-cert", str(preloaded.certificate), "-key", str(control / "serverkey.pem"), "-early_data"]
    other = subprocess.Popen(
        [peer(OPENSSL), "s_server", "-accept", f"127.0.0.1:{port}", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: preloaded.run(*s_client(port, "-sess_out", str(session)), stdin="Q\n") and session.exists())
    finally:
        other.kill()
        other.communicate()
    words = ["-crlf", "-ign_eof", "-sess_in", str(session), "-early_data", str(early)]
    done = preloaded.run(*s_client(preloaded.smtps_port, *words), stdin=f"RCPT TO:<{INSIDE}>\nQUIT\n")
    assert "Early data was rejected" in done.stdout
    assert "503 MAIL first" in done.stdout


# Postfix


@pytest.mark.peer
@pytest.mark.parametrize("level", ["verify", "secure"])
def test_postfix_verifies_the_certificate(mail: Mail, tmp_path: Path, level: str) -> None:
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    finger = [peer("/usr/sbin/posttls-finger"), "-c", "-l", level, "-L", "summary", "-F", str(mail.certificate)]
    for port, words in ((mail.port, []), (mail.smtps_port, ["-w"])):
        done = mail.run(*finger, *words, f"[127.0.0.1]:{port}", "mx.example.org", MAIL_CONFIG=str(tmp_path))
        assert f"Verified TLS connection established to 127.0.0.1[127.0.0.1]:{port}: TLSv1.3" in done.stdout
    assert mail.log() == b""


@pytest.mark.peer
def test_postfix_resumes_its_tls_session(preloaded: Mail, tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    finger = [peer("/usr/sbin/posttls-finger"), "-r", "1", "-c", "-w", "-F", str(preloaded.certificate)]
    words = [*finger, f"[127.0.0.1]:{preloaded.smtps_port}", "mx.example.org"]
    until(lambda: "Reusing old session" in preloaded.run(*words, MAIL_CONFIG=str(tmp_path)).stdout)


# Probes

COMMON = bytes.fromhex("c02bc02fc00ac014c009c013002f0035000a00050004c02cc030")  # common ciphers, old and current


@pytest.mark.peer
def test_nmap_finds_nothing_that_is_too_old_or_too_weak(preloaded: Mail) -> None:
    scripts = "+ssl-enum-ciphers,+sslv2,+ssl-poodle,+ssl-heartbleed,+ssl-ccs-injection,+ssl-dh-params"
    words = [peer("/usr/bin/nmap"), "-Pn", "-n", "--script", scripts, "-p", str(preloaded.smtps_port), "127.0.0.1"]
    found = preloaded.run(*words).stdout
    assert re.findall(r"(?m)^\|   (\S+):", found) == ["TLSv1.2", "TLSv1.3"], found
    assert re.findall(r"(?m)compressors: \n\|       (.*)", found) == ["NULL"]
    assert "least strength: A" in found
    assert not re.search("VULNERABLE|SSLv|RC4|3DES|_NULL|anon|EXPORT", found.replace("NULL\n", ""))


@pytest.mark.parametrize("newest", [0x0300, 0x0301, 0x0302], ids=["SSLv3", "TLSv1", "TLSv1.1"])
@pytest.mark.parametrize("start", [True, False], ids=["starttls", "smtps"])
def test_nothing_below_tls_1_2_is_accepted(preloaded: Mail, start: bool, newest: int) -> None:
    with connect_for_tls(preloaded, start) as connection:
        connection.sendall(client_hello(newest))
        answer = get_all(connection.fileno())
    assert answer[:1] == b"\x15"  # an alert, and no ServerHello
    assert answer[5:] in (bytes((2, 70)), bytes((2, 40)))  # fatal, protocol_version; handshake_failure for SSLv3


WEAK = {
    "NULL": "0002 003b c006 c010",
    "anonymous": "0018 001b 0034 006c c018",
    "export": "0003 0006 0008",
    "RC4": "0004 0005 c007 c011",
    "DES": "0009 000a c008 c012",
}


@pytest.mark.parametrize("name", WEAK)
def test_no_broken_cipher_is_accepted(preloaded: Mail, name: str) -> None:
    with preloaded.smtps.connect() as connection:
        connection.sendall(client_hello(0x0303, bytes.fromhex(WEAK[name])))
        assert get_all(connection.fileno()) == b"\x15\x03\x03\x00\x02" + bytes((2, 40))  # fatal, handshake_failure


def test_compression_is_not_accepted(preloaded: Mail) -> None:
    with preloaded.smtps.connect() as connection:
        connection.sendall(client_hello(0x0303, compressions=b"\1\0"))  # DEFLATE, or none
        answer = get(connection.fileno())
    assert (answer[0], answer[5]) == (0x16, 2)  # ServerHello
    session = 43  # a record's header, a handshake's, version, random
    assert answer[session + 1 + answer[session] + 2] == 0


def connect_for_tls(mail: Mail, start: bool) -> socket.socket:
    """Return a connection on which the handshake can begin."""
    if not start:
        return mail.smtps.connect()
    connection = mail.starttls.connect()
    connection.recv(1000)
    connection.sendall(b"STARTTLS\r\n")
    assert connection.recv(1000) == b"220 ready for tls\r\n"
    return connection


def client_hello(version: int, ciphers: bytes = COMMON, compressions: bytes = b"\0") -> bytes:
    """Return a ClientHello of SSL 3 to TLS 1.2."""
    groups = struct.pack("!HHHHH", 10, 6, 4, 0x1D, 0x17) + struct.pack("!HHB", 11, 2, 1) + b"\0"
    signatures = struct.pack("!HHHHHHH", 13, 10, 8, 0x0403, 0x0804, 0x0401, 0x0201)
    extensions = groups + signatures if version > 0x0300 else b""
    body = struct.pack("!H", version) + os.urandom(32) + b"\0" + struct.pack("!H", len(ciphers)) + ciphers
    body += bytes((len(compressions),)) + compressions
    body += struct.pack("!H", len(extensions)) + extensions if extensions else b""
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16" + struct.pack("!HH", min(version, 0x0301), len(message)) + message
