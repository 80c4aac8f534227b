"""A process that serves one client after the other holds nothing of a client's password once the client is gone.

The memory of the process is searched, with glibc and the server's own setting of its allocator.
"""

import os
import re
import smtplib
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.fakedovecot import FakeDovecot
from tests.kit.server import Server, children
from tests.kit.support import script
from tests.kit.tlspeer import certify, insecure_context

USER, PASSWORD, WRONG = "joe@example.org", "Zq9-tall-Reed-77", "Vm4-wide-Oar-31"
RECIPIENT = b"quite-unusual-recipient@example.com"
GLIBC = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
pytestmark = pytest.mark.skipif(not GLIBC, reason="the allocator of glibc")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = make_home(tmp_path_factory.mktemp("forgotten") / "home", CONTROL)
    certify(home / "control")
    (home / "control/users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (home / "control/users").chmod(0o600)
    return home


@contextmanager
def serving(home: Path, *words: str, **environ: str) -> Iterator[Server]:
    programs = str(Path(script("qmail-smtpd")).parent)
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "QMAILHOME": str(home), "SMTPD_LOG": "all", **environ}
    with Server(["-v", "-RHl0", "127.0.0.1", "0", "qmail-smtpd", *words], environ=environ) as server:
        yield server


def memory(pid: int) -> bytes:
    """Return all memory of a process that it can write to."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:
        for line in maps:
            start, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            if mode.startswith("rw"):
                with suppress(OSError):
                    found.append(os.pread(file.fileno(), int(end, 16) - int(start, 16), int(start, 16)))
    return b"".join(found)


def traces(pid: int) -> list[bytes]:
    """Return the forms of a password that are in the memory of a process."""
    everything = memory(pid)
    forms: list[bytes] = []
    for password in PASSWORD.encode(), WRONG.encode():
        forms += [password, b64encode(password).rstrip(b"="), b64encode(b"\0%b\0%b" % (USER.encode(), password))[:-4]]
    return [form for form in forms if form in everything]


def log_in(server: Server, mechanism: str, password: str, tls: bool = True) -> None:
    """Log in, and send a recipient's address."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        if tls:
            client.starttls(context=insecure_context(ssl.TLSVersion.TLSv1_3))
        client.ehlo()
        client.user, client.password = USER, password
        authobject = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
        with suppress(smtplib.SMTPAuthenticationError):
            client.auth(mechanism, authobject, initial_response_ok=mechanism == "PLAIN")
        client.mail("a@client.example")
        client.rcpt(RECIPIENT.decode())
        (worker,) = children(server.pid)
        assert RECIPIENT in memory(worker)  # so that a search that finds nothing means something


MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")


@pytest.mark.parametrize("password", [PASSWORD, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "in clear"])
def test_after_a_login_the_process_serves_on_and_has_no_password(home: Path, tls: bool, password: str) -> None:
    (home / "control/authcleartext").touch()
    with serving(home, SMTPAUTHFILE="control/users", SMTPAUTH=" ".join(MECHANISMS)) as server:
        workers = []
        for number, mechanism in enumerate(MECHANISMS, 1):
            log_in(server, mechanism, password, tls)
            server.wait_for_log(rb"^tcpserver: end ", number)
            workers += children(server.pid)
            assert len(set(workers)) == 1
            assert not traces(workers[0])
            assert RECIPIENT not in memory(workers[0])
        assert not traces(server.pid)
        results = re.findall(rb"event=login .*result=(\w+)", server.log())
        assert results == [b"yes" if password == PASSWORD else b"no"] * len(MECHANISMS)


def test_after_a_login_that_a_checker_decides_the_process_has_no_password(home: Path) -> None:
    (home / "control/authcleartext").touch()
    with serving(home, "mx.example.org", script("checkusers"), "/bin/true", AUTHFILE="control/users") as server:
        for number, password in enumerate((PASSWORD, WRONG), 1):
            log_in(server, "PLAIN", password)
            server.wait_for_log(rb"^tcpserver: end ", number)
            (worker,) = children(server.pid)
            assert not traces(worker)


@pytest.mark.parametrize("password", [PASSWORD, WRONG], ids=["right", "wrong"])
def test_after_a_login_that_dovecot_decides_the_process_has_no_password(
    home: Path, tmp_path: Path, password: str
) -> None:
    (home / "control/authcleartext").touch()
    right = b64encode(f"\0{USER}\0{PASSWORD}".encode())
    answers = {True: b"OK\t%b\tuser=joe\n", False: b"FAIL\t%b\tuser=joe\n"}
    with (
        FakeDovecot(tmp_path, lambda words: answers[words[-1] == b"resp=" + right] % words[1]) as dovecot,
        serving(home, SMTPAUTHSOCKET=str(dovecot.path)) as server,
    ):
        for number in (1, 2, 3):
            log_in(server, "PLAIN", password)
            server.wait_for_log(rb"^tcpserver: end ", number)
            (worker,) = children(server.pid)
            assert not traces(worker)
        assert server.log().count(b"result=yes" if password == PASSWORD else b"reason=password") == 3
        assert dovecot.clients == 1


def test_programs_do_not_get_the_setting(home: Path) -> None:
    with serving(home, SMTPAUTHFILE="control/users", QMAILQUEUE="/bin/true") as server:
        environ = Path(f"/proc/{server.pid}/environ").read_bytes()
        assert b"PYTHONMALLOC=malloc\0" in environ
    words = ["-q", "-RHl0", "127.0.0.1", "0", "sh", "-c", "env; exit", script("qmail-smtpd"), "word"]
    with Server(words, environ={"SMTPAUTHFILE": "control/users"}) as server:
        assert b"PYTHONMALLOC" not in server.ask()


@pytest.mark.parametrize("setting", [{"PYTHONMALLOC": "pymalloc"}, {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}])
def test_with_an_allocator_of_the_administrators_a_login_ends_the_process(home: Path, setting: dict[str, str]) -> None:
    (home / "control/authcleartext").touch()
    with serving(home, SMTPAUTHFILE="control/users", **setting) as server:
        log_in(server, "PLAIN", PASSWORD)
        server.wait_for_log(rb"^tcpserver: end ")
        assert not children(server.pid)


def test_without_logins_python_keeps_its_own_allocator(home: Path) -> None:
    with serving(home) as server:
        assert b"PYTHONMALLOC" not in Path(f"/proc/{server.pid}/environ").read_bytes()
