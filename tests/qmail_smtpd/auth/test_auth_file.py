"""$SMTPAUTHFILE: qmail-smtpd checks logins itself, and offers SCRAM-SHA-256, which a checker cannot do."""

import hmac
import smtplib
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from scramp import ScramClient, ScramException

from qmail_smtpd.auth.secret import make
from tests.kit.login import FAILED, OK, TROUBLE, answers, b64, plain
from tests.kit.mailhome import CLIENT, CONTROL, make_home, start, talk
from tests.kit.server import Server, compiled
from tests.kit.support import script

FEWEST_ITERATIONS = 4096  # RFC 7677 section 4
HASHES = [make(b"BLF-CRYPT", b"secret", 4).decode(), make(b"ARGON2ID", b"secret", 1).decode()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "authcleartext": ""})  # there is no TLS here


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    secrets = {"joe": make(b"SCRAM-SHA-256", b"secret", FEWEST_ITERATIONS), "ann": make(b"PLAIN", b"secret")}
    file.write_text("".join(f"{name}:{secret.decode()}\n" for name, secret in secrets.items()))
    file.chmod(0o640)
    return file


def environ_with(users: Path, **more: str) -> dict[str, str]:
    return {**CLIENT, "SMTPAUTHFILE": str(users), "AUTHSLEEP": "0", **more}


