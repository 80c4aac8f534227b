"""Logins that Dovecot decides ($SMTPAUTHSOCKET, control/authsocket), with a stand-in for Dovecot."""

import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd.auth import authenticator, dovecot, exchange
from qmail_smtpd.auth.dovecot import escaped, unescaped
from tests.kit.login import b64, plain
from tests.kit.mailhome import CLIENT, CONTROL, Result, make_home, talk
from tests.kit.peers.fakedovecot import FakeDovecot, accept
from tests.kit.server import Server, children, compiled, descriptors, room_for
from tests.kit.support import script
from tests.kit.tlspeer import Smtp, certify

OK, FAILED = "235 ok, go ahead (#2.0.0)", "535 authentication failed (#5.7.1)"
TROUBLE = "454 oops, problem with child and I can't auth (#4.3.0)"
ENVIRON = {**CLIENT, "AUTHSLEEP": "0", "TCPLOCALIP": "192.0.2.9", "TCPLOCALPORT": "25", "TCPREMOTEPORT": "4000"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "authcleartext": "", "authsocket": f"{tmp_path}/auth\n"})


def codes(result: Result) -> list[str]:
    return [line.decode() for line in result.stdout.split(b"\r\n") if line[:3] in (b"235", b"454", b"535", b"501")]


def reasons(result: Result) -> list[str]:
    lines = [line for line in result.stderr.decode().splitlines() if "event=login" in line]
    return [word.partition("=")[2] for line in lines for word in line.split() if word.startswith(("reason=", "user="))]


def test_the_user_is_the_one_that_dovecot_names_in_its_case(home: Path, tmp_path: Path) -> None:
    (home / "control/authsenders").write_text("Joe@Example.Org: joe@example.org\n")
    text = f"EHLO x\r\n{plain('joe')}MAIL FROM:<joe@example.org>\r\nRCPT TO:<u@elsewhere.test>\r\nQUIT\r\n"
    with FakeDovecot(tmp_path) as server:
        result = talk(home, text, ENVIRON)
    assert b"\r\n250 AUTH PLAIN XOAUTH2\r\n" in result.stdout
    assert result.codes[-3:] == ["250", "250", "221"]
    assert b" result=yes mechanism=PLAIN user=Joe@Example.Org\n" in result.stderr
    request = server.requests[-1].decode()
    facts = "service=smtp\tnologin\tlip=192.0.2.9\trip=192.0.2.1\tlport=25\trport=4000"
    assert request == f"AUTH\t1\tPLAIN\t{facts}\tresp={b64(chr(0) + 'joe' + chr(0) + 'secret')}\n"


def test_tls_and_the_name_are_passed_on_to_dovecot(home: Path, tmp_path: Path) -> None:
    certificate, _ = certify(home / "control")
    (home / "control/servercerts").mkdir()
    (home / "control/authcleartext").unlink()
    with FakeDovecot(tmp_path) as server, Smtp(home, ENVIRON) as smtp:
        smtp.reply()
        assert "AUTH" not in smtp.ask("EHLO x")
        assert smtp.ask(plain("joe").strip()).startswith("538")
        assert not server.requests
        smtp.ask("STARTTLS")
        smtp.secure(certificate)
        assert "250 AUTH PLAIN XOAUTH2" in smtp.ask("EHLO x")
        assert smtp.ask(plain("joe").strip()) == OK
    assert b"\tsecured\tlocal_name=mx.example.org\t" in server.requests[-1]


