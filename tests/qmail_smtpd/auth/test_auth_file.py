"""$SMTPAUTHFILE: qmail-smtpd looks users up itself, and is the only one who can offer SCRAM-SHA-256."""

import hmac
import smtplib
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from scramp import ScramClient, ScramException

from qmail_smtpd.auth.secret import make
from tests.kit.login import FAILED, OK, TROUBLE, answers, b64, plain
from tests.kit.mailhome import CLIENT, CONTROL, lay_home, start, talk
from tests.kit.server import Server, compiled
from tests.kit.support import script

QUICK = 4096  # iterations: RFC 7677's least


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lay_home(tmp_path / "home", {**CONTROL, "authcleartext": ""})  # there is no TLS here


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    secrets = {"joe": make(b"SCRAM-SHA-256", b"secret", QUICK), "ann": make(b"PLAIN", b"secret")}
    file.write_text("".join(f"{name}:{secret.decode()}\n" for name, secret in secrets.items()))
    file.chmod(0o640)
    return file


def env(users: Path, **more: str) -> dict[str, str]:
    return {**CLIENT, "SMTPAUTHFILE": str(users), "AUTHSLEEP": "0", **more}


@pytest.mark.parametrize(
    ("smtpauth", "offered"),
    [
        ({}, b"250 AUTH LOGIN PLAIN SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "+cram"}, b"250 AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "!cram"}, b"250 AUTH CRAM-MD5 SCRAM-SHA-256\r\n"),
        ({"SMTPAUTH": "-"}, b"250 8BITMIME\r\n"),
    ],
)
def test_scram_is_offered_where_anything_is(home: Path, users: Path, smtpauth: dict[str, str], offered: bytes) -> None:
    assert offered in talk(home, "EHLO x\r\nQUIT\r\n", env(users, **smtpauth)).stdout


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
def test_a_password_is_looked_up(home: Path, users: Path, login: str, reply: bytes) -> None:
    result = talk(home, login + "MAIL FROM:<>\r\nRCPT TO:<u@evil.test>\r\nQUIT\r\n", env(users))
    assert reply in answers(result)
    assert answers(result)[-1].startswith(b"250" if reply == OK else b"553")


def test_words_are_not_run_where_there_is_a_file(home: Path, users: Path) -> None:
    result = talk(home, plain("joe", "wrong") + "QUIT\r\n", env(users), words=["/bin/true", "true"])
    assert answers(result) == [FAILED]


def test_the_file_is_read_at_the_login(home: Path, users: Path) -> None:
    session = Dialogue(home, users)
    assert session.say(plain("joe", "other").rstrip()) == FAILED
    users.write_text("joe:{PLAIN}other\n")
    assert session.say(plain("joe", "other").rstrip()) == OK
    session.end()


@pytest.mark.parametrize("trouble", ["missing", "everybody", "scheme", "directory"])
def test_what_is_wrong_with_the_file_is_no_wrong_password(home: Path, users: Path, trouble: str) -> None:
    if trouble == "missing":
        users.unlink()
    elif trouble == "everybody":
        users.chmod(0o644)
    elif trouble == "scheme":
        users.write_text("joe:{MD5}x\n")
    else:
        users.unlink()
        users.mkdir()
    result = talk(home, plain("joe") + "QUIT\r\n", env(users))
    assert answers(result) == [TROUBLE]
    [line] = [line for line in result.stderr.split(b"\n") if b"event=login" in line]
    assert b"result=no reason=" in line
    assert str(users).encode() in line


class Dialogue:
    """An AUTH exchange with a session that is there."""

    def __init__(self, home: Path, users: Path, **more: str) -> None:
        self.process = start(home, env(users, **more))
        self.hear()

    def hear(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip(b"\r\n")

    def say(self, line: str) -> bytes:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\r\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self) -> bytes:
        return self.process.communicate(b"QUIT\r\n")[1]


def challenge(reply: bytes) -> bytes:
    assert reply.startswith(b"334 "), reply
    return b64decode(reply[4:])


