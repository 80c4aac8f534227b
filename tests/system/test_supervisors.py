"""The run scripts in examples/ under real supervisors: a restart is short, and does not end the sessions."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.server import PATIENCE, children, compiled, needs_root, until
from tests.kit.support import ROOT, free_port, peer, script
from tests.kit.tlspeer import certify, trusting

EXAMPLES = ROOT / "examples"
RUN_SCRIPTS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("**/run") if path.parent.name != "log")

# the processes and commands of each supervisor, which gets a service directory as its argument
SUPERVISE = {"runit": ["runsv"], "daemontools": ["supervise"], "s6": ["s6-supervise"]}
RESTART = {"runit": ["sv", "restart"], "daemontools": ["svc", "-t"], "s6": ["s6-svc", "-wR", "-T7000", "-r"]}
LEAVE = {"runit": ["sv", "exit"], "daemontools": ["svc", "-dx"], "s6": ["s6-svc", "-xd"]}

CASES = [
    ("runit", "runit"),
    ("runit", "services/smtp"),
    ("runit", "services/submission"),
    ("runit", "services/submissions"),
    ("runit", "smtp-after-pop"),
    ("runit", "pop3"),
    ("daemontools", "runit"),
    ("daemontools", "services/smtp"),
    ("daemontools", "pop3"),
    ("s6", "s6"),
]
WITH_TLS = {"services/submissions"}

# A `tcpserver` that runs ours. It replaces the port, the account and the rules of examples/runit and examples/s6.
TCPSERVER = """#!{python}
import os, sys
replaced = {{"qmaild": {account!r}, "/etc/tcp.smtp.cdb": {rules!r}, "0": "127.0.0.1", "smtp": {port!r}}}
os.execv({tcpserver!r}, ["tcpserver", *(replaced.get(word, word) for word in sys.argv[1:])])
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What the run scripts need on this host: a home, a certificate, rules, an account, a port, PATH."""
    home = make_home(tmp_path / "home", {"me": "mx.example.org\n", "rcpthosts": "example.com\n"})
    certificate, key = certify(tmp_path)
    (home / "control/servercert.pem").touch(0o600)
    (home / "control/servercert.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    rules = str(compiled(tmp_path / "cdb", '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n'))
    account, port = pwd.getpwuid(os.getuid()).pw_name, str(free_port())
    (tmp_path / "bin").mkdir()
    text = TCPSERVER.format(
        python=sys.executable, account=account, rules=rules, port=port, tcpserver=script("tcpserver")
    )
    (tmp_path / "bin/tcpserver").write_text(text)
    (tmp_path / "bin/tcpserver").chmod(0o755)
    return {
        "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
        "QMAILHOME": str(home),
        "RULES": rules,
        "ACCOUNT": account,
        "ADDRESS": "127.0.0.1",
        "PORT": port,
        "CERTIFICATE": str(certificate),
    }


def command(words: list[str], *arguments: object) -> list[str]:
    """The command with the path of its program, which must be installed."""
    return [peer(f"/usr/bin/{words[0]}"), *words[1:], *map(str, arguments)]


@contextmanager
def supervised(supervisor: str, service: Path, environ: dict[str, str]) -> Iterator[int]:
    """Run the service directory under the supervisor, whose pid is given. At the end, end the sessions too."""
    process = subprocess.Popen(
        command(SUPERVISE[supervisor], service),
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        subprocess.run(command(LEAVE[supervisor], service), check=False, capture_output=True)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_processes(environ["QMAILHOME"])


def end_processes(home: str) -> bool:
    """End the processes that have this qmail home, such as sessions, which go on when their server leaves.

    Return whether there was one.
    """
    found = False
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"QMAILHOME={home}\0".encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
                found = True
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            pass
    return found


def connected(environ: dict[str, str], tls: bool) -> socket.socket | None:
    """A new client that has been greeted, or None while nobody listens."""
    try:
        client = socket.create_connection(("127.0.0.1", int(environ["PORT"])), PATIENCE)
        if tls:
            client = trusting(Path(environ["CERTIFICATE"])).wrap_socket(client, server_hostname="localhost")
        assert client.recv(100).startswith((b"220 ", b"+OK "))
    except ConnectionRefusedError:
        return None
    return client


def client_is_greeted(environ: dict[str, str]) -> bool:
    """Whether a new client is greeted. It leaves at once."""
    client = connected(environ, False)
    if client:
        client.close()
    return client is not None


@pytest.mark.peer
@pytest.mark.parametrize(("supervisor", "example"), CASES)
def test_after_a_restart_new_clients_are_served_at_once_and_the_old_session_goes_on(
    supervisor: str, example: str, environ: dict[str, str], tmp_path: Path
) -> None:
    service, tls = tmp_path / "service", example in WITH_TLS
    shutil.copytree(EXAMPLES / example, service, ignore=shutil.ignore_patterns("log"))
    clients: list[socket.socket] = []

    def one_more_is_greeted() -> bool:
        client = connected(environ, tls)
        clients.extend([client] if client else [])
        return client is not None

    with supervised(supervisor, service, environ) as pid:
        until(one_more_is_greeted)
        before = children(pid)
        done = subprocess.run(command(RESTART[supervisor], service), env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done
        until(lambda: children(pid) and not {*before} & {*children(pid)})
        until(one_more_is_greeted)
        for client in clients:
            client.sendall(b"NOOP\r\n")
            assert client.recv(100).startswith((b"250 ", b"+OK "))
            client.close()


# what runs all service directories of a directory, and connects each to its log service
SCAN = {"runit": "runsvdir", "daemontools": "svscan", "s6": "s6-svscan"}
LOG_PROGRAM = {"runit": "svlogd", "daemontools": "multilog", "s6": "s6-log"}
LOG_LINE = {
    "runit": r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.\d+ tcpserver: ",
    "daemontools": r"@[0-9a-f]{24} tcpserver: ",
    "s6": r"@[0-9a-f]{24} tcpserver: ",
}


def without(names: set[str], folder: Path) -> str:
    """A directory with the programs of /usr/bin, without these."""
    folder.mkdir()
    for path in Path("/usr/bin").iterdir():
        if path.name not in names:
            (folder / path.name).symlink_to(path)
    return str(folder)


@contextmanager
def scanned(supervisor: str, folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """Run the service directories of the folder. At the end, end the supervisor and all that it started."""
    process = subprocess.Popen(
        [peer(f"/usr/bin/{SCAN[supervisor]}"), folder],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()  # so that it starts nothing again
        process.wait()
        until(lambda: not end_processes(environ["QMAILHOME"]))


@pytest.mark.peer
@needs_root
@pytest.mark.parametrize(("supervisor", "example"), [("runit", "runit"), ("daemontools", "runit"), ("s6", "s6")])
def test_the_log_service_writes_what_the_server_logs(
    supervisor: str, example: str, environ: dict[str, str], tmp_path: Path
) -> None:
    service = tmp_path / "services/mail"
    shutil.copytree(EXAMPLES / example, service)
    others = {name for each, name in LOG_PROGRAM.items() if each != supervisor}
    environ["PATH"] = environ["PATH"].replace("/usr/bin:/bin", without(others, tmp_path / "usr"))
    current = tmp_path / "logs/mail/current"
    with scanned(
        supervisor, service.parent, environ | {"LOGS": str(tmp_path / "logs"), "LOGACCOUNT": environ["ACCOUNT"]}
    ):
        until(lambda: client_is_greeted(environ))
        until(lambda: current.exists() and " tcpserver: ok " in current.read_text())
    assert re.match(LOG_LINE[supervisor], current.read_text())
    assert not current.parent.stat().st_mode & 0o007


@pytest.mark.parametrize("path", [path for path in RUN_SCRIPTS if path not in ("runit/run", "s6/run")])
def test_without_control_me_a_run_script_ends_before_the_server_starts(
    path: str, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home/control/me").unlink()
    done = subprocess.run([EXAMPLES / path], env=environ, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout.count("\n")) == (111, 1)
    assert f"{tmp_path}/home/control/me" in done.stdout


@pytest.mark.parametrize("path", RUN_SCRIPTS)
def test_a_run_script_does_not_wait_for_sessions_when_it_is_stopped(path: str) -> None:
    """With --drain, no client is served between TERM and the end of the last session."""
    assert "--drain" not in (EXAMPLES / path).read_text()