@pytest.mark.parametrize(
    ("answer", "reply", "reason"),
    [
        (b"FAIL\t1\tuser=joe\n", FAILED, "password"),
        (b"FAIL\t1\tuser=joe\tcode=temp_fail\n", TROUBLE, "temp"),
        (b"FAIL\t1\ttemp\n", TROUBLE, "temp"),
        (b"FAIL\t1\tuser=joe\tcode=user_disabled\n", FAILED, "user_disabled"),
        (b"FAIL\t1\tuser=joe\tuser_disabled\n", FAILED, "user_disabled"),
        (b"FAIL\t1\tuser=joe\tcode=pass_expired\n", FAILED, "pass_expired"),
        (b"FAIL\t1\tuser=joe\tcode=authz_fail\tauthz\n", FAILED, "authzid"),
        (b"FAIL\t1\tuser=joe\tcode=what\n", FAILED, "password"),
        (b"OK\t1\tuser=joe\tnologin\treason=closed\n", FAILED, "nologin"),
        (b"OK\t1\tuser=joe\tnologin=yes\n", FAILED, "nologin"),
        (b"OK\t1\tuser=joe\tproxy\thost=192.0.2.1\n", FAILED, "proxy"),
        (b"OK\t1\n", TROUBLE, "socket:nonsense"),
        (b"OK\t1\tuser=\n", TROUBLE, "socket:nonsense"),
        (b"OK\t1\tuser=a\0010b\n", TROUBLE, "socket:nonsense"),
        (b"OK\t1\tuser=" + b"x" * 2000 + b"\n", TROUBLE, "socket:nonsense"),
        (b"OK\t2\tuser=joe\n" * 300, TROUBLE, "socket:nonsense"),
        (b"CONT\t1\t!!!\n", TROUBLE, "socket:nonsense"),
        (b"x" * 70_000, TROUBLE, "socket:nonsense"),
        (b"\n" * 300, TROUBLE, "socket:nonsense"),
        (None, TROUBLE, "socket:closed"),
    ],
)
def test_each_answer_has_its_reply_and_reason(
    home: Path, tmp_path: Path, answer: bytes | None, reply: str, reason: str
) -> None:
    with FakeDovecot(tmp_path, lambda _: answer):
        result = talk(home, f"{plain('joe')}MAIL FROM:<a@b>\r\nRCPT TO:<u@elsewhere.test>\r\nQUIT\r\n", ENVIRON)
    assert codes(result) == [reply]
    assert reasons(result)[0] == reason
    assert b"553 sorry" in result.stdout
    assert result.stderr.count(b"\n") == 2  # the login, and the recipient


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"VERSION\t2\t0\nDONE\n", "socket:version"),
        (b"DONE\n", "socket:version"),
        (b"220 mx ESMTP\r\n" * 300, "socket:nonsense"),
        (b"x" * 70_000, "socket:nonsense"),
        (b"\xff\x00\n" * 300, "socket:nonsense"),
    ],
)
def test_a_server_of_another_kind_gives_454(home: Path, tmp_path: Path, greeting: bytes, reason: str) -> None:
    with FakeDovecot(tmp_path, greeting=greeting):
        result = talk(home, f"EHLO x\r\n{plain('joe')}QUIT\r\n", ENVIRON)
    assert b"AUTH PLAIN LOGIN" in result.stdout
    assert codes(result) == [TROUBLE]
    assert reasons(result) == [reason]


def test_a_missing_or_forbidden_socket_gives_454(home: Path, tmp_path: Path) -> None:
    result = talk(home, f"EHLO x\r\n{plain('joe')}AUTH XOAUTH2\r\nQUIT\r\n", ENVIRON)
    assert codes(result) == [TROUBLE] * 2
    assert reasons(result) == ["socket:file_does_not_exist"] * 2
    (tmp_path / "auth").touch()
    assert reasons(talk(home, plain("joe"), ENVIRON)) == ["socket:connection_refused"]
    long = talk(home, plain("joe"), {**ENVIRON, "SMTPAUTHSOCKET": "/" + "x" * 200})
    assert codes(long) == [TROUBLE]


