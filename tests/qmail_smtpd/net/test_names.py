"""The certificates in control/servercerts/: which one a client gets, and what its name cannot do."""

import os
import smtplib
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd.net import names
from qmail_smtpd.net.certificate import Cache
from tests.kit.mailhome import CLIENT, CONTROL, make_home
from tests.kit.server import Server, until
from tests.kit.support import peer, script
from tests.kit.tlspeer import OPENSSL, Client, Smtp, certify, get_all, trusting

NAMED, WILD = "mail.example.net", "_.example.net"


def add(home: Path, folder: str, host: str) -> Path:
    """Create a certificate for the host in control/servercerts/, and return its path."""
    path = home / "control/servercerts" / folder
    path.mkdir(parents=True, exist_ok=True)
    return certify(path, host=host)[0]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a qmail home with a default certificate, one for a host, and one for a wildcard."""
    home = make_home(tmp_path / "home", CONTROL)
    certify(home / "control")
    add(home, NAMED, NAMED)
    add(home, WILD, "*.example.net")
    return home


def pem(home: Path, folder: str) -> Path:
    return home / "control" / folder / "servercert.pem"


DEFAULT = ""
SMTPS = {**CLIENT, "SMTPS": "1", "SMTPD_LOG": "all"}


def served(home: Path, host: str | None) -> bytes:
    """Return the certificate, in DER, that a client gets who asks for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Smtp(home, SMTPS) as smtp:
        client = Client(smtp.ends, context, host=host).handshake()
        found = client.tls.getpeercert(binary_form=True)
    assert found
    return found


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


@pytest.mark.parametrize(
    ("host", "folder"),
    [
        (NAMED, f"servercerts/{NAMED}"),
        ("MAIL.Example.NET", f"servercerts/{NAMED}"),
        ("other.example.net", f"servercerts/{WILD}"),
        ("a.b.example.net", DEFAULT),
        ("example.net", DEFAULT),
        ("mx.example.org", DEFAULT),
        ("x" * 63, DEFAULT),
        (None, DEFAULT),
    ],
)
def test_the_name_selects_the_certificate(home: Path, host: str | None, folder: str) -> None:
    assert served(home, host) == der(pem(home, folder))


def test_the_log_names_what_the_client_has_asked_for(home: Path) -> None:
    with Smtp(home, SMTPS) as smtp:
        client = Client(smtp.ends, trusting(pem(home, f"servercerts/{NAMED}")), host=NAMED).handshake()
        client.send(b"RCPT\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@elsewhere.test>\r\nQUIT\r\n")
        client.receive_all()
        result = smtp.end()
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 2
    assert all(line.endswith(f" sni={NAMED}") for line in lines), lines


def test_without_the_folder_the_log_names_nothing(home: Path) -> None:
    (home / "control/servercerts").rename(home / "away")
    with Smtp(home, SMTPS) as smtp:
        client = Client(smtp.ends, trusting(pem(home, DEFAULT))).handshake()
        client.send(b"QUIT\r\n")
        client.receive_all()
        assert b"sni=" not in smtp.end().stderr


def test_an_unusable_certificate_is_reported_and_the_default_one_is_sent(home: Path) -> None:
    key = home / f"control/servercerts/{NAMED}/serverkey.pem"
    key.chmod(0o644)
    with Smtp(home, SMTPS) as smtp:
        context = trusting(pem(home, DEFAULT))
        context.check_hostname = False
        Client(smtp.ends, context, host=NAMED).handshake()
        stderr = smtp.end().stderr
    why = f"control/servercerts/{NAMED}/serverkey.pem contains the private key and is world-readable or world-writable"
    assert stderr.splitlines()[0].decode() == f"qmail-smtpd: warning: no certificate for {NAMED}: {why}"


