"""TLS where tcpserver's parent has loaded qmail-smtpd: what it prepares for its children, and what each still does."""

import grp
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import qmail_smtpd
from tests.kit.consolescript import install_script
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, children, compiled, needs_root, open_to_all, until
from tests.kit.support import is_world_readable, script
from tests.kit.tlspeer import Client, certify, insecure_context, trusting

PRELOAD = ["--preload", "qmail-smtpd"]


@contextmanager
def serving(home: Path, options: list[str] = PRELOAD, **environ: str) -> Iterator[Server]:
    programs = str(Path(script("qmail-smtpd")).parent)
    words = ["-q", "-RHl0", *options, "127.0.0.1", "0", "qmail-smtpd"]
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "QMAILHOME": str(home), "SMTPS": "1", **environ}
    with Server(words, environ=environ) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home", CONTROL)
    certify(home / "control")
    return home


def greeting(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """One whole session, which may take up the TLS session of an earlier one. Returns its own, and whether it did."""
    with server.connect() as connection:
        client = Client((connection.fileno(),) * 2, context, session=session).handshake()
        assert client.receive() == b"220 mx.example.org ESMTP\r\n"
        client.send(b"QUIT\r\n")
        assert client.receive_all() == b"221 mx.example.org\r\n"
        return client.tls.session, client.tls.session_reused


@pytest.mark.parametrize(
    "options", [PRELOAD, ["--exec"], ["-h", *PRELOAD]], ids=["called", "exec'd", "after the names"]
)
def test_a_renewed_certificate_counts_from_the_next_connection(home: Path, options: list[str]) -> None:
    control = home / "control"
    with serving(home, options) as server:
        for _ in range(3):
            greeting(server, trusting(control / "servercert.pem"))
            new, key = certify(control, "new")
            key.replace(control / "serverkey.pem")
            new.replace(control / "servercert.pem")
        greeting(server, trusting(control / "servercert.pem"))


def test_faults_of_the_files_come_and_go_without_a_restart(home: Path) -> None:
    control = home / "control"
    with serving(home) as server:
        context = trusting(control / "servercert.pem")
        greeting(server, context)
        (control / "serverkey.pem").rename(control / "away")
        assert server.ask() == b""
        server.wait_for_log(rb"^qmail-smtpd: warning: no TLS: control/servercert.pem contains no private key$")
        (control / "away").rename(control / "serverkey.pem")
        greeting(server, context)


def test_a_certificate_file_of_any_size_never_ends_the_server(home: Path) -> None:
    """The parent reads it before each fork."""
    control = home / "control"
    with serving(home) as server:
        context = trusting(control / "servercert.pem")
        greeting(server, context)
        (control / "servercert.pem").rename(control / "away")
        (control / "servercert.pem").touch()
        os.truncate(control / "servercert.pem", 1 << 40)
        assert server.ask() == b""
        server.wait_for_log(rb"^qmail-smtpd: warning: no TLS: unable to read control/servercert.pem: file too big$")
        (control / "away").rename(control / "servercert.pem")
        greeting(server, context)


def test_a_certificate_may_come_after_the_start(home: Path) -> None:
    control = home / "control"
    (control / "servercert.pem").rename(control / "away")
    with serving(home, [*PRELOAD, "--reuse", "1"]) as server:
        assert server.ask() == b""
        assert not has_openssl(server.pid)
        (control / "away").rename(control / "servercert.pem")
        greeting(server, trusting(control / "servercert.pem"))
        assert has_openssl(server.pid)


def has_openssl(pid: int) -> bool:
    return "libssl" in Path(f"/proc/{pid}/maps").read_text()


def test_sessions_in_clear_never_load_openssl(home: Path) -> None:
    """Without a certificate, the parent does not load OpenSSL either. With one, it loads OpenSSL once, for all."""
    (home / "control/servercert.pem").unlink()
    with serving(home, SMTPS="") as server, server.connect() as client:
        assert client.recv(100).startswith(b"220")
        assert not has_openssl(server.pid)
        assert not has_openssl(children(server.pid)[0])
    certify(home / "control")
    with serving(home, ["--exec"], SMTPS="") as server, server.connect() as client:
        assert client.recv(100).startswith(b"220")
        client.sendall(b"EHLO me\r\n")
        assert b"STARTTLS" in client.recv(1000)
        assert not has_openssl(server.pid)
        assert not has_openssl(children(server.pid)[0])
    with serving(home, SMTPS="") as server:
        assert has_openssl(server.pid)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_tls_session_is_resumed_in_another_child(home: Path, version: ssl.TLSVersion) -> None:
    """The keys of the tickets are the parent's. A file that has just been written is not kept yet: that takes 2 s."""
    context = trusting(home / "control/servercert.pem")
    context.maximum_version = version
    with serving(home) as server:
        until(lambda: greeting(server, context, greeting(server, context)[0])[1])
        session, _ = greeting(server, context)
        os.utime(home / "control/servercert.pem")
        assert not greeting(server, context, session)[1]  # its context is gone, with its keys


@pytest.mark.slow
def test_no_two_children_have_the_same_random_numbers(home: Path) -> None:
    """What OpenSSL has drawn before the fork must not come again in each child."""
    seen = set()
    with serving(home) as server:
        context = trusting(home / "control/servercert.pem")
        until(lambda: greeting(server, context, greeting(server, context)[0])[1])  # the parent's context is in use
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(Client((0, 0), insecure_context(ssl.TLSVersion.TLSv1_3)).hello())
                hello = connection.recv(1000)
                assert hello[0] == 0x16
                assert hello[5] == 2  # ServerHello
                seen.add(hello[11:43])
    assert len(seen) == 20


def test_a_child_has_no_further_descriptor(home: Path) -> None:
    for options, least in ((["--reuse", "1"], 1000), ([], 10)):  # a worker's own descriptors begin at 10
        with serving(home, [*PRELOAD, *options], SMTPS="") as server, server.connect() as client:
            client.recv(100)
            child = children(server.pid)[0]
            found = [int(name) for name in os.listdir(f"/proc/{child}/fd")]
            assert sorted(number for number in found if number < least) == [0, 1, 2]


HOOK = """
import grp
import os

def before_fork(environ):
    with open(os.environ["RECORD"], "a") as file:
        print(os.getpid(), environ.get(b"GIVEN"), environ.get(b"RULE"), file=file)

def main():
    os.write(1, os.environb.get(b"RULE", b"none"))
"""


@pytest.mark.parametrize("options", ["-RHl0", "-Rhl0"], ids=["asking nothing", "asking for names"])
def test_a_preloaded_module_is_called_before_each_fork_in_the_parent(tmp_path: Path, options: str) -> None:
    install_script(tmp_path, "hooked", HOOK)
    record = tmp_path / "record"
    cdb = compiled(tmp_path / "rules.cdb", ':allow,RULE="set"\n')
    environ = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "RECORD": str(record),
        "GIVEN": "x",
    }
    words = [options, "--preload", "hooked", "-x", str(cdb), "127.0.0.1", "0", "hooked"]
    with Server(words, environ=environ) as server:
        assert record.read_text() == f"{server.pid} b'x' None\n"
        for _ in range(3):
            assert server.ask() == b"set"
        assert record.read_text() == f"{server.pid} b'x' None\n" * 4


