"""qmail-popup with $POPAUTHSOCKET: Dovecot decides about USER and PASS, and conducts the exchanges of AUTH."""

import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit.maildrop import ENVIRON, Result
from tests.kit.peers.fakedovecot import FakeDovecot
from tests.kit.server import until
from tests.kit.support import script

CLIENT = {"TCPREMOTEIP": "192.0.2.1", "TCPREMOTEPORT": "4711", "HOME": "/root"}
SHOW = ["/bin/sh", "-c", 'echo "+OK $USER home=$HOME"; head -c 6; test ! -e /proc/$$/fd/3']
GREETED, OK, WRONG = b"+OK mx\r\n", b"+OK \r\n", b"-ERR authorization failed\r\n"
NOT_CHECKED = b"-ERR [SYS/TEMP] unable to check the password\r\n"
OFFER = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tSCRAM-SHA-256\nMECH\tXOAUTH2\nMECH\tEXTERNAL\n"
OFFER += b"MECH\tSCRAM-SHA-256-PLUS\nMECH\tOWN\tprivate\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"
IN = b"+OK Joe@Example.Org home=\n"
JOE = b64encode(b"\0joe\0secret")


def answer(words: list[bytes]) -> bytes | None:
    """Accept PLAIN with `secret`; challenge all else once, and accept the response `fine`."""
    number = words[1]
    if words[0] == b"AUTH" and words[2] == b"PLAIN" and (b"resp=" + JOE) in words:
        return b"OK\t%b\tuser=Joe@Example.Org\n" % number
    if words[0] == b"AUTH" and words[2] != b"PLAIN":
        return b"CONT\t%b\t%b\n" % (number, b64encode(b"who?"))
    if words == [b"CONT", number, b64encode(b"fine")]:
        return b"OK\t%b\tuser=Joe@Example.Org\n" % number
    return b"FAIL\t%b\tuser=joe\n" % number


@pytest.fixture
def dovecot(tmp_path: Path) -> Iterator[FakeDovecot]:
    with FakeDovecot(tmp_path, answer, OFFER) as dovecot:
        yield dovecot


def popup(path: Path, sent: bytes, environ: Mapping[str, str] | None = None, *words: str) -> Result:
    """Send everything at once to qmail-popup, whose program is SHOW. Return what follows the greeting."""
    whole = ENVIRON | CLIENT | {"POPAUTHSOCKET": str(path)} | dict(environ or {})
    command = [script("qmail-popup"), "mx", *(words or SHOW)]
    done = subprocess.run(command, input=sent, capture_output=True, env=whole, timeout=60)
    assert done.stdout.startswith(GREETED), done
    return Result(done.stdout.removeprefix(GREETED), done.stderr, done.returncode)


def test_user_and_pass_are_dovecots_plain_and_the_program_gets_the_rest(dovecot: FakeDovecot) -> None:
    assert popup(dovecot.path, b"USER joe\r\nPASS secret\r\nSTAT\r\n") == (OK + IN + b"STAT\r\n", b"", 1)
    (request,) = (line for line in dovecot.requests if line.startswith(b"AUTH"))
    assert b"\tPLAIN\tservice=pop3\tnologin\trip=192.0.2.1\trport=4711\tresp=" in request


@pytest.mark.parametrize(
    ("sent", "replies"),
    [
        (b"AUTH PLAIN " + JOE + b"\r\n", b""),
        (b"auth plain " + JOE + b"\n", b""),
        (b"AUTH SCRAM-SHA-256\r\n" + b64encode(b"fine") + b"\r\n", b"+ d2hvPw==\r\n"),
        (b"AUTH XOAUTH2 =\r\n" + b64encode(b"fine") + b"\r\n", b"+ d2hvPw==\r\n"),
    ],
)
def test_auth_logs_in(dovecot: FakeDovecot, sent: bytes, replies: bytes) -> None:
    assert popup(dovecot.path, sent + b"STAT\r\n") == (replies + IN + b"STAT\r\n", b"", 1)


def test_a_response_may_be_longer_than_a_command(dovecot: FakeDovecot) -> None:
    for size, reply in ((9000, WRONG), (9300, b"-ERR syntax error\r\n")):
        sent = b"AUTH XOAUTH2\r\n" + b64encode(b"x" * size) + b"\r\n"
        assert popup(dovecot.path, sent).stdout == b"+ d2hvPw==\r\n" + reply
    assert len([line for line in dovecot.requests if line.startswith(b"CONT")]) == 1


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (b"*", b"-ERR authentication cancelled\r\n"),
        (b"!", b"-ERR syntax error\r\n"),
        (b"QUIT", WRONG),  # base64, and no command
        (b"x" * 13000, b"-ERR syntax error\r\n"),
    ],
)
def test_a_response_is_no_command(dovecot: FakeDovecot, response: bytes, reply: bytes) -> None:
    sent = b"AUTH SCRAM-SHA-256\r\n" + response + b"\r\nNOOP\r\n"
    done = popup(dovecot.path, sent, {"POPAUTHTRIES": "2"})
    assert done.stdout == b"+ d2hvPw==\r\n" + reply + OK
    if reply != WRONG:
        until(lambda: dovecot.requests[-1].startswith(b"CANCEL\t"), lambda: dovecot.requests)