@pytest.mark.parametrize(
    "asked", ["..", "../../control", "a/b", ".hidden", "a\tb", WILD, "*.example.net", "é", "x" * 254]
)
def test_a_name_that_is_no_host_name_selects_nothing(asked: str, tmp_path: Path) -> None:
    assert names.host_name(asked) == b""
    folder = tmp_path / "control/servercerts"
    folder.mkdir(parents=True)
    (folder / ".hidden").mkdir()
    found = names.Names(os.fsencode(folder))
    assert found.context(asked) is None
    assert (found.name, found.trouble) == (b"", b"")


def replaced(hello: bytes, name: bytes) -> bytes:
    """Return the ClientHello with another name of the same length."""
    assert hello.count(NAMED.encode()) == 1
    return hello.replace(NAMED.encode(), name)


@pytest.mark.parametrize("name", [b"../../../etc/shad", b"\xff" * 16, b"\x00" * 16, b"mail.example.ne/"])
def test_a_hostile_name_in_the_hello_is_harmless(home: Path, name: bytes) -> None:
    name = name[: len(NAMED)]
    with Smtp(home, SMTPS) as smtp:
        hello = Client(smtp.ends, trusting(pem(home, DEFAULT)), host=NAMED).hello()
        smtp.put(replaced(hello, name))
        assert smtp.process.stdin
        smtp.process.stdin.close()
        smtp.process.stdin = None
        get_all(smtp.ends[0])
        stderr = smtp.end().stderr
    assert b"Traceback" not in stderr
    assert b"Exception" not in stderr
    assert b"warning" not in stderr
    assert all(line.startswith(b"qmail-smtpd: event=") for line in stderr.splitlines())
    assert b"sni=" not in stderr


def test_folders_that_no_client_finds_are_reported(home: Path) -> None:
    for folder in ("*.example.com", "Upper.example.com", "_."):
        (home / "control/servercerts" / folder).mkdir()
    with Smtp(home) as smtp:
        smtp.reply()
        stderr = smtp.end(b"QUIT\r\n").stderr
    why = "has names that no client asks for (a wildcard is _.example.org): *.example.com Upper.example.com _."
    assert stderr.decode() == f"qmail-smtpd: warning: control/servercerts {why}\n"


def test_the_contexts_kept_are_bounded_and_renewed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "kept", {})
    monkeypatch.setattr(names, "MOST_KEPT", 1)
    monkeypatch.setattr(names, "time", lambda: 2e10)
    monkeypatch.setattr(Cache, "prepared", False)
    found = names.Names(os.fsencode(home / "control/servercerts"))
    first = found.context(NAMED)
    assert first is found.context(NAMED) is not None
    certify(home / f"control/servercerts/{NAMED}", host=NAMED)
    assert found.context(NAMED) is not first
    assert found.context("other.example.net")
    assert len(names.kept) == 1


# Served by tcpserver.


@pytest.fixture(params=[[], ["--exec"], ["--reuse", "1"]], ids=["worker", "exec", "fork"])
def server(request: pytest.FixtureRequest, home: Path) -> Iterator[Server]:
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home)}
    words = ["-vRHl0", *request.param, "127.0.0.1", "0", "qmail-smtpd"]
    with Server(words, environ=environ) as server:
        yield server


def test_smtplib_verifies_each_name_and_a_renewed_certificate(server: Server, home: Path) -> None:
    for folder, host in (
        (f"servercerts/{NAMED}", NAMED),
        (f"servercerts/{WILD}", "x.example.net"),
        (DEFAULT, "mx.example.org"),
    ):
        for _ in range(3):
            check(server, pem(home, folder), host)
    add(home, NAMED, NAMED)
    check(server, pem(home, f"servercerts/{NAMED}"), NAMED)
    add(home, "new.example.com", "new.example.com")
    check(server, pem(home, "servercerts/new.example.com"), "new.example.com")


