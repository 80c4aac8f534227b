"""qmail-popup with $POP3S: everything under TLS, the chain behind it included, which speaks none."""

import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kit.checker import Checker
from tests.kit.maildrop import AS_SOMEBODY, ENVIRON, Maildir
from tests.kit.server import PATIENCE, until
from tests.kit.support import script
from tests.kit.tlspeer import Client, certify, get_all, trusting

GREETING = rb"\+OK <\d+\.\d+@h>\r\n"
OK = b"+OK \r\n"
WRONG = b"-ERR authorization failed\r\n"
JOE = b"USER joe@example.com\r\nPASS secret\r\n"

pytestmark = pytest.mark.peer  # openssl makes the certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qmail home with a certificate."""
    home = tmp_path_factory.mktemp("home")
    (home / "control").mkdir()
    found, key = certify(home)
    shutil.copy(found, home / "control/servercert.pem")
    shutil.copy(key, home / "control/serverkey.pem")
    return found


@pytest.fixture
def checker(tmp_path: Path) -> Checker:
    return Checker(tmp_path / "checker")


class Session:
    """qmail-popup with a client under TLS. `with Session(certificate, [checker, prog], cwd) as session`."""

    def __init__(
        self, certificate: Path, words: Sequence[str], cwd: Path, environ: dict[str, str] | None = None
    ) -> None:
        found = {**ENVIRON, "POP3S": "1", "QMAILHOME": str(certificate.parent), "TCPREMOTEIP": "192.0.2.1"}
        self.process = subprocess.Popen(
            [*AS_SOMEBODY, script("qmail-popup"), "h", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=found | (environ or {}),
        )
        assert self.process.stdin
        assert self.process.stdout
        self.ends = self.process.stdout.fileno(), self.process.stdin.fileno()
        self.client = Client(self.ends, trusting(certificate))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def begin(self, said: bytes = b"") -> "Session":
        """Shake hands, read the greeting, say this."""
        self.client.shake_hands()
        greeting = self.client.hear_until(b"\r\n")
        assert re.fullmatch(GREETING, greeting)
        self.client.say(said)
        return self

    def ask(self, text: bytes, end: bytes = b"\r\n") -> bytes:
        self.client.say(text + b"\r\n")
        return self.client.hear_until(end)

    def hang_up(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.stdin = None

    def end(self) -> tuple[bytes, int]:
        """What it said on descriptor 2, and its exit code."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return stderr, self.process.returncode


@pytest.fixture
def whole(certificate: Path, checker: Checker, tmp_path: Path) -> Iterator[Session]:
    """A session with qmail-pop3d behind it, and three messages, one of 3 MB."""
    maildir = Maildir(tmp_path / "Maildir")
    maildir.put("new/1.host", b"Subject: one\n\n.\n")
    maildir.put("new/2.host", b"Subject: two\n\n" + os.urandom(3_000_000))
    maildir.put("cur/3.host:2,S", b"Subject: three\n\n")
    with Session(certificate, [checker.path, script("qmail-pop3d"), "Maildir"], tmp_path) as session:
        yield session


def test_a_whole_session(whole: Session, checker: Checker, tmp_path: Path) -> None:
    whole.begin()
    assert b"\r\nUSER\r\n" in whole.ask(b"CAPA", b".\r\n")
    assert whole.ask(b"USER joe@example.com") == OK
    assert whole.ask(b"PASS secret") == OK
    file = (tmp_path / "Maildir/new/2.host").read_bytes()
    assert whole.ask(b"RETR 1", b"\r\n.\r\n") == OK + b"Subject: one\r\n\r\n..\r\n.\r\n"
    big = whole.ask(b"RETR 2", b"\r\n.\r\n")
    assert big == OK + file.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..") + b"\r\n.\r\n"
    assert whole.ask(b"DELE 3") == OK
    assert whole.ask(b"QUIT") == OK
    assert whole.client.hear() == b""  # close_notify
    assert whole.end() == (b"", 1)
    assert sorted(path.name for path in tmp_path.glob("Maildir/*/*")) == ["1.host:2,", "2.host:2,"]
    assert checker.asked[0][0].startswith(b"joe@example.com\0secret\0<")


def test_all_in_one_record_and_byte_by_byte(whole: Session, tmp_path: Path) -> None:
    whole.begin()
    for byte in b"USER joe@example.com\r\nPASS sec":
        whole.client.say(bytes((byte,)))
    whole.client.say(b"ret\r\nLIST 1\r\nTOP 1 0\r\nQUIT\r\n")
    assert whole.client.hear_all() == OK * 2 + b"+OK 1 19\r\n" + OK + b"Subject: one\r\n\r\n.\r\n" + OK
    assert whole.end() == (b"", 1)


def test_a_client_that_talks_much_and_listens_late_is_served(whole: Session) -> None:
    """More commands than all buffers take, with more answers than all buffers take: nobody waits for the other."""
    whole.begin(JOE)
    records = whole.client.sealed(b"RETR 2\r\n" + b"NOOP\r\n" * 60_000 + b"QUIT\r\n")
    talker = threading.Thread(target=whole.client.put, args=(records,))
    talker.start()
    told = whole.client.hear_all()
    talker.join()
    assert told.endswith(OK * 60_001)
    assert whole.end() == (b"", 1)


def test_a_client_that_goes_away_ends_the_chain_and_removes_nothing(whole: Session, tmp_path: Path) -> None:
    whole.begin()
    for line in (b"USER joe@example.com", b"PASS secret", b"DELE 1"):
        assert whole.ask(line) == OK
    whole.hang_up()
    assert whole.end() == (b"", 1)
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


def test_a_client_that_goes_away_in_a_message_ends_the_chain(whole: Session, tmp_path: Path) -> None:
    whole.begin(JOE + b"DELE 1\r\nRETR 2\r\n")
    assert whole.process.stdout
    os.read(whole.ends[0], 10)
    whole.hang_up()
    whole.process.stdout.close()
    whole.process.stdout = None
    assert whole.end()[1] == 1
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


def test_what_is_no_tls_in_the_middle_ends_the_chain(whole: Session, tmp_path: Path) -> None:
    whole.begin(JOE)
    assert whole.client.hear_until(OK * 2).endswith(OK)
    assert whole.ask(b"DELE 1") == OK
    whole.client.put(b"QUIT\r\n" * 20)
    with pytest.raises(ssl.SSLError):
        whole.client.hear_all()
    assert whole.end()[1] == 1
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


@pytest.mark.parametrize("behind", [b"", b"two\r\n"])
def test_the_chain_hears_the_goodbye_of_a_client_that_stays(
    certificate: Path, checker: Checker, tmp_path: Path, behind: bytes
) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo first; cat; echo last"], tmp_path) as session:
        session.begin(JOE + b"one\r\n")
        assert session.client.hear_until(b"one\r\n").endswith(b"first\none\r\n")
        words = session.client.sealed(behind) if behind else b""
        with pytest.raises(ssl.SSLWantReadError):
            session.client.tls.unwrap()
        session.client.put(words + session.client.outgoing.read())
        assert session.client.hear_until(b"last\n") == behind + b"last\n"


def test_the_chain_hears_the_end_of_a_client_that_still_listens(
    certificate: Path, checker: Checker, tmp_path: Path
) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo first; cat; echo last"], tmp_path) as session:
        session.begin(JOE + b"one\r\n")
        assert session.client.hear_until(b"one\r\n").endswith(b"first\none\r\n")
        session.hang_up()
        assert session.client.hear_all() == b"last\n"
        assert session.end() == (b"", 1)


def test_the_chain_knows_of_tls_by_two_variables(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    code = 'echo "$TLS_PROTOCOL $TLS_CIPHER $POP3S"; ls /proc/self/fd; test -S /proc/self/fd/0 && echo socket'
    with Session(certificate, [checker.path, "sh", "-c", code], tmp_path) as session:
        session.begin(JOE)
        told = session.client.hear_all().removeprefix(OK)
        assert re.fullmatch(rb"TLSv1\.\d [A-Z0-9_-]+ 1\n0\n1\n2\n3\n4\nsocket\n", told), told


def test_a_wrong_password_is_told_under_tls(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        session.begin(b"USER x\r\nPASS y\r\nNOOP\r\n")
        assert session.client.hear_all() == OK + WRONG
        stderr, code = session.end()
        assert (code, stderr.endswith(b"result=no reason=password user=x\n")) == (1, True)


def test_what_is_said_behind_a_wrong_password_is_not_lost(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo in; cat"], tmp_path, {"POPAUTHTRIES": "2"}) as session:
        session.begin(b"USER x\r\nPASS y\r\n" + JOE + b"more\r\n")
        assert session.client.hear_until(b"more\r\n") == OK + WRONG + OK + b"in\nmore\r\n"
        session.hang_up()
        assert session.client.hear_all() == b""


def test_a_crash_is_told_under_tls(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        session.begin(b"USER crash\r\nPASS y\r\n")
        assert session.client.hear_all() == OK + b"-ERR [SYS/TEMP] aack, child crashed\r\n"


def test_an_unrunnable_checker_is_told_under_tls(certificate: Path, tmp_path: Path) -> None:
    with Session(certificate, ["/nonexistent"], tmp_path) as session:
        session.begin(JOE)
        assert session.client.hear_all() == OK + b"-ERR [SYS/TEMP] unable to check the password\r\n"


def test_quit_before_a_login_says_goodbye_to_tls_as_well(certificate: Path, tmp_path: Path) -> None:
    with Session(certificate, ["true"], tmp_path) as session:
        session.begin()
        assert session.ask(b"QUIT") == OK
        assert session.client.hear() == b""
        assert session.end() == (b"", 1)


def test_who_speaks_no_tls_hears_nothing_in_clear(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        os.write(session.ends[1], JOE)
        heard = get_all(session.ends[0])
        assert heard == b"" or re.fullmatch(rb"\x15\x03.\x00\x02\x02.", heard, re.DOTALL), heard  # an alert at most
        stderr, code = session.end()
        assert re.fullmatch(rb"qmail-popup: event=refused pid=\d+ ip=192\.0\.2\.1 reason=tls:\S+\n", stderr)
        assert code == 1
    assert checker.asked == []


@pytest.mark.parametrize("environ", [{"POP3S": ""}, {"POP3S": "1", "QMAILHOME": "/nonexistent"}])
def test_without_a_certificate_nothing_is_said_in_clear(
    certificate: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with Session(certificate, ["true"], tmp_path, environ) as session:
        if environ["POP3S"]:
            stderr, code = session.end()
            assert (stderr[:31], code) == (b"qmail-popup: fatal: no TLS: una", 111)
        else:  # empty is off
            assert re.fullmatch(GREETING, os.read(session.ends[0], 1000))


def test_root_may_not_speak_tls(certificate: Path) -> None:
    words = ["unshare", "--user", "--map-root-user", script("qmail-popup"), "h", "true"]
    environ = {**ENVIRON, "POP3S": "1", "QMAILHOME": str(certificate.parent)}
    done = subprocess.run(words, input=b"", capture_output=True, env=environ)
    text = b"qmail-popup: fatal: POP3S is not for root: start tcpserver with -u\n"
    assert (done.stdout, done.stderr, done.returncode) == (b"", text, 100)


def test_the_chain_is_gone_when_popup_is(whole: Session, tmp_path: Path) -> None:
    """The checker's process sees the end of its connection when the one that decrypts is killed."""
    whole.begin(JOE)
    assert whole.client.hear_until(OK * 2).endswith(OK)
    children = Path(f"/proc/{whole.process.pid}/task/{whole.process.pid}/children").read_text().split()
    assert len(children) == 1
    whole.process.kill()
    until(lambda: not Path(f"/proc/{children[0]}/status").exists())