def test_a_silent_server_gives_454(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the test's own process, with shorter limits: the real ones are too long for a test."""
    monkeypatch.setattr(dovecot, "LATEST", 0.05)
    monkeypatch.setattr(exchange, "TIME_LIMIT", 0.05)
    path = os.fsencode(tmp_path / "auth")
    with FakeDovecot(tmp_path, greeting=None), pytest.raises(dovecot.Trouble) as caught:
        exchange.offered(path, None)
    assert caught.value.why == b"socket:timeout"
    assert not dovecot.kept
    release = threading.Event()
    with FakeDovecot(tmp_path, lambda _: b"" if release.wait(20) else None):
        try:
            with pytest.raises(exchange.sasl.LoginRefused) as refused:
                exchange.Exchange(path, b"PLAIN", [], None).begin(b"x")
        finally:
            release.set()
    assert refused.value.reason == b"socket:timeout"
    assert not dovecot.kept


def test_without_a_descriptor_dovecot_cannot_be_asked(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "auth")
    why = b"socket:process_cannot_open_more_files"
    checking = authenticator.Authenticator(None, None, {}, path)
    with room_for(0):
        assert checking.server_mechanisms(None) is None
        assert checking.trouble == why
        with pytest.raises(exchange.sasl.LoginRefused) as refused:
            checking.pass_on(b"PLAIN", {}, b"", None).begin(b"x")
    assert (refused.value.reply.decode(), refused.value.reason) == (TROUBLE, why)


def test_dangerous_mechanisms_are_never_offered(home: Path, tmp_path: Path) -> None:
    names = b"ANONYMOUS\tanonymous EXTERNAL SCRAM-SHA-256-PLUS\tmutual-auth A\rB SCRAM-SHA-256\tmutual-auth X\tprivate"
    lines = b"".join(b"MECH\t%b\n" % name for name in names.split(b" "))
    with FakeDovecot(tmp_path, greeting=b"VERSION\t1\t3\n" + lines + b"DONE\n") as server:
        text = "EHLO x\r\nAUTH ANONYMOUS\r\nAUTH EXTERNAL =\r\nAUTH SCRAM-SHA-256-PLUS\r\nQUIT\r\n"
        result = talk(home, text, {**ENVIRON, "SMTPAUTH": "ANONYMOUS EXTERNAL SCRAM-SHA-256"})
    assert b"250 AUTH SCRAM-SHA-256\r\n" in result.stdout
    assert result.stdout.count(b"504 auth type unimplemented (#5.5.1)") == 3
    assert not [line for line in server.requests if line.startswith(b"AUTH")]


def test_a_cancelled_exchange_is_cancelled_at_dovecot(home: Path, tmp_path: Path) -> None:
    asked = lambda words: b"CONT\t%b\t\n" % words[1] if words[0] == b"AUTH" else accept(words)  # noqa: E731
    with FakeDovecot(tmp_path, asked) as server:
        text = f"AUTH PLAIN\r\n*\r\nAUTH PLAIN\r\n{b64('x')}\r\nQUIT\r\n"
        assert codes(talk(home, text, ENVIRON)) == ["501 auth exchange canceled (#5.0.0)", OK]
    assert [line.split(b"\t")[:2] for line in server.requests[2:]] == [
        [b"AUTH", b"1"],
        [b"CANCEL", b"1\n"],
        [b"AUTH", b"2"],
        [b"CONT", b"2"],
    ]


def test_the_answer_to_an_earlier_request_is_never_taken_for_that_to_a_later_one(tmp_path: Path) -> None:
    late = [b"CONT\t1\t\n", b"OK\t1\tuser=eve\nFAIL\t2\tuser=joe\n"]
    path = os.fsencode(tmp_path / "auth")
    with FakeDovecot(tmp_path, lambda _: late.pop(0)):
        first = exchange.Exchange(path, b"PLAIN", [], None)
        assert first.begin(None) == b""
        first.abandon()
        with pytest.raises(exchange.sasl.LoginRefused) as caught:
            exchange.Exchange(path, b"PLAIN", [], None).begin(b"x")
    assert caught.value.user == b"joe"
    dovecot.drop()


@pytest.mark.parametrize("text", [b"", b"joe", b"\1\0\t\r\n", b"a\tb\1\1tc", bytes(range(256))])
def test_parameters_survive_their_escapes(text: bytes) -> None:
    assert not set(escaped(text)) & set(b"\0\t\r\n")
    assert unescaped(escaped(text)) == text


@pytest.mark.parametrize("name", ["rip=x\tnologin", "a\tresp=x"])
def test_nothing_of_a_client_becomes_another_parameter(name: str) -> None:
    words = exchange.parameters(b"smtp", {b"TLS_PROTOCOL": b"x", b"TCPREMOTEIP": name.encode()}, name.encode())
    assert not [word for word in map(escaped, words) if b"\t" in word]


# In workers.


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDovecot]:
    with FakeDovecot(tmp_path) as fake:
        yield fake


def serve(home: Path, *options: str) -> Server:
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home), "AUTHSLEEP": "0"}
    return Server(["-vRHl0", *options, "127.0.0.1", "0", "qmail-smtpd"], environ=environ)