def check(server: Server, certificate: Path, host: str) -> None:
    """Send NOOP under TLS, after a check of certificate and name."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as smtp:
        smtp._host = host  # type: ignore[attr-defined]  # the name for SNI
        smtp.starttls(context=trusting(certificate))
        assert smtp.noop()[0] == 250


@pytest.mark.slow
def test_a_session_of_a_named_host_is_resumed_in_another_process(home: Path) -> None:
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home), "SMTPS": "1"}
    context = trusting(pem(home, f"servercerts/{NAMED}"))
    for tickets in (True, False):
        if not tickets:
            (home / "control/tlstickets").write_text("off\n")
        with Server(["-vRHl0", "--reuse", "1", "127.0.0.1", "0", "qmail-smtpd"], environ=environ) as server:
            if tickets:
                until(lambda: visit(server, context, visit(server, context)[0])[1])
            else:
                assert not visit(server, context, visit(server, context)[0])[1]


def visit(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Run one session. Return its TLS session, and whether it has resumed the given one."""
    with server.connect() as connection:
        client = Client((connection.fileno(),) * 2, context, session=session, host=NAMED).handshake()
        client.send(b"QUIT\r\n")
        client.receive_all()
        return client.tls.session, client.tls.session_reused


@pytest.mark.peer
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("end", ["--exec", "off"])
def test_openssl_gets_no_ticket_from_an_execd_session_nor_if_they_are_off(home: Path, version: str, end: str) -> None:
    if end == "off":
        (home / "control/tlstickets").write_text("off\n")
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home), "SMTPS": "1"}
    options = ["--exec"] if end == "--exec" else []
    with Server(["-vRHl0", *options, "127.0.0.1", "0", "qmail-smtpd"], environ=environ) as server:
        words = [peer(OPENSSL), "s_client", "-connect", f"127.0.0.1:{server.port}", version, "-crlf", "-ign_eof"]
        done = subprocess.run([*words, "-servername", NAMED], input=b"QUIT\n", capture_output=True, timeout=60)
    assert b"220 mx.example.org" in done.stdout
    assert f"subject=CN = {NAMED}".encode() in done.stdout.replace(b"CN=", b"CN = ")
    assert b"session ticket" not in done.stdout.lower()


@pytest.mark.peer
def test_curl_and_swaks_send_the_name(home: Path) -> None:
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home)}
    authority = str(pem(home, f"servercerts/{NAMED}"))
    with Server(["-vRHl0", "127.0.0.1", "0", "qmail-smtpd"], environ=environ | {"SMTPD_LOG": "all"}) as server:
        curl = [peer("/usr/bin/curl"), "-sSv", "--ssl-reqd", "--cacert", authority, "-X", "NOOP"]
        curl += ["--resolve", f"{NAMED}:{server.port}:127.0.0.1", f"smtp://{NAMED}:{server.port}/"]
        done = subprocess.run(curl, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        swaks = [peer("/usr/bin/swaks"), "--server", f"127.0.0.1:{server.port}", "--tls", "--tls-verify"]
        swaks += ["--tls-ca-path", authority, "--tls-sni", NAMED, "--quit-after", "TLS"]
        done = subprocess.run(swaks, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout
        server.wait_for_log(rb"event=end .* sni=mail\.example\.net$", times=2)


def padded(hello: bytes, size: int) -> bytes:
    """Return the ClientHello with an unknown extension (RFC 8701): X25519MLKEM768 makes one as long."""
    body = bytearray(hello[9:])
    position = 34 + 1 + body[34]
    position += 2 + int.from_bytes(body[position : position + 2], "big")
    position += 1 + body[position]
    extensions = bytes(body[position + 2 :]) + struct.pack(">HH", 0x2A2A, size) + bytes(size)
    body = body[:position] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize("size", [1500, 12_000])
def test_a_large_hello_may_come_in_any_segments(home: Path, size: int) -> None:
    with Smtp(home, SMTPS) as smtp:
        hello = padded(Client(smtp.ends, trusting(pem(home, DEFAULT)), host=NAMED).hello(), size)
        for start in range(0, len(hello), 700):
            smtp.put(hello[start : start + 700])
        assert os.read(smtp.ends[0], 6)[::5] == b"\x16\x02"  # ServerHello