@pytest.mark.parametrize(
    ("smtpauth", "offered"),
    [
        ({}, b"250 AUTH LOGIN PLAIN SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "+cram"}, b"250 AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "!cram"}, b"250 AUTH CRAM-MD5 SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "-"}, b"250 8BITMIME\r\n"),
        ({"SMTPAUTH": "-SCRAM-SHA-256"}, b"250 AUTH LOGIN PLAIN\r\n"),
        ({"SMTPAUTH": "-LOGIN -PLAIN"}, b"250 AUTH SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "!PLAIN LOGIN"}, b"250 AUTH PLAIN LOGIN\r\n"),
        ({"SMTPAUTH": "SCRAM-SHA-256 PLAIN"}, b"250 AUTH SCRAM-SHA-256 PLAIN\r\n"),
    ],
)
def test_smtpauth_selects_the_mechanisms(home: Path, users: Path, smtpauth: dict[str, str], offered: bytes) -> None:
    assert offered in talk(home, "EHLO x\r\nQUIT\r\n", environ_with(users, **smtpauth)).stdout


@pytest.mark.parametrize("smtpauth", [{}, {"SMTPAUTH": ""}, {"SMTPAUTH": "!"}, {"SMTPAUTH": "+cram"}])
@pytest.mark.parametrize("content", ["", f"ann:{HASHES[0]}\nbob:{HASHES[1]}\n"])
def test_scram_is_not_offered_if_no_password_can_be_used_for_it(
    home: Path, users: Path, smtpauth: dict[str, str], content: str
) -> None:
    users.write_text(content)
    result = talk(home, "EHLO x\r\nAUTH SCRAM-SHA-256\r\nQUIT\r\n", environ_with(users, **smtpauth))
    assert b"250 AUTH LOGIN PLAIN\r\n" in result.stdout.replace(b" CRAM-MD5", b"")
    assert answers(result)[-1] == b"504 auth type unimplemented (#5.5.1)"


def test_without_ehlo_scram_is_accepted_as_if_it_had_been_offered(home: Path, users: Path) -> None:
    assert talk(home, "AUTH SCRAM-SHA-256\r\n*\r\nQUIT\r\n", environ_with(users)).codes == ["220", "334", "501", "221"]
    users.write_text(f"bob:{HASHES[1]}\n")
    assert talk(home, "AUTH SCRAM-SHA-256\r\nQUIT\r\n", environ_with(users)).codes == ["220", "504", "221"]


def test_scram_is_not_offered_if_the_file_cannot_be_read(home: Path, users: Path) -> None:
    users.chmod(0o644)
    result = talk(home, "EHLO x\r\n" + plain("joe") + "QUIT\r\n", environ_with(users))
    assert b"250 AUTH LOGIN PLAIN\r\n" in result.stdout
    assert answers(result)[-1] == TROUBLE


def test_scram_that_smtpauth_names_is_offered_for_every_file(home: Path, users: Path) -> None:
    users.write_text(f"bob:{HASHES[1]}\n")
    result = talk(home, "EHLO x\r\nQUIT\r\n", environ_with(users, SMTPAUTH="PLAIN SCRAM-SHA-256"))
    assert b"250 AUTH PLAIN SCRAM-SHA-256\r\n" in result.stdout


@pytest.mark.parametrize(
    ("smtpauth", "words"),
    [("PLAIN XOAUTH2", ["XOAUTH2"]), ("-SCRAM-SHA256", ["-SCRAM-SHA256"]), ("yes", []), ("+cram", []), ("-", [])],
)
def test_words_of_smtpauth_without_effect_are_named(home: Path, users: Path, smtpauth: str, words: list[str]) -> None:
    result = talk(home, "QUIT\r\n", environ_with(users, SMTPAUTH=smtpauth))
    warnings = [line for line in result.stderr.decode().splitlines() if "SMTPAUTH" in line]
    assert warnings == [f"qmail-smtpd: warning: SMTPAUTH: {word} has no effect" for word in words]


@pytest.mark.parametrize(
    ("login", "reply"),
    [
        (plain("joe"), OK),
        (plain("ann"), OK),
        (plain("joe", "wrong"), FAILED),
        (plain("ann", "wrong"), FAILED),
        (plain("nobody"), FAILED),
        (f"AUTH LOGIN {b64('joe')}\r\n{b64('secret')}\r\n", OK),
    ],
)
def test_a_password_is_checked_against_the_file(home: Path, users: Path, login: str, reply: bytes) -> None:
    result = talk(home, login + "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\nQUIT\r\n", environ_with(users))
    assert reply in answers(result)
    assert answers(result)[-1].startswith(b"250" if reply == OK else b"553")


def test_arguments_are_ignored_if_there_is_a_file(home: Path, users: Path) -> None:
    result = talk(home, plain("joe", "wrong") + "QUIT\r\n", environ_with(users), words=["/bin/true", "true"])
    assert answers(result) == [FAILED]


def test_the_file_is_read_at_the_login(home: Path, users: Path) -> None:
    session = LiveSession(home, users)
    assert session.ask(plain("joe", "other").rstrip()) == FAILED
    users.write_text("joe:{PLAIN}other\n")
    assert session.ask(plain("joe", "other").rstrip()) == OK
    session.finish()


@pytest.mark.parametrize("fault", ["missing", "world-readable", "scheme", "directory"])
def test_a_fault_of_the_file_is_not_a_wrong_password(home: Path, users: Path, fault: str) -> None:
    if fault == "missing":
        users.unlink()
    elif fault == "world-readable":
        users.chmod(0o644)
    elif fault == "scheme":
        users.write_text("joe:{MD5}x\n")
    else:
        users.unlink()
        users.mkdir()
    result = talk(home, plain("joe") + "QUIT\r\n", environ_with(users))
    assert answers(result) == [TROUBLE]
    [line] = [line for line in result.stderr.split(b"\n") if b"event=login" in line]
    assert b"result=no reason=" in line
    assert str(users).encode() in line


class LiveSession:
    """A running session, for an exchange of lines."""

    def __init__(self, home: Path, users: Path, **more: str) -> None:
        self.process = start(home, environ_with(users, **more))
        self.read_reply()

    def read_reply(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip(b"\r\n")

    def ask(self, line: str) -> bytes:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\r\n")
        self.process.stdin.flush()
        return self.read_reply()

    def finish(self) -> bytes:
        return self.process.communicate(b"QUIT\r\n")[1]


def challenge(reply: bytes) -> bytes:
    assert reply.startswith(b"334 "), reply
    return b64decode(reply[4:])


def test_cram_md5_works_only_for_passwords_in_plain_text(home: Path, users: Path) -> None:
    for user, reply in (("ann", OK), ("joe", FAILED), ("nobody", FAILED)):
        session = LiveSession(home, users, SMTPAUTH="cram")
        nonce = challenge(session.ask("AUTH CRAM-MD5"))
        digest = hmac.new(b"secret", nonce, "md5").hexdigest()
        assert session.ask(b64(f"{user} {digest}")) == reply
        session.finish()


@pytest.mark.slow
@pytest.mark.parametrize("maxauth", [1, 3])
def test_a_scheme_that_the_mechanism_cannot_use_is_the_reason_in_the_log_only(
    home: Path, users: Path, maxauth: int
) -> None:
    """For the client it is a failed login like any other. The fail2ban filter in docs/qmail-smtpd.md omits it."""
    (home / "control/maxauth").write_text(f"{maxauth}\n")
    users.write_text(users.read_text() + f"bob:{HASHES[0]}\nrob:{HASHES[1]}\nempty:\n")
    reasons = {
        ("CRAM-MD5", "joe"): "scheme",
        ("CRAM-MD5", "bob"): "scheme",
        ("CRAM-MD5", "rob"): "scheme",
        ("CRAM-MD5", "ann"): "password",
        ("CRAM-MD5", "nobody"): "password",
        ("CRAM-MD5", "empty"): "password",
        ("SCRAM-SHA-256", "bob"): "scheme",
        ("SCRAM-SHA-256", "rob"): "scheme",
        ("SCRAM-SHA-256", "joe"): "password",
        ("SCRAM-SHA-256", "ann"): "password",
        ("SCRAM-SHA-256", "nobody"): "password",
        ("SCRAM-SHA-256", "empty"): "password",
    }
    for (mechanism, user), reason in reasons.items():
        session = LiveSession(home, users, SMTPAUTH="+cram")
        for _ in range(maxauth):
            assert (cram_login if mechanism == "CRAM-MD5" else scram_login)(session, user, "wrong") == FAILED
        assert session.ask("AUTH PLAIN") == b"421 too many failed logins (#4.7.0)"
        log = session.finish().decode()
        line = f" result=no reason={reason} mechanism={mechanism} user={user}\n"
        assert log.count(line) == maxauth, (line, log)


def cram_login(session: LiveSession, user: str, password: str) -> bytes:
    nonce = challenge(session.ask("AUTH CRAM-MD5"))
    return session.ask(b64(f"{user} {hmac.new(password.encode(), nonce, 'md5').hexdigest()}"))


def scram_login(session: LiveSession, user: str, password: str) -> bytes:
    """Return the reply to the proof."""
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    client.set_server_first(challenge(session.ask(f"AUTH SCRAM-SHA-256 {b64(client.get_client_first())}")).decode())
    return session.ask(b64(client.get_client_final()))


@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_a_scheme_that_the_mechanism_cannot_use_fails_with_every_password(
    home: Path, users: Path, password: str
) -> None:
    users.write_text(users.read_text() + f"bob:{HASHES[0]}\n")
    session = LiveSession(home, users, SMTPAUTH="cram")
    assert cram_login(session, "joe", password) == FAILED
    assert scram_login(session, "bob", password) == FAILED
    session.finish()


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("user", ["joe", "ann"])
def test_a_scram_login(home: Path, users: Path, user: str, initial: bool) -> None:
    session = LiveSession(home, users)
    client = ScramClient(["SCRAM-SHA-256"], user, "secret")
    first = b64(client.get_client_first())
    if initial:
        reply = session.ask(f"AUTH SCRAM-SHA-256 {first}")
    else:
        assert session.ask("AUTH SCRAM-SHA-256") == b"334 "
        reply = session.ask(first)
    client.set_server_first(challenge(reply).decode())
    client.set_server_final(challenge(session.ask(b64(client.get_client_final()))).decode())
    assert session.ask("") == OK
    assert session.ask("MAIL FROM:<>") == b"250 ok"
    assert session.ask("RCPT TO:<u@evil.test>") == b"250 ok"
    assert f"result=yes mechanism=SCRAM-SHA-256 user={user}\n".encode() in session.finish()


@pytest.mark.parametrize("user", ["joe", "ann", "nobody"])
def test_scram_does_not_reveal_which_users_exist(home: Path, users: Path, user: str) -> None:
    session = LiveSession(home, users)
    client = ScramClient(["SCRAM-SHA-256"], user, "wrong")
    client.set_server_first(challenge(session.ask(f"AUTH SCRAM-SHA-256 {b64(client.get_client_first())}")).decode())
    assert session.ask(b64(client.get_client_final())) == FAILED
    assert f"result=no reason=password mechanism=SCRAM-SHA-256 user={user}\n".encode() in session.finish()


def test_a_scram_client_that_rejects_the_servers_proof_is_not_logged_in(home: Path, users: Path) -> None:
    session = LiveSession(home, users)
    client = ScramClient(["SCRAM-SHA-256"], "joe", "secret")
    client.set_server_first(challenge(session.ask(f"AUTH SCRAM-SHA-256 {b64(client.get_client_first())}")).decode())
    session.ask(b64(client.get_client_final()))
    assert session.ask("*") == b"501 auth exchange canceled (#5.0.0)"
    session.ask("MAIL FROM:<>")
    assert session.ask("RCPT TO:<u@evil.test>").startswith(b"553 ")
    session.finish()


@pytest.mark.parametrize("message", ["n,,n=joe", "p=tls-unique,,n=joe,r=abc", "x", "n,,n=jo=e,r=abc", "\xff"])
def test_an_invalid_scram_message_is_malformed(home: Path, users: Path, message: str) -> None:
    session = LiveSession(home, users)
    text = b64encode(message.encode("latin-1")).decode()
    assert session.ask(f"AUTH SCRAM-SHA-256 {text}") == b"501 malformed auth input (#5.5.4)"
    session.finish()
    with pytest.raises(ScramException):
        ScramClient(["SCRAM-SHA-256"], "joe", "x").set_server_first("nonsense")


def test_a_preloading_parent_does_not_cache_users(home: Path, users: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "rules.cdb", "127.:allow\n")
    words = ["-HRl0", "-x", str(rules), "--preload", "qmail-smtpd", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home), "SMTPAUTHFILE": str(users), "AUTHSLEEP": "0"}) as server:
        assert [reply_code(server.port, password) for password in ("secret", "other")] == [235, 535]
        users.write_text("joe:{PLAIN}other\n")
        assert [reply_code(server.port, password) for password in ("secret", "other")] == [535, 235]


def reply_code(port: int, password: str) -> int:
    """Return the reply code to a login of joe with this password."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("x")
        try:
            return client.login("joe", password)[0]
        except smtplib.SMTPAuthenticationError as refused:
            return refused.smtp_code
