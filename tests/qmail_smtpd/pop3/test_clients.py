"""The whole chain under tcpserver, exec'd and preloaded, with poplib, curl, fetchmail, mpop and openssl as clients."""

import os
import poplib
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit.maildrop import AS_NON_ROOT, Maildir
from tests.kit.mailhome import make_home
from tests.kit.server import PATIENCE, Server, needs_root, read_all
from tests.kit.support import ROOT, free_port, peer, script
from tests.kit.tlspeer import certify, trusting
from tests.kit.tracer import traced

SCRIPTS = str(Path(script("qmail-popup")).parent)
PRELOAD = [word for name in ("qmail-popup", "checkusers", "qmail-pop3d") for word in ("--preload", name)]
MODES = {"exec'd": ["--exec"], "preloaded": PRELOAD}
USERS = "joe:{{PLAIN}}secret::::{home}\nann:{{SCRAM-SHA-256}}4096,b2tMQlo=,x,y\n"
MESSAGES = {
    "cur/1.host:2,S": b"Subject: one\nFrom: a@example.com\n\nthe first\n.\n..two dots\n",
    "new/2.host": b"Subject: two\nFrom: b@example.com\n\n"
    + b"\xe4\xf6\xfc 8 bits\n"
    + b"x" * 3000
    + b"\nno end of line",
}
RECEIVED = [text.replace(b"\n", b"\r\n") for text in MESSAGES.values()]
RECEIVED[1] += b"\r\n"


