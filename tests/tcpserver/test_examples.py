"""The units and run scripts in examples/: they parse, and the command lines in them serve mail."""

import configparser
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.server import ENVIRON, PATIENCE, compiled, listens, read_all, until
from tests.kit.support import ROOT, free_port, script

EXAMPLES = ROOT / "examples"
ANALYZE = "/usr/bin/systemd-analyze"
RUN_SCRIPTS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("**/run"))
UNITS = [EXAMPLES / "systemd" / f"qmail-smtpd.{kind}" for kind in ("socket", "service")]

# A `tcpserver` that starts ours with the words of the example, except for the port, the account and the rules file.
STAND_IN = """#!{python}
import os, sys
words = [{replaced}.get(word, word) for word in sys.argv[1:]]
words[-3:-1] = {where}
os.execv({tcpserver!r}, [{tcpserver!r}, *words])
"""


@pytest.mark.parametrize("path", RUN_SCRIPTS)
def test_a_run_script_parses_and_may_be_run(path: str) -> None:
    subprocess.run(["sh", "-n", EXAMPLES / path], check=True)
    assert os.access(EXAMPLES / path, os.X_OK)


@pytest.mark.parametrize(("given", "offered"), [(None, ""), ("+cram", "+cram")])
def test_port_25_offers_logins(given: str | None, offered: str, tmp_path: Path) -> None:
    """With a checker and without $SMTPAUTH, qmail-smtpd offers no AUTH, as its original."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.example.org\n")
    (tmp_path / "tcpserver").write_text('#!/bin/sh\necho "${SMTPAUTH-unset}"\n')
    (tmp_path / "tcpserver").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "QMAILHOME": str(tmp_path)}
    environ |= {} if given is None else {"SMTPAUTH": given}
    done = subprocess.run([EXAMPLES / "services/smtp/run"], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{offered}\n"


def test_all_log_services_are_the_same() -> None:
    scripts = list(EXAMPLES.glob("**/log/run"))
    assert len({path.read_text() for path in scripts}) == 1
    assert {path.parent.parent for path in scripts} >= {path.parent for path in EXAMPLES.glob("services/*/run")}


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]  # names of units are not to be lowered
    found.read(path)
    return found


def test_the_units_belong_together() -> None:
    port, service = (unit(path) for path in UNITS)
    assert port["Socket"]["ListenStream"] == "25"
    assert service["Unit"]["Requires"] == UNITS[0].name
    assert service["Service"]["Type"] == "notify"


def test_a_restart_of_the_unit_ends_tcpserver_only_and_at_once() -> None:
    service = unit(UNITS[1])["Service"]
    assert service["KillMode"] == "process"
    assert "--drain" not in shlex.split(service["ExecStart"])


@pytest.mark.skipif(not os.path.exists(ANALYZE), reason="no systemd here")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """systemd-analyze also checks that the programs exist: here tcpserver is the one of the venv."""
    units = [path for kind in ("socket", "service") for path in (EXAMPLES / "systemd").glob(f"*.{kind}")]
    for path in units:
        text = path.read_text().replace("/usr/local/bin/tcpserver", script("tcpserver"))
        (tmp_path / path.name).write_text(re.sub("(?m)^User=.*", "User=daemon", text))
    words = [ANALYZE, "verify", "--man=no", *(tmp_path / path.name for path in units)]
    done = subprocess.run(words, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "qmail-" in line]
    assert complaints == []


@pytest.fixture
def mail(tmp_path: Path) -> dict[str, str]:
    """An environment in which qmail-smtpd has a home, and the scripts are found first in PATH."""
    home = make_home(tmp_path / "home", {"me": "mx.example.org\n", "rcpthosts": "example.com\n"})
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
    return ENVIRON | {"PATH": path, "QMAILHOME": str(home)}


def stand_in(directory: Path, port: int) -> None:
    cdb = compiled(directory / "cdb", '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n')
    replaced = {"qmaild": "0", "/etc/tcp.smtp.cdb": str(cdb)}
    (directory / "bin").mkdir()
    text = STAND_IN.format(
        python=sys.executable, replaced=replaced, where=["127.0.0.1", str(port)], tcpserver=script("tcpserver")
    )
    (directory / "bin" / "tcpserver").write_text(text)
    (directory / "bin" / "tcpserver").chmod(0o755)


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"QUIT\r\n")
        return read_all(client)


def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_run_script_for_runit_serves_mail_and_logs_to_its_output(mail: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    stand_in(tmp_path, port)
    process = subprocess.Popen([EXAMPLES / "runit" / "run"], stdout=subprocess.PIPE, env=mail)
    for running in ended(process):
        until(lambda: listens(port))
        assert greeting(port).startswith(b"220 mx.example.org ESMTP\r\n221 ")
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 0
        assert running.stdout
        assert b"tcpserver: ok " in running.stdout.read()


def test_the_run_script_for_s6_reports_that_it_is_ready(mail: dict[str, str], tmp_path: Path) -> None:
    stand_in(tmp_path, 0)
    notification_fd = int((EXAMPLES / "s6" / "notification-fd").read_text())
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [EXAMPLES / "s6" / "run"],
        stdout=subprocess.PIPE,
        env=mail,
        pass_fds=[notification_fd, writer],
        preexec_fn=lambda: os.dup2(writer, notification_fd) and None,
    )
    os.close(writer)
    for running in ended(process):
        with open(reader, "rb") as ready:
            port = int(ready.readline())
        assert greeting(port).startswith(b"220 mx.example.org ESMTP\r\n221 ")
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 0
        assert running.stdout
        assert b"tcpserver: ok " in running.stdout.read()


def test_the_command_line_of_the_unit_serves_mail_on_the_socket_that_it_is_passed(
    mail: dict[str, str], tmp_path: Path
) -> None:
    cdb = compiled(tmp_path / "cdb", '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n')
    here = {"/usr/local/bin/tcpserver": script("tcpserver"), "/usr/local/bin/qmail-smtpd": script("qmail-smtpd")}
    here["/etc/tcp.smtp.cdb"] = str(cdb)
    words = [here.get(word, word) for word in shlex.split(unit(UNITS[1])["Service"]["ExecStart"])]
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        process = subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *words],
            stderr=subprocess.PIPE,
            env=mail | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")},
            pass_fds=[3, port.fileno()],
            preexec_fn=lambda: os.dup2(port.fileno(), 3) and None,
        )
        for running in ended(process):
            assert manager.recv(100) == b"READY=1"
            assert greeting(port.getsockname()[1]).startswith(b"220 mx.example.org ESMTP\r\n221 ")
            running.send_signal(signal.SIGTERM)
            assert running.wait(PATIENCE) == 0
            assert running.stderr
            assert b"tcpserver: ok " in running.stderr.read()
