"""examples/submission on a copy of the tree: each mechanism proved by real clients, and what it does when one fails."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.examples import copy_tree, programs_of
from tests.kit.server import PATIENCE
from tests.kit.support import free_port, peer

SERVICES = ("smtp", "submission", "submissions")
# It does what .venv/bin/python3 would do, except that pip installs nothing, and its arguments are recorded.
PYTHON = """#!/bin/sh
case "$*" in
    *" -m pip install "* | "-m pip install "*) echo "$@" >>{noted} ;;
    *) exec {python} "$@" ;;
esac
"""
PROVED = {  # by smtplib: port and mechanism -> the codes of the replies
    "25, PLAIN": {"250", "535"},
    "25, CRAM-MD5": {"250", "535"},
    "25, LOGIN": {"250"},
    "25, no login": {"250", "553"},
    "25 without TLS, no login": {"250"},
    "25 without TLS, LOGIN": {"538"},
    "465, LOGIN": {"250"},
    "465, PLAIN": {"250"},
    "465, SCRAM-SHA-256": {"250", "535"},
    "465, no login": {"530"},
    "587, LOGIN": {"250", "535"},
    "587, PLAIN": {"250", "535"},
    "587, no login": {"530"},
    "587 without TLS, PLAIN": {"538"},
}
NOT_IN_SWAKS = {"25 without TLS, LOGIN", "587 without TLS, PLAIN", "465, SCRAM-SHA-256"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout whose .venv is there, with our programs in it."""
    found: Path = copy_tree(tmp_path)
    programs = found / ".venv/bin"
    programs.mkdir(parents=True)
    for path in Path(sys.executable).parent.iterdir():
        if not path.name.startswith("python"):
            (programs / path.name).symlink_to(path)
    (programs / "python3").write_text(PYTHON.format(noted=shlex.quote(str(tmp_path / "pip")), python=sys.executable))
    (programs / "python3").chmod(0o755)
    return found