def test_failed_logins_count_are_logged_and_end_the_session(dovecot: FakeDovecot) -> None:
    sent = b"USER joe\r\nPASS wrong\r\nAUTH PLAIN AGpvZQB3cm9uZw==\r\nNOOP\r\n"
    done = popup(dovecot.path, sent, {"POPAUTHTRIES": "2"})
    assert done.stdout == OK + WRONG * 2
    assert done.stderr.count(b" ip=192.0.2.1 result=no reason=password user=joe\n") == 2


@pytest.mark.parametrize("loose", [False, True])
def test_without_tls_only_mechanisms_that_hide_the_password_are_offered(
    dovecot: FakeDovecot, tmp_path: Path, loose: bool
) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/servercert.pem").touch()
    if loose:
        (tmp_path / "control/popcleartext").touch()
    sent = b"CAPA\r\nAUTH\r\nAUTH XOAUTH2 eA==\r\nUSER joe\r\n"
    found = popup(dovecot.path, sent, {"QMAILHOME": str(tmp_path), "POPAUTHSOCKET": "auth"}).stdout
    names = [b"PLAIN", b"SCRAM-SHA-256", b"XOAUTH2"] if loose else [b"SCRAM-SHA-256"]
    first = b"USER\r\n" if loose else b""
    capabilities = first + b"SASL " + b" ".join(names) + b"\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\n.\r\n"
    listed = b"".join(name + b"\r\n" for name in names) + b".\r\n"
    refused = b"-ERR no plaintext login without TLS\r\n"
    # the exchange that is open takes USER as its response
    assert found == OK + capabilities + OK + listed + (b"+ d2hvPw==\r\n-ERR syntax error\r\n" if loose else refused * 2)


@pytest.mark.parametrize(
    "sent", [b"AUTH EXTERNAL\r\n", b"AUTH SCRAM-SHA-256-PLUS\r\n", b"AUTH OWN\r\n", b"AUTH x y\r\n"]
)
def test_other_mechanisms_are_refused(dovecot: FakeDovecot, sent: bytes) -> None:
    assert popup(dovecot.path, sent + b"APOP joe 0\r\n").stdout == (
        b"-ERR no such mechanism\r\n-ERR authorization first\r\n"
    )


@pytest.mark.parametrize("login", [b"USER joe\r\nPASS secret\r\n", b"AUTH PLAIN\r\n"])
def test_without_dovecot_there_is_no_login_and_one_line(tmp_path: Path, login: bytes) -> None:
    done = popup(tmp_path / "missing", b"CAPA\r\n" + login + b"NOOP\r\n")
    assert done.stdout.startswith(b"+OK \r\nTOP\r\n")
    assert done.stdout.endswith(NOT_CHECKED)
    assert done.stderr.count(b"reason=socket:file_does_not_exist") == done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "reply", [b"FAIL\t%b\tuser=joe\ttemp\n", b"FAIL\t%b\tuser=joe\tcode=temp_fail\n", b"x\n" * 300]
)
def test_a_failure_of_dovecot_is_no_wrong_password(tmp_path: Path, reply: bytes) -> None:
    def answer(words: list[bytes]) -> bytes:
        return reply % words[1] if b"%b" in reply else reply

    with FakeDovecot(tmp_path, answer) as dovecot:
        done = popup(dovecot.path, b"USER joe\r\nPASS secret\r\nNOOP\r\n")
    assert done.stdout == OK + NOT_CHECKED


@pytest.mark.parametrize("field", [b"nologin", b"proxy", b""])
def test_a_login_is_no_login_without_a_user_who_may_log_in_here(tmp_path: Path, field: bytes) -> None:
    user = b"user=joe\t" if field else b""
    with FakeDovecot(tmp_path, lambda words: b"OK\t%b\t%b%b\n" % (words[1], user, field)) as dovecot:
        done = popup(dovecot.path, b"USER joe\r\nPASS secret\r\n")
    assert done.stdout == OK + (WRONG if field else NOT_CHECKED)


@pytest.mark.parametrize("code", ["exit 1", "exit 111", "kill -9 $$"])
def test_a_program_that_fails_after_the_login_is_no_wrong_password(dovecot: FakeDovecot, code: str) -> None:
    done = popup(dovecot.path, b"USER joe\r\nPASS secret\r\nNOOP\r\n", {"POPAUTHTRIES": "3"}, "/bin/sh", "-c", code)
    assert done.stdout.startswith(OK + b"-ERR [SYS/TEMP] ")
    assert done.stdout.count(b"\n") == 2
