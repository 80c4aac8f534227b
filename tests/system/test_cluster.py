"""examples/cluster --check: a login on one host, the limit over three, and the end of their Redis."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.kit.peers.redisserver import PROGRAM
from tests.kit.server import PATIENCE
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


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory in which the path of a socket has room: it has at most 107 bytes (unix(7))."""
    with TemporaryDirectory(prefix="cluster-") as name:
        yield Path(name)


@pytest.mark.peer
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_a_signal_ends_all_servers_and_their_sessions(short_path: Path, number: int) -> None:
    """SIGHUP is what a closed terminal sends. Redis ignores it."""
    peer(PROGRAM)
    command = [sys.executable, str(ROOT / "examples/cluster.py")]
    environ = os.environ | {"TMPDIR": str(short_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout
        ports = re.findall(r"[0-9]+", process.stdout.readline().partition("ports")[2])
        with socket.create_connection(("127.0.0.1", int(ports[0])), PATIENCE) as session:
            assert session.recv(100).startswith(b"220 ")
            process.send_signal(number)
            assert process.wait(PATIENCE) == 128 + number
            assert session.recv(100) == b""
    assert list(short_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(ports[-1])), PATIENCE)