def environment(**changes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PORTS", "PYTHON", "RELAYCLIENT")} | changes


def submission(tree: Path, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [tree / "examples/submission", *words]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=False)


def without_swaks(folder: Path) -> str:
    """A PATH with what the example needs, and nothing else."""
    folder.mkdir()
    for name in ("sh", "cat", "dirname", "env", "head", "openssl", "true"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return str(folder)


def codes(text: str, way: str) -> dict[str, set[str]]:
    """Port and mechanism -> the codes of the last answers, of the steps that went right."""
    found: dict[str, set[str]] = {}
    pattern = rf"^submission: ok: {way}, port (.*?) to someone@[a-z.]+: (?:.* then )?(\d\d\d)"
    for what, code in re.findall(pattern, text, re.MULTILINE):
        found.setdefault(what.partition(" as ")[0], set()).add(code)
    return found


@pytest.mark.peer
def test_each_mechanism_is_proved_by_smtplib_and_swaks_and_nothing_is_left(tree: Path, tmp_path: Path) -> None:
    peer("/usr/bin/swaks")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = submission(tree, "--check", TMPDIR=str(temporary), RELAYCLIENT="", SMTPAUTH="-")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "NOT OK" not in done.stdout
    assert codes(done.stdout, "smtplib") == PROVED
    assert codes(done.stdout, "swaks") == {key: found for key, found in PROVED.items() if key not in NOT_IN_SWAKS}
    assert re.findall(r"-e (\S+)", (tmp_path / "pip").read_text()) == [".[auth]"]
    assert programs_of(tree) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_before_a_login_the_same_session_may_not_relay(tree: Path, tmp_path: Path) -> None:
    path, warnings = without_swaks(tmp_path / "bin"), "default::ResourceWarning"
    done = submission(tree, "--check", PATH=path, PYTHONWARNINGS=warnings)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "submission: swaks is not installed: its half of the check is skipped\n" in done.stdout
    steps = re.findall(r"port (\d+), [A-Z].* to .*: (5\d\d) .*, then (\d\d\d) .*, (not stored|stored)\n", done.stdout)
    assert {step[:3] for step in steps} >= {("25", "553", "250"), ("587", "530", "250"), ("465", "530", "250")}
    assert all((after == "250") == (stored == "stored") for _, _, after, stored in steps)


@pytest.mark.slow
def test_a_swaks_without_tls_is_not_used(tree: Path, tmp_path: Path) -> None:
    """As Debian installs it without its recommended packages."""
    path = without_swaks(tmp_path / "bin")
    (tmp_path / "bin/swaks").write_text("#!/bin/sh\necho '*** TLS not available: requires Net::SSLeay'\n")
    (tmp_path / "bin/swaks").chmod(0o755)
    done = submission(tree, "--check", PATH=path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    reason = "swaks has no TLS (on Debian: apt-get install libnet-ssleay-perl)"
    assert f"submission: {reason}: its half of the check is skipped\n" in done.stdout


@pytest.mark.slow
def test_a_server_that_asks_for_no_login_fails_the_check(tree: Path, tmp_path: Path) -> None:
    script = tree / "examples/services/submission/run"
    script.write_text(script.read_text().replace("SMTPAUTH=!", "SMTPAUTH="))
    done = submission(tree, "--check", PATH=without_swaks(tmp_path / "bin"))
    assert done.returncode == 1
    assert "submission: NOT OK: smtplib, port 587, no login to someone@example.com: 250 ok " in done.stdout
    assert "tcpserver: " in done.stderr  # the log


@contextmanager
def serving(tree: Path) -> Iterator[tuple["subprocess.Popen[str]", list[int], list[str]]]:
    """The running example: its process, the ports, the lines that it has printed."""
    ports = [free_port() for _ in SERVICES]
    process = subprocess.Popen(
        [tree / "examples/submission"],
        env=environment(PORTS=" ".join(map(str, ports))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        lines: list[str] = []
        while not lines or "--set" not in lines[-1]:
            line = process.stdout.readline()
            assert line, lines
            if not line.startswith(("tcpserver: ", "qmail-smtpd: ")):
                lines.append(line.rstrip("\n"))
        yield process, ports, lines
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.peer
def test_the_commands_that_it_prints_work_unchanged(tree: Path) -> None:
    peer("/usr/bin/swaks")
    with serving(tree) as (process, ports, lines):
        assert len(lines) <= 9
        assert all(str(port) in lines[-7] for port in ports)
        commands = [line.strip() for line in lines if line.startswith("  ")]
        assert len(commands) == 4
        done = [subprocess.run(c, shell=True, capture_output=True, text=True, input="new\n") for c in commands]
        assert "235 ok, go ahead" in done[0].stdout
        assert "250 ok 1" in done[0].stdout
        assert "530 Authorization required" in done[1].stdout
        assert "553 sorry, that domain" in done[2].stdout
        assert [one.returncode == 0 for one in done] == [True, False, False, True], done[3].stderr
        again = subprocess.run(
            commands[0].replace("joe@example.com --auth-password tanstaaf", "you@example.com --auth-password new"),
            shell=True,
            capture_output=True,
            text=True,
        )
        assert "235 ok, go ahead" in again.stdout  # the new user counts at once
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert programs_of(tree) == []
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE)
    users = (tree / ".submission/control/users").read_text()
    with serving(tree) as (_, _, lines):
        assert f"submission: using the control files, the users and the mail in {tree}/.submission" in lines
    assert (tree / ".submission/control/users").read_text() == users


@pytest.mark.slow
def test_secrets_are_not_for_everybody(tree: Path) -> None:
    with serving(tree):
        for name in ("users", "servercert.pem"):
            assert not (tree / ".submission/control" / name).stat().st_mode & 0o007


def test_a_busy_port_is_a_clear_line(tree: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = submission(tree, PORTS=f"{free_port()} {port} {free_port()}")
    assert done.returncode == 111
    text = f'unable to use port {port} of 127.0.0.1: Address already in use. Choose others: PORTS="2626 2688 2566"\n'
    assert done.stderr == f"submission: fatal: {text}"


@pytest.mark.parametrize("ports", ["25", "1 2", "1 2 3 4", "25 587 smtps", "0 1 2", "1 2 65536"])
def test_ports_that_are_none_are_a_clear_line(ports: str, tree: Path) -> None:
    done = submission(tree, PORTS=ports)
    assert done.returncode == 100
    assert done.stderr == f"submission: fatal: PORTS are not three numbers from 1 to 65535: {ports}\n"


def test_anything_but_check_is_a_usage_error(tree: Path) -> None:
    done = submission(tree, "--help")
    assert (done.returncode, done.stdout) == (100, "")
    assert done.stderr == "usage: examples/submission [ --check ]\n"


def test_without_openssl_it_says_what_is_missing(tree: Path, tmp_path: Path) -> None:
    path = without_swaks(tmp_path / "bin")
    (tmp_path / "bin/openssl").unlink()
    done = submission(tree, "--check", PATH=path)
    assert done.returncode == 100
    assert done.stderr == "submission: fatal: openssl is needed to make a certificate: it is not in PATH\n"
