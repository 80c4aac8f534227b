"""qmail-popup with $POP3S: the whole session is under TLS, including the rest of the chain, which has no TLS."""

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
from tests.kit.maildrop import AS_NON_ROOT, ENVIRON, Maildir
from tests.kit.server import PATIENCE, has_ended, until
from tests.kit.support import script
from tests.kit.tlspeer import HOST, Client, certify, get_all, trusting

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
    """qmail-popup with a client under TLS: `with Session(certificate, [checker, prog], cwd) as session`."""

    def __init__(
        self, certificate: Path, words: Sequence[str], cwd: Path, environ: dict[str, str] | None = None
    ) -> None:
        base = {**ENVIRON, "POP3S": "1", "QMAILHOME": str(certificate.parent), "TCPREMOTEIP": "192.0.2.1"}
        self.process = subprocess.Popen(
            [*AS_NON_ROOT, script("qmail-popup"), "h", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=base | (environ or {}),
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

    def begin(self, sent: bytes = b"") -> "Session":
        """Do the TLS handshake, read the greeting, and send this."""
        self.client.handshake()
        greeting = self.client.receive_until(b"\r\n")
        assert re.fullmatch(GREETING, greeting)
        self.client.send(sent)
        return self

    def ask(self, text: bytes, end: bytes = b"\r\n") -> bytes:
        self.client.send(text + b"\r\n")
        return self.client.receive_until(end)

    def hang_up(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.stdin = None

    def end(self) -> tuple[bytes, int]:
        """Return what qmail-popup wrote to descriptor 2, and its exit code."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return stderr, self.process.returncode


@pytest.fixture
def session(certificate: Path, checker: Checker, tmp_path: Path) -> Iterator[Session]:
    """A session with qmail-pop3d and three messages, one of them 3 MB long."""
    maildir = Maildir(tmp_path / "Maildir")
    maildir.put("new/1.host", b"Subject: one\n\n.\n")
    maildir.put("new/2.host", b"Subject: two\n\n" + os.urandom(3_000_000))
    maildir.put("cur/3.host:2,S", b"Subject: three\n\n")
    with Session(certificate, [checker.path, script("qmail-pop3d"), "Maildir"], tmp_path) as session:
        yield session


def test_a_whole_session(session: Session, checker: Checker, tmp_path: Path) -> None:
    session.begin()
    assert b"\r\nUSER\r\n" in session.ask(b"CAPA", b".\r\n")
    assert session.ask(b"USER joe@example.com") == OK
    assert session.ask(b"PASS secret") == OK
    file = (tmp_path / "Maildir/new/2.host").read_bytes()
    assert session.ask(b"RETR 1", b"\r\n.\r\n") == OK + b"Subject: one\r\n\r\n..\r\n.\r\n"
    big = session.ask(b"RETR 2", b"\r\n.\r\n")
    assert big == OK + file.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").replace(b"\n.", b"\n..") + b"\r\n.\r\n"
    assert session.ask(b"DELE 3") == OK
    assert session.ask(b"QUIT") == OK
    assert session.client.receive() == b""  # close_notify
    assert session.end() == (b"", 1)
    assert sorted(path.name for path in tmp_path.glob("Maildir/*/*")) == ["1.host:2,", "2.host:2,"]
    assert checker.calls[0][0].startswith(b"joe@example.com\0secret\0<")


def test_input_byte_by_byte_and_in_one_record(session: Session, tmp_path: Path) -> None:
    session.begin()
    for byte in b"USER joe@example.com\r\nPASS sec":
        session.client.send(bytes((byte,)))
    session.client.send(b"ret\r\nLIST 1\r\nTOP 1 0\r\nQUIT\r\n")
    assert session.client.receive_all() == OK * 2 + b"+OK 1 19\r\n" + OK + b"Subject: one\r\n\r\n.\r\n" + OK
    assert session.end() == (b"", 1)


def test_a_client_that_sends_much_before_it_reads_is_served(session: Session) -> None:
    """Commands and replies exceed all buffers: there must be no deadlock."""
    session.begin(JOE)
    records = session.client.encrypt(b"RETR 2\r\n" + b"NOOP\r\n" * 60_000 + b"QUIT\r\n")
    writer = threading.Thread(target=session.client.put, args=(records,))
    writer.start()
    received = session.client.receive_all()
    writer.join()
    assert received.endswith(OK * 60_001)
    assert session.end() == (b"", 1)


def test_a_client_that_disconnects_ends_the_chain_and_removes_nothing(session: Session, tmp_path: Path) -> None:
    session.begin()
    for line in (b"USER joe@example.com", b"PASS secret", b"DELE 1"):
        assert session.ask(line) == OK
    session.hang_up()
    assert session.end() == (b"", 1)
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


def test_a_client_that_disconnects_during_a_message_ends_the_chain(session: Session, tmp_path: Path) -> None:
    session.begin(JOE + b"DELE 1\r\nRETR 2\r\n")
    assert session.process.stdout
    os.read(session.ends[0], 10)
    session.hang_up()
    session.process.stdout.close()
    session.process.stdout = None
    assert session.end()[1] == 1
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


def test_plaintext_within_tls_ends_the_chain(session: Session, tmp_path: Path) -> None:
    session.begin(JOE)
    assert session.client.receive_until(OK * 2).endswith(OK)
    assert session.ask(b"DELE 1") == OK
    session.client.put(b"QUIT\r\n" * 20)
    with pytest.raises(ssl.SSLError):
        session.client.receive_all()
    assert session.end()[1] == 1
    assert len(list(tmp_path.glob("Maildir/new/*"))) == 2


@pytest.mark.parametrize("behind", [b"", b"two\r\n"])
def test_close_notify_is_end_of_file_for_the_chain(
    certificate: Path, checker: Checker, tmp_path: Path, behind: bytes
) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo first; cat; echo last"], tmp_path) as session:
        session.begin(JOE + b"one\r\n")
        assert session.client.receive_until(b"one\r\n").endswith(b"first\none\r\n")
        words = session.client.encrypt(behind) if behind else b""
        with pytest.raises(ssl.SSLWantReadError):
            session.client.tls.unwrap()
        session.client.put(words + session.client.outgoing.read())
        assert session.client.receive_until(b"last\n") == behind + b"last\n"


def test_a_client_that_closes_its_sending_side_still_gets_the_rest(
    certificate: Path, checker: Checker, tmp_path: Path
) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo first; cat; echo last"], tmp_path) as session:
        session.begin(JOE + b"one\r\n")
        assert session.client.receive_until(b"one\r\n").endswith(b"first\none\r\n")
        session.hang_up()
        assert session.client.receive_all() == b"last\n"
        assert session.end() == (b"", 1)


def test_two_variables_show_the_chain_that_tls_is_used(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    code = 'echo "$TLS_PROTOCOL $TLS_CIPHER $POP3S"; ls /proc/self/fd; test -S /proc/self/fd/0 && echo socket'
    with Session(certificate, [checker.path, "sh", "-c", code], tmp_path) as session:
        session.begin(JOE)
        received = session.client.receive_all().removeprefix(OK)
        assert re.fullmatch(rb"TLSv1\.\d [A-Z0-9_-]+ 1\n0\n1\n2\n3\n4\nsocket\n", received), received


def test_the_reply_to_a_wrong_password_is_under_tls(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        session.begin(b"USER x\r\nPASS y\r\nNOOP\r\n")
        assert session.client.receive_all() == OK + WRONG
        stderr, code = session.end()
        assert (code, stderr.endswith(b"result=no reason=password user=x\n")) == (1, True)


def test_input_after_a_wrong_password_is_not_lost(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "sh", "-c", "echo in; cat"], tmp_path, {"POPAUTHTRIES": "2"}) as session:
        session.begin(b"USER x\r\nPASS y\r\n" + JOE + b"more\r\n")
        assert session.client.receive_until(b"more\r\n") == OK + WRONG + OK + b"in\nmore\r\n"
        session.hang_up()
        assert session.client.receive_all() == b""


def test_the_reply_to_a_crash_is_under_tls(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        session.begin(b"USER crash\r\nPASS y\r\n")
        assert session.client.receive_all() == OK + b"-ERR [SYS/TEMP] aack, child crashed\r\n"


def test_the_reply_about_an_unrunnable_checker_is_under_tls(certificate: Path, tmp_path: Path) -> None:
    with Session(certificate, ["/nonexistent"], tmp_path) as session:
        session.begin(JOE)
        assert session.client.receive_all() == OK + b"-ERR [SYS/TEMP] unable to check the password\r\n"


def test_quit_before_a_login_sends_close_notify(certificate: Path, tmp_path: Path) -> None:
    with Session(certificate, ["true"], tmp_path) as session:
        session.begin()
        assert session.ask(b"QUIT") == OK
        assert session.client.receive() == b""
        assert session.end() == (b"", 1)


def test_a_client_without_tls_gets_nothing_in_plaintext(certificate: Path, checker: Checker, tmp_path: Path) -> None:
    with Session(certificate, [checker.path, "cat"], tmp_path) as session:
        os.write(session.ends[1], JOE)
        received = get_all(session.ends[0])
        alert = rb"\x15\x03.\x00\x02\x02."
        assert received == b"" or re.fullmatch(alert, received, re.DOTALL), received
        stderr, code = session.end()
        assert re.fullmatch(rb"qmail-popup: event=refused pid=\d+ ip=192\.0\.2\.1 reason=tls:\S+\n", stderr)
        assert code == 1
    assert checker.calls == []


@pytest.mark.parametrize("environ", [{"POP3S": ""}, {"POP3S": "1", "QMAILHOME": "/nonexistent"}])
def test_without_a_certificate_nothing_is_sent_in_plaintext(
    certificate: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with Session(certificate, ["true"], tmp_path, environ) as session:
        if environ["POP3S"]:
            stderr, code = session.end()
            assert (stderr[:31], code) == (b"qmail-popup: fatal: no TLS: una", 111)
        else:  # an empty POP3S means no TLS
            assert re.fullmatch(GREETING, os.read(session.ends[0], 1000))


def test_tls_is_refused_for_root(certificate: Path) -> None:
    words = ["unshare", "--user", "--map-root-user", script("qmail-popup"), "h", "true"]
    environ = {**ENVIRON, "POP3S": "1", "QMAILHOME": str(certificate.parent)}
    done = subprocess.run(words, input=b"", capture_output=True, env=environ)
    text = b"qmail-popup: fatal: POP3S is not for root: start tcpserver with -u\n"
    assert (done.stdout, done.stderr, done.returncode) == (b"", text, 100)


def test_the_chain_ends_when_popup_is_killed(session: Session, tmp_path: Path) -> None:
    """The checker's process gets end of file when the process that decrypts is killed."""
    session.begin(JOE)
    assert session.client.receive_until(OK * 2).endswith(OK)
    children = Path(f"/proc/{session.process.pid}/task/{session.process.pid}/children").read_text().split()
    assert len(children) == 1
    session.process.kill()
    until(lambda: has_ended(int(children[0])))


def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(
    certificate: Path, checker: Checker, tmp_path: Path
) -> None:
    folder = tmp_path / "control/servercerts" / HOST
    folder.mkdir(parents=True)
    named, _ = certify(folder)
    for name in ("servercert.pem", "serverkey.pem"):
        shutil.copy(certificate.parent / "control" / name, tmp_path / "control" / name)
    with Session(named, [checker.path, "true"], tmp_path, {"QMAILHOME": str(tmp_path)}) as session:
        session.begin(b"USER joe\r\n")
        assert session.ask(b"PASS wrong") == OK
        assert session.client.receive() == WRONG
        assert session.end()[0].endswith(b" result=no reason=password user=joe sni=mx.example.org\n")
