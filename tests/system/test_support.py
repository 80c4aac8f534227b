"""What tests/run promises about peers: a counted skip without PEERS=1, a failure with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.support import ROOT

pytestmark = pytest.mark.slow

TESTS_RUN = ROOT / "tests/run"
PEER_TESTS = """
import pytest
from tests.kit.support import peer

@pytest.mark.peer
def test_first():
    peer("/nonexistent/peer")

@pytest.mark.peer
def test_second():
    peer("/nonexistent/peer")
"""

SKIPPING_TEST = """
import pytest

@pytest.mark.peer
def test_peer():
    pytest.skip("not today")
"""


ABSENT_TEST = """
import pytest
from tests.kit import support

support.PACKAGES["/nonexistent/peer"] = "nonexistent"

@pytest.mark.peer
def test_peer():
    support.peer("/nonexistent/peer")
"""


def run(directory: Path, text: str, peers: str | None, absent: str = "") -> subprocess.CompletedProcess[str]:
    (directory / "test_peers.py").write_text(text)
    (directory / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PEERS", "PYTEST_"))}
    environ |= {"PEERS_ABSENT": absent, "PYTHONPATH": str(ROOT)}
    if peers is not None:
        environ["PEERS"] = peers
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory)]
    return subprocess.run(
        [*command, "-rs", "-p", "no:cacheprovider", str(directory)], env=environ, capture_output=True, text=True
    )


@pytest.mark.parametrize("peers", [None, "0"])
def test_missing_peers_are_skipped_and_counted_without_peers_1(tmp_path: Path, peers: str | None) -> None:
    result = run(tmp_path, PEER_TESTS, peers)
    assert result.returncode == 0
    assert "SKIPPED [2] " in result.stdout
    assert "peer missing: /nonexistent/peer" in result.stdout


@pytest.mark.parametrize("text", [PEER_TESTS, SKIPPING_TEST])
def test_a_peer_test_that_cannot_compare_fails_with_peers_1(tmp_path: Path, text: str) -> None:
    result = run(tmp_path, text, "1")
    assert result.returncode == 1
    assert "failed" in result.stdout


def test_a_peer_that_is_in_no_package_is_skipped_even_with_peers_1(tmp_path: Path) -> None:
    assert run(tmp_path, ABSENT_TEST, "1").returncode == 1
    result = run(tmp_path, ABSENT_TEST, "1", "other nonexistent")
    assert result.returncode == 0
    assert "SKIPPED [1] " in result.stdout
    assert "peer missing: /nonexistent/peer: this system has no package nonexistent\n" in result.stdout


PROGRAMS = {
    "id": "echo 0",
    "dpkg-query": '[ "$4" = postfix ] && echo installed',  # every other peer is missing
    "apt-cache": '[ "$2" != mailfront ]',
    "apt-get": 'echo apt-get "$@"',
    "debconf-set-selections": "cat >/dev/null",
    "rm": "",
    "chmod": "",
}


def install_peers(folder: Path, programs: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the part of tests/run that installs the peers, with stand-ins for the programs that change the system."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    script = TESTS_RUN.read_text()
    start, end = script.index("peers="), script.index("make_venv\n")
    part = script[start:end].replace("/usr/sbin/policy-rc.d", "policy-rc.d").replace("</dev/null >/dev/null", "")
    return subprocess.run(
        ["sh", "-euc", f'name=tests/run\n{part}\necho "absent:$PEERS_ABSENT"'],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "PEERS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_what_can_be_installed_is_installed_and_the_rest_is_named(tmp_path: Path) -> None:
    result = install_peers(tmp_path, PROGRAMS)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "tests/run: this system has no package mailfront: their tests are skipped\n"
    lines = result.stdout.splitlines()
    assert lines[-1] == "absent: mailfront"
    (install,) = (line.split() for line in lines if " install " in line)
    assert {"curl", "nmap"} <= set(install)
    assert not {"mailfront", "postfix"} & set(install)


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM"])
def test_a_signal_does_not_leave_a_host_that_starts_no_services(tmp_path: Path, name: str) -> None:
    """policy-rc.d, which Ctrl-C would otherwise leave for all later installations of the host."""
    programs = {key: text for key, text in PROGRAMS.items() if key not in ("rm", "chmod")}
    result = install_peers(tmp_path, programs | {"apt-get": f"cat policy-rc.d; kill -{name} $PPID"})
    assert result.stdout == "#!/bin/sh\nexit 101\n"
    assert not (tmp_path / "policy-rc.d").exists()
    assert result.returncode == 100
