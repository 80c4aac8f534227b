"""What tests/run promises about peers: a counted skip without PEERS=1, a failure with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.support import ROOT

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


def run(directory: Path, text: str, peers: str | None) -> subprocess.CompletedProcess[str]:
    (directory / "test_peers.py").write_text(text)
    for name in ("conftest.py", "support.py"):
        (directory / name).write_text((ROOT / "tests" / name).read_text())
    environ = {key: value for key, value in os.environ.items() if key != "PEERS"}
    if peers is not None:
        environ["PEERS"] = peers
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory)]
    return subprocess.run(
        [*command, "-rs", "-p", "no:cacheprovider", str(directory)], env=environ, capture_output=True, text=True
    )


@pytest.mark.parametrize("peers", [None, "", "0"])
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
