"""examples/cluster --check: a login on one host, the limit over three, and the end of their Redis."""

import subprocess
import sys

import pytest

from tests.kit.peers.redisserver import PROGRAM
from tests.kit.support import ROOT, peer


@pytest.mark.peer
def test_the_check_of_three_hosts_passes() -> None:
    peer(PROGRAM)
    command = [sys.executable, str(ROOT / "examples/cluster.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert [line.partition(": ")[2][:4] for line in done.stdout.splitlines()] == ["ok: "] * 6, done.stdout
    assert done.returncode == 0
    assert "relaylimit who=127.0.0.5 limit=5/3600" in done.stderr


def test_without_a_redis_server_one_line_says_so() -> None:
    command = [sys.executable, str(ROOT / "examples/cluster.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"}, timeout=120)
    assert (done.stderr, done.returncode) == ("cluster: redis-server is not installed\n", 111)