@pytest.mark.parametrize("trouble", ["import nothing_of_that_name", "open('/nonexistent')"])
def test_what_a_module_cannot_prepare_does_not_stop_the_server(tmp_path: Path, trouble: str) -> None:
    source = f"import os\n\ndef before_fork(environ):\n    {trouble}\n\ndef main():\n    os.write(1, b'here')\n"
    install_script(tmp_path, "unready", source)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    with Server(["-RHl0", "--preload", "unready", "127.0.0.1", "0", "unready"], environ=environ) as server:
        assert [server.ask() for _ in range(2)] == [b"here"] * 2
        assert server.log() == b""


@pytest.mark.parametrize(
    ("level", "log"), [("-Q", b"tcpserver: warning: before_fork of failing: ValueError: a bug\n"), ("-q", b"")]
)
def test_a_bug_of_a_module_is_logged_once_and_not_with_q(tmp_path: Path, level: str, log: bytes) -> None:
    hook = "def before_fork(environ):\n    raise ValueError('a bug')\n\n"
    source = f"import os\n\n{hook}def main():\n    os.write(1, b'here')\n"
    install_script(tmp_path, "failing", source)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    with Server([level, "-RHl0", "--preload", "failing", "127.0.0.1", "0", "failing"], environ=environ) as server:
        assert [server.ask() for _ in range(2)] == [b"here"] * 2
        assert server.log() == log


def test_a_program_that_is_not_preloaded_is_not_called_before_a_fork(tmp_path: Path) -> None:
    install_script(tmp_path, "hooked", HOOK)
    record = tmp_path / "record"
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "RECORD": str(record)}
    with Server(["-RHl0", "127.0.0.1", "0", "hooked"], environ=environ) as server:
        assert server.ask() == b"none"
    assert not record.exists()


@needs_root
def test_the_key_is_read_by_the_account_that_serves(home: Path) -> None:
    if not is_world_readable(script("qmail-smtpd"), qmail_smtpd.__file__):
        pytest.skip("other users may not read this checkout, and so cannot preload qmail-smtpd")
    key = home / "control/serverkey.pem"
    open_to_all(home)
    with serving(home, ["-u", "nobody", *PRELOAD]) as server:
        assert server.ask() == b""
        line = b"qmail-smtpd: warning: no TLS: unable to read control/serverkey.pem: access denied\n"
        assert server.log() == line
        os.chown(key, 0, grp.getgrnam("nogroup").gr_gid)
        key.chmod(0o640)
        if is_world_readable(ssl.__file__):
            greeting(server, trusting(home / "control/servercert.pem"))
            assert server.log() == line
        else:  # a Python of root's own: here it is OpenSSL that is out of reach
            server.ask()
            assert server.log().startswith(line + b"qmail-smtpd: warning: no TLS: unable to load OpenSSL: ")