class Pop:
    """A server of the chain with one user, joe, whose password is secret, and a `maildir` with two messages."""

    def __init__(
        self,
        folder: Path,
        options: list[str],
        tls: Path | None = None,
        program: list[str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.maildir = Maildir(folder / "Maildir")
        for age, (name, text) in enumerate(MESSAGES.items()):
            self.maildir.put(name, text, 7200 - age)
        users = folder / "users"
        users.write_text(USERS.format(home=folder))
        users.chmod(0o600)
        environ = {"PATH": f"{SCRIPTS}:/usr/bin:/bin", "CHECKUSERS_FILE": str(users), "QMAILHOME": str(tls or folder)}
        environ |= {"POP3S": "1"} if tls else {}
        environ |= dict(variables or {})
        words = ["-HRl", "mx", "-c", "100", *options, "127.0.0.1", "0", "qmail-popup", "mx.example.org", "checkusers"]
        words += program or ["qmail-pop3d", "Maildir"]
        self.server = Server(words, environ=environ, before=AS_NON_ROOT)

    def __enter__(self) -> "Pop":
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()

    def login(self) -> poplib.POP3:
        client = poplib.POP3("127.0.0.1", self.server.port, PATIENCE)
        client.user("joe")
        client.pass_("secret")
        return client


@pytest.fixture(params=MODES)
def pop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pop]:
    with Pop(tmp_path, MODES[request.param]) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qmail home with a certificate."""
    home = tmp_path_factory.mktemp("home")
    (home / "control").mkdir()
    certificate, key = certify(home)
    shutil.copy(certificate, home / "control/servercert.pem")
    shutil.copy(key, home / "control/serverkey.pem")
    return home


@pytest.fixture(params=MODES)
def secure(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[Pop]:
    with Pop(tmp_path, MODES[request.param], home) as server:
        yield server


def test_poplib_reads_and_removes(pop: Pop) -> None:
    client = pop.login()
    assert client.stat() == (2, len(b"".join(RECEIVED)))
    assert client.list()[1] == [b"%d %d" % (number, len(text)) for number, text in enumerate(RECEIVED, 1)]
    assert client.uidl()[1] == [b"1 1.host", b"2 2.host"]
    assert set(client.capa()) == {"TOP", "UIDL", "RESP-CODES", "PIPELINING"}
    assert client.top(1, 1)[1] == [b"Subject: one", b"From: a@example.com", b"", b"the first"]
    first = client.retr(1)
    assert b"\r\n".join(first[1]) + b"\r\n" == RECEIVED[0]
    assert first[2] == len(RECEIVED[0])
    client.dele(1)
    client.rset()
    client.dele(2)
    client.noop()
    assert client.quit() == b"+OK "
    assert pop.maildir.names() == {"cur/1.host:2,S"}


def test_poplib_logs_in_by_apop(pop: Pop) -> None:
    client = poplib.POP3("127.0.0.1", pop.server.port, PATIENCE)
    assert client.apop("joe", "secret") == b"+OK "
    assert client.stat()[0] == 2
    client.quit()


@pytest.mark.parametrize(("user", "password"), [("joe", "wrong"), ("nobody", "secret"), ("joe", ""), ("", "secret")])
def test_a_wrong_login_is_refused(user: str, password: str, pop: Pop) -> None:
    reply = pop.server.ask(f"USER {user}\r\nPASS {password}\r\nSTAT\r\n".encode())
    assert b"+OK 2" not in reply
    assert b"-ERR" in reply


LAST_REPLIES = {  # input, sent at once -> the end of the last reply; the server does not read the rest
    "a wrong password": (b"USER nobody\r\nPASS secret\r\nSTAT\r\n", b"-ERR authorization failed\r\n"),
    "no password": (b"QUIT\r\nSTAT\r\n", b"+OK \r\n"),
    "no Maildir": (b"USER joe\r\nPASS secret\r\nSTAT\r\n", b"-ERR this user has no $HOME/Maildir\r\n"),
    "much input after QUIT": (b"USER joe\r\nPASS secret\r\nQUIT\r\n" + b"NOOP\r\n" * 5000, b"+OK \r\n"),
}


@pytest.mark.parametrize("case", LAST_REPLIES)
def test_the_last_reply_is_followed_by_an_end_and_not_by_a_reset(case: str, pop: Pop) -> None:
    """Closing a socket with unread input resets the connection, and the client may lose the last reply."""
    sent, last = LAST_REPLIES[case]
    if case == "no Maildir":
        pop.maildir.path.rename(pop.maildir.path.with_name("elsewhere"))
    with pop.server.connect() as client:
        client.sendall(sent)
        received = b""
        while part := client.recv(65536):  # ConnectionResetError is a failure
            received += part
    assert received.endswith(last)


def test_a_malformed_users_entry_is_not_reported_as_a_wrong_password(pop: Pop) -> None:
    reply = pop.server.ask(b"USER ann\r\nPASS secret\r\n")
    assert reply.endswith(b"-ERR [SYS/TEMP] unable to check the password\r\n")


def test_pipelined_commands_are_all_answered(pop: Pop) -> None:
    reply = pop.server.ask(b"USER joe\r\nPASS secret\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
    stuffed = RECEIVED[0].replace(b"\n.", b"\n..")
    size = len(b"".join(RECEIVED))
    expected = b"+OK \r\n" * 2 + b"+OK 2 %d\r\n+OK \r\n" % size + stuffed + b".\r\n" + b"+OK \r\n" * 2
    assert reply.partition(b">\r\n")[2] == expected


@pytest.mark.peer
def test_a_preloaded_chain_runs_without_an_exec(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with Pop(tmp_path / "site", PRELOAD) as pop:
        with traced(pop.server.pid, "-e", "trace=execve", "-o", trace):
            assert pop.login().quit() == b"+OK "
        assert "execve" not in trace.read_text()


def test_many_logins_at_once(pop: Pop) -> None:
    clients = [pop.login() for _ in range(15)]
    assert [client.stat()[0] for client in clients] == [2] * 15
    assert [client.quit() for client in clients] == [b"+OK "] * 15
    assert pop.maildir.names() == {"cur/1.host:2,S", "cur/2.host:2,"}


# -- real clients


def curl(pop: Pop, path: str, *words: str) -> bytes:
    scheme, host = ("pop3s", "localhost") if "--cacert" in words else ("pop3", "127.0.0.1")
    url = f"{scheme}://{host}:{pop.server.port}/{path}"
    command = [peer("/usr/bin/curl"), "-sS", "--user", "joe:secret", "--max-time", "20", *words, url]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout


@pytest.mark.peer
def test_curl_lists_fetches_and_removes(pop: Pop) -> None:
    lengths = [len(text) for text in RECEIVED]
    assert curl(pop, "") == b"1 %d\r\n2 %d\r\n" % (lengths[0], lengths[1])
    assert [curl(pop, str(number)) for number in (1, 2)] == RECEIVED
    assert curl(pop, "", "-X", "UIDL") == b"1 1.host\r\n2 2.host\r\n"
    assert curl(pop, "1", "-X", "DELE", "-l") == b""
    assert pop.maildir.names() == {"cur/2.host:2,"}


@pytest.mark.peer
@pytest.mark.parametrize("mode", MODES)
def test_popnoapop_lets_a_client_that_prefers_apop_use_a_hashed_password(mode: str, tmp_path: Path) -> None:
    """curl tries only APOP if the greeting has a challenge."""
    with Pop(tmp_path, MODES[mode], variables={"POPNOAPOP": "1"}) as pop:
        environ = {"CHECKUSERS_FILE": str(tmp_path / "users")}
        subprocess.run([script("checkusers"), "--set", "joe"], input=b"secret\n", env=environ, check=True)
        users = tmp_path / "users"
        text = re.sub(r"(?m)^(joe:[^:\n]*).*", rf"\1::::{tmp_path}", users.read_text())
        assert "joe:{SCRAM-SHA-256}" in text
        users.write_text(text)
        assert [curl(pop, str(number)) for number in (1, 2)] == RECEIVED


@pytest.mark.peer
def test_curl_with_pop3s(secure: Pop, home: Path) -> None:
    trust = ("--cacert", str(home / "control/servercert.pem"))
    assert [curl(secure, str(number), *trust) for number in (1, 2)] == RECEIVED


@pytest.mark.peer
def test_poplib_with_pop3s(secure: Pop, home: Path) -> None:
    client = poplib.POP3_SSL(
        "localhost", secure.server.port, timeout=PATIENCE, context=trusting(home / "control/servercert.pem")
    )
    client.user("joe")
    client.pass_("secret")
    assert client.stat() == (2, len(b"".join(RECEIVED)))
    client.dele(1)
    client.quit()
    assert secure.maildir.names() == {"cur/2.host:2,"}


@pytest.mark.peer
def test_openssl_s_client(secure: Pop, home: Path) -> None:
    command = [peer("/usr/bin/openssl"), "s_client", "-quiet", "-verify_return_error", "-connect"]
    command += [f"127.0.0.1:{secure.server.port}", "-CAfile", str(home / "control/servercert.pem")]
    sent = b"USER joe\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(sent)
        client.stdin.flush()  # at the end of its input it would disconnect
        received = client.stdout.read()
    assert received.endswith(RECEIVED[0].replace(b"\n.", b"\n..") + b".\r\n+OK \r\n")


@pytest.mark.peer
def test_mpop_fetches_each_message_once(pop: Pop, tmp_path: Path) -> None:
    place = Maildir(tmp_path / "fetched")
    command = [peer("/usr/bin/mpop"), "--host=127.0.0.1", f"--port={pop.server.port}", "--user=joe", "--tls=off"]
    command += ["--passwordeval=echo secret", "--auth=user", f"--delivery=maildir,{place.path}", "--keep=on"]
    command += [f"--uidls-file={tmp_path}/uidls", "--received-header=off", "--quiet", "--timeout=20"]
    for _ in range(2):
        subprocess.run(command, check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
        assert sorted(path.read_bytes() for path in place.path.glob("new/*")) == sorted(
            text.replace(b"\r\n", b"\n") for text in RECEIVED
        )
    subprocess.run([*command, "--keep=off"], check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert pop.maildir.names() == set()


@pytest.mark.peer
@pytest.mark.parametrize("protocol", ["pop3", "apop"])
def test_fetchmail_fetches_and_removes_and_then_finds_no_mail(protocol: str, pop: Pop, tmp_path: Path) -> None:
    rc = tmp_path / "fetchmailrc"
    rc.write_text(
        f"set idfile {tmp_path}/ids\nset no bouncemail\n"
        f'poll 127.0.0.1 port {pop.server.port} proto {protocol} uidl timeout 20 user "joe" password "secret" '
        f'sslproto "" no rewrite no keep mda "cat >>{tmp_path}/mbox && echo END >>{tmp_path}/mbox"\n'
    )
    rc.chmod(0o600)
    command = [
        peer("/usr/bin/fetchmail"),
        "-f",
        str(rc),
        "--pidfile",
        str(tmp_path / "pid"),
        "--invisible",
        "--nosyslog",
    ]
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "FETCHMAILHOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, env=environ, text=True)
    assert done.returncode == 0, done
    texts = (tmp_path / "mbox").read_bytes().split(b"END\n")
    assert [text.partition(b"\n\n")[2] for text in texts[:2]] == [
        text.replace(b"\r\n", b"\n").partition(b"\n\n")[2] for text in RECEIVED
    ]
    assert pop.maildir.names() == set()
    assert subprocess.run(command, capture_output=True, env=environ).returncode == 1  # fetchmail(1): no mail


# -- from SMTP to POP3


def test_mail_that_came_by_smtp_is_read_unchanged(pop: Pop, tmp_path: Path) -> None:
    body = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") * 40
    """But for a CR before a line end: the file then has CR LF, which POP3 takes for one line end, as Dovecot does."""
    message = b"Subject: t\r\n\r\n.\r\n..\r\n.x\r\n\r\n" + body + b"\r\na\rb\r\n\0\r\n" + b"y" * 100_000 + b"\r\n"
    qmail = make_home(tmp_path / "qmail")
    environ = {
        "PATH": os.environ["PATH"],
        "QMAILHOME": str(qmail),
        "QMAILQUEUE": script("maildir-queue"),
        "QUEUE_MAILDIR": str(pop.maildir.path),
    }
    commands = b"EHLO c\r\nMAIL FROM:<s@x.test>\r\nRCPT TO:<u@example.com>\r\nDATA\r\n"
    commands += re.sub(rb"(?m)^\.", b"..", message) + b".\r\nQUIT\r\n"
    done = subprocess.run([script("qmail-smtpd")], input=commands, capture_output=True, env=environ)
    assert b"\r\n250 ok " in done.stdout
    stored = next(path for path in pop.maildir.path.glob("new/*") if path.name != "2.host")
    then = time.time() - 60
    os.utime(stored, (then, then))
    with socket.create_connection(("127.0.0.1", pop.server.port), PATIENCE) as client:
        client.sendall(b"USER joe\r\nPASS secret\r\nRETR 3\r\nQUIT\r\n")
        replies = read_all(client)
    received = replies.removesuffix(b".\r\n+OK \r\n").replace(b"\r\n.", b"\r\n")
    assert received.endswith(b"\r\n" + message)


def test_an_untrusted_certificate_ends_the_connection(secure: Pop) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        poplib.POP3_SSL("localhost", secure.server.port, timeout=PATIENCE, context=ssl.create_default_context())
    assert secure.maildir.names() == set(MESSAGES)


@needs_root
@pytest.mark.parametrize("service", ["pop3", "pop3s"])
def test_the_run_script_serves_and_records_the_login(service: str, tmp_path: Path, home: Path) -> None:
    """It runs as nobody, in a user namespace that maps this user to nobody."""
    maildir = Maildir(tmp_path / "Maildir")
    maildir.put("new/1.host", MESSAGES["new/2.host"])
    (tmp_path / "relay").mkdir()
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mail.example.org\n")
    (tmp_path / "control/users").write_text(USERS.format(home=tmp_path))
    (tmp_path / "control/users").chmod(0o600)
    if service == "pop3s":
        shutil.copytree(home / "control", tmp_path / "control", dirs_exist_ok=True)
    environ = {"PATH": f"{SCRIPTS}:/usr/bin:/bin", "QMAILHOME": str(tmp_path), "RELAY_DIR": str(tmp_path / "relay")}
    environ |= {
        "RELAY_PROXIES": "192.0.2.1",
        "ACCOUNT": "nobody",
        "ADDRESS": "127.0.0.1",
        "PORT": str(free_port()),
    }
    namespace = ["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"]
    command = [*namespace, str(ROOT / "examples" / service / "run")]
    trust = trusting(home / "control/servercert.pem")
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as server:
        assert server.stdout
        try:
            assert server.stdout.readline() == b"tcpserver: status: 0/100\n"
            if service == "pop3":
                client = poplib.POP3("127.0.0.1", int(environ["PORT"]), PATIENCE)
            else:
                client = poplib.POP3_SSL("localhost", int(environ["PORT"]), timeout=PATIENCE, context=trust)
            client.user("joe")
            client.pass_("secret")
            assert client.stat()[0] == 1
            client.quit()
        finally:
            server.terminate()
    assert b" joe" in (tmp_path / "relay/127.0.0.1").read_bytes()
    assert maildir.names() == {"cur/1.host:2,"}