def test_cram_md5_is_for_those_whose_password_is_stored_itself(home: Path, users: Path) -> None:
    for user, reply in (("ann", OK), ("joe", FAILED), ("nobody", FAILED)):
        session = Dialogue(home, users, SMTPAUTH="cram")
        nonce = challenge(session.say("AUTH CRAM-MD5"))
        digest = hmac.new(b"secret", nonce, "md5").hexdigest()
        assert session.say(b64(f"{user} {digest}")) == reply
        session.end()


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("user", ["joe", "ann"])
def test_scram(home: Path, users: Path, user: str, initial: bool) -> None:
    session = Dialogue(home, users)
    client = ScramClient(["SCRAM-SHA-256"], user, "secret")
    first = b64(client.get_client_first())
    if initial:
        reply = session.say(f"AUTH SCRAM-SHA-256 {first}")
    else:
        assert session.say("AUTH SCRAM-SHA-256") == b"334 "
        reply = session.say(first)
    client.set_server_first(challenge(reply).decode())
    client.set_server_final(challenge(session.say(b64(client.get_client_final()))).decode())
    assert session.say("") == OK
    assert session.say("MAIL FROM:<>") == b"250 ok"
    assert session.say("RCPT TO:<u@evil.test>") == b"250 ok"
    assert f"result=yes mechanism=SCRAM-SHA-256 user={user}\n".encode() in session.end()


@pytest.mark.parametrize("user", ["joe", "ann", "nobody"])
def test_scram_tells_nobody_who_is_there(home: Path, users: Path, user: str) -> None:
    session = Dialogue(home, users)
    client = ScramClient(["SCRAM-SHA-256"], user, "wrong")
    client.set_server_first(challenge(session.say(f"AUTH SCRAM-SHA-256 {b64(client.get_client_first())}")).decode())
    assert session.say(b64(client.get_client_final())) == FAILED
    assert f"result=no reason=password mechanism=SCRAM-SHA-256 user={user}\n".encode() in session.end()


def test_a_client_of_scram_that_does_not_believe_the_server_is_not_logged_in(home: Path, users: Path) -> None:
    session = Dialogue(home, users)
    client = ScramClient(["SCRAM-SHA-256"], "joe", "secret")
    client.set_server_first(challenge(session.say(f"AUTH SCRAM-SHA-256 {b64(client.get_client_first())}")).decode())
    session.say(b64(client.get_client_final()))
    assert session.say("*") == b"501 auth exchange canceled (#5.0.0)"
    session.say("MAIL FROM:<>")
    assert session.say("RCPT TO:<u@evil.test>").startswith(b"553 ")
    session.end()


@pytest.mark.parametrize("nonsense", ["n,,n=joe", "p=tls-unique,,n=joe,r=abc", "x", "n,,n=jo=e,r=abc", "\xff"])
def test_nonsense_in_scram_is_malformed(home: Path, users: Path, nonsense: str) -> None:
    session = Dialogue(home, users)
    text = b64encode(nonsense.encode("latin-1")).decode()
    assert session.say(f"AUTH SCRAM-SHA-256 {text}") == b"501 malformed auth input (#5.5.4)"
    session.end()
    with pytest.raises(ScramException):
        ScramClient(["SCRAM-SHA-256"], "joe", "x").set_server_first("nonsense")


def test_a_preloading_parent_keeps_no_user(home: Path, users: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "rules.cdb", "127.:allow\n")
    words = ["-HRl0", "-x", str(rules), "--preload", "qmail-smtpd", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home), "SMTPAUTHFILE": str(users), "AUTHSLEEP": "0"}) as server:
        assert [code(server.port, password) for password in ("secret", "other")] == [235, 535]
        users.write_text("joe:{PLAIN}other\n")
        assert [code(server.port, password) for password in ("secret", "other")] == [535, 235]


def code(port: int, password: str) -> int:
    """What the server says to this password of joe's."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("x")
        try:
            return client.login("joe", password)[0]
        except smtplib.SMTPAuthenticationError as refused:
            return refused.smtp_code
