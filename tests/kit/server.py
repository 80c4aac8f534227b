"""A tcpserver for the tests, ours or Debian's: started with -1 on a free port, its log in a file, ended by its pid."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import pytest

from tcprules.cli import tcprules
from tests.kit import forked
from tests.kit.support import script

PATIENCE = 20.0  # seconds until a condition that must come true counts as failed; no test measures time with it
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: accounts, low ports, a namespace of its own")
ENVIRON = {"PATH": "/usr/bin:/bin"}


class Server:
    """A running server. `with Server([...options, host, port, program...]) as server: server.port`."""

    def __init__(
        self,
        words: Sequence[str | bytes],
        program: str | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        before: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        stderr: int | None = None,
        preexec: Callable[[], object] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._log = TemporaryFile()
        self.process = subprocess.Popen(
            [*before, program or script("tcpserver"), "-1", *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._log if stderr is None else stderr,
            env=ENVIRON | dict(environ or {}),
            cwd=cwd,
            pass_fds=pass_fds,
            preexec_fn=preexec,
        )
        self.pid = self.process.pid
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.process.stdout.close()
        self.port = int(line) if line else 0

    def __enter__(self) -> "Server":
        if not self.port:
            said = self.log()
            self.__exit__()
            raise AssertionError(f"the server did not start: {said!r}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def log(self) -> bytes:
        return os.pread(self._log.fileno(), 1 << 26, 0)

    def connect(self, host: str = "127.0.0.1", source: str | None = None) -> socket.socket:
        client = socket.create_connection((host, self.port), PATIENCE, (source, 0) if source else None)
        client.settimeout(PATIENCE)
        return client

    def ask(self, data: bytes = b"", source: str | None = None, host: str = "127.0.0.1") -> bytes:
        """One whole connection: send, shut down, read to the end. A reset is an end like another."""
        with self.connect(host, source) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_all(client)

    def wait_for_log(self, pattern: bytes, times: int = 1) -> bytes:
        """The log once it holds that many matches of the pattern."""
        until(lambda: len(re.findall(pattern, self.log(), re.MULTILINE)) >= times, lambda: (pattern, self.log()))
        return self.log()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status, negative for a death by signal."""
        self.send(number)
        return self.process.wait(PATIENCE)


def read_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while part := client.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    """Wait until the condition holds; fail when patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def masked(log: bytes) -> bytes:
    """A log with every pid and port replaced by its rank of appearance: two servers' logs become comparable."""
    log = re.sub(rb"(?m)^(tcpserver: (?:pid|ok|deny|end)) \d+", rb"\1 PID", log)
    return re.sub(rb":\d+( |$)", rb":PORT\1", log, flags=re.MULTILINE)


def refusal(words: Sequence[str | bytes], program: str, environ: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """What a server says that does not start, and its exit status."""
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRON | dict(environ or {}),
        timeout=PATIENCE,
    )
    return done.stderr, done.returncode


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def with_files(files: Mapping[str, Path]) -> list[str]:
    """The words before a program that give it its own files in place of the system's. Needs root (mount namespace)."""
    mounts = "".join(f'mount --bind "{found}" {path} && ' for path, found in files.items())
    return ["unshare", "-m", "sh", "-c", f'{mounts}exec "$@"', "sh"]


def open_to_all(directory: Path) -> None:
    """Let every account into a temporary directory, which pytest has made for its own alone."""
    while directory != Path(gettempdir()):
        directory.chmod(0o755)
        directory = directory.parent


def compiled(cdb: Path, text: str) -> Path:
    """A rules file, by our tcprules without its start-up."""
    done = forked.run(tcprules, ["tcprules", str(cdb), f"{cdb}.tmp"], text.encode())
    assert done.exit == 0, done.stderr
    return cdb