def log_in(server: Server, source: str = "127.0.0.1") -> bytes:
    return server.ask(f"EHLO x\r\n{plain('joe')}QUIT\r\n".encode(), source)


def test_a_relative_path_is_another_server_in_another_home_for_the_same_process(tmp_path: Path) -> None:
    control = {**CONTROL, "authcleartext": "", "authsocket": "auth\n"}
    homes = [make_home(tmp_path / name, control) for name in ("a", "b")]
    cdb = compiled(tmp_path / "cdb", f'127.0.0.2:allow,QMAILHOME="{homes[1]}"\n:allow\n')
    with (
        FakeDovecot(homes[0]),
        FakeDovecot(homes[1], lambda words: b"FAIL\t%b\n" % words[1]),
        serve(homes[0], "-c1", "-x", str(cdb)) as server,
    ):
        for _ in range(4):
            assert OK.encode() in log_in(server)
            assert FAILED.encode() in log_in(server, "127.0.0.2")


def test_a_worker_keeps_one_connection_for_all_its_clients(home: Path, fake: FakeDovecot) -> None:
    with serve(home) as server:
        for _ in range(20):
            assert OK.encode() in log_in(server)
        workers = children(server.pid)
        assert fake.clients <= len(workers) <= 4
        assert all(descriptors(worker) <= 12 for worker in workers)


def test_a_process_for_each_client_has_a_connection_for_each(home: Path, fake: FakeDovecot) -> None:
    with serve(home, "--reuse", "1") as server:
        for _ in range(3):
            assert OK.encode() in log_in(server)
    assert fake.clients == 3


def test_a_restart_of_dovecot_costs_no_login(home: Path, fake: FakeDovecot) -> None:
    with serve(home) as server:
        for _ in range(3):
            assert OK.encode() in log_in(server)
            fake.stop()
            assert TROUBLE.encode() in log_in(server)
            fake.start()
        assert OK.encode() in log_in(server)


def test_a_connection_that_dies_at_the_request_is_replaced_once(home: Path, tmp_path: Path) -> None:
    deaths = [None]
    with FakeDovecot(tmp_path, lambda words: deaths.pop() if deaths else accept(words)) as fake, serve(home) as server:
        assert OK.encode() in log_in(server)
        assert fake.clients == 2


def test_environment_and_control_file_have_an_order(home: Path, fake: FakeDovecot, tmp_path: Path) -> None:
    (home / "control/users").write_text("ann:{PLAIN}secret\n")
    (home / "control/users").chmod(0o600)
    both = {**ENVIRON, "SMTPAUTHFILE": "control/users"}
    assert codes(talk(home, plain("ann"), both)) == [OK]
    assert not fake.requests  # the file of users goes before control/authsocket
    result = talk(home, plain("ann"), {**both, "SMTPAUTHSOCKET": str(fake.path)})
    assert codes(result) == [OK]
    assert fake.requests
    assert b"warning: SMTPAUTHFILE has no effect beside SMTPAUTHSOCKET\n" in result.stderr
    assert b"502 unimplemented" in talk(home, plain("ann"), {**ENVIRON, "SMTPAUTHSOCKET": ""}).stdout
    (home / "control/authsocket").unlink()
    assert b"502 unimplemented" in talk(home, plain("ann"), ENVIRON).stdout
    (home / "control/authsocket").mkdir()
    assert talk(home, plain("ann"), ENVIRON).codes == ["421"]


def test_without_a_certificate_nothing_is_offered_in_clear(home: Path, fake: FakeDovecot) -> None:
    (home / "control/authcleartext").unlink()
    result = talk(home, f"EHLO x\r\n{plain('joe')}", ENVIRON)
    assert b"AUTH" not in result.stdout.partition(b"538")[0]
    assert b"AUTH is not offered: there is no control/servercert.pem" in result.stderr
    assert not fake.requests


def test_the_request_holds_what_the_client_sent_and_nothing_else(home: Path, fake: FakeDovecot) -> None:
    message = "user=joe\1auth=Bearer a\tb\n\1\1"
    assert codes(talk(home, f"AUTH XOAUTH2 {b64(message)}\r\n", ENVIRON)) == [OK]
    assert base64.b64decode(fake.requests[-1].rpartition(b"resp=")[2]) == message.encode()
