"""The name and the words by which ps, pgrep, killall and start-stop-daemon find a server and its sessions."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, children, needs_root, until
from tests.kit.support import script

BIN = str(Path(script("qmail-smtpd")).parent)


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


def found_by(*command: str) -> set[int]:
    done = subprocess.run(command, capture_output=True, text=True)
    return {int(line) for line in done.stdout.split()}


def test_a_server_is_found_by_its_name_and_its_words(tmp_path: Path) -> None:
    with Server(["-v", "-RHl0", "-c", "17", "127.0.0.1", "0", "echo", "two words"]) as server:
        until(lambda: name(server.pid) == "tcpserver")
        assert server.pid in found_by("pgrep", "-x", "tcpserver")
        assert server.pid in found_by("ps", "-C", "tcpserver", "-o", "pid=")
        assert words(server.pid) == [
            "tcpserver",
            "-1",
            "-v",
            "-RHl0",
            "-c",
            "17",
            "127.0.0.1",
            "0",
            "echo",
            "two words",
        ]
        assert server.pid in found_by("pgrep", "-f", "^tcpserver -1 -v -RHl0 -c 17 127.0.0.1 0 echo two words")


@pytest.mark.parametrize("options", [[], ["--reuse", "1"], ["--exec"]], ids=["worker", "process", "exec"])
def test_a_session_shows_the_program_that_it_runs(options: Sequence[str], tmp_path: Path) -> None:
    environ = {"QMAILHOME": str(make_home(tmp_path / "home", CONTROL)), "PATH": f"{BIN}:/usr/bin:/bin"}
    command = ["-RHl0", *options, "127.0.0.1", "0", "qmail-smtpd"]
    with Server(command, environ=environ) as server, server.connect() as client:
        assert client.recv(100).startswith(b"220 ")
        (session,) = children(server.pid)
        assert name(session) == "qmail-smtpd"
        if "--exec" not in options:
            assert words(session) == ["qmail-smtpd"]


@needs_root
def test_an_account_without_rights_has_its_title_as_well(tmp_path: Path) -> None:
    """After a setuid the process's own files in /proc are root's."""
    with Server(["-RHl0", "-u", "54322", "-g", "54322", "127.0.0.1", "0", "sleep", "20"]) as server:
        until(lambda: words(server.pid)[0] == "tcpserver")
        assert name(server.pid) == "tcpserver"
