"""A tcpserver for the tests, ours or Debian's: started with -1 on a free port, its log in a file, ended by its pid."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import pytest

from tcprules.cli import tcprules
from tests.kit import forked
from tests.kit.support import script

PATIENCE = 20.0  # seconds to wait for a condition before it counts as failed; no test measures time with it
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: accounts, low ports, namespaces")
ENVIRON = {"PATH": "/usr/bin:/bin"}
HASTY = """#!{python}
from tcpserver import cli
cli.SERVE = "from tcpserver.parent import serve; serve.DRAIN_GRACE = 0.5; " + cli.SERVE
cli.main()
"""


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
            log = self.log()
            self.__exit__()
            raise AssertionError(f"the server did not start: {log!r}")
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
        """Use one whole connection: send, shut down, read to the end. A reset is an end as well."""
        with self.connect(host, source) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_all(client)

    def wait_for_log(self, pattern: bytes, times: int = 1) -> bytes:
        """Return the log once it contains that many matches of the pattern."""
        until(lambda: len(re.findall(pattern, self.log(), re.MULTILINE)) >= times, lambda: (pattern, self.log()))
        return self.log()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status, which is negative after a signal."""
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


def listens(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    """Wait until the condition holds, and fail after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def masked(log: bytes) -> bytes:
    """Return a log without pids and ports, so that two servers' logs can be compared."""
    log = re.sub(rb"(?m)^(tcpserver: (?:pid|ok|deny|end)) \d+", rb"\1 PID", log)
    return re.sub(rb":\d+( |$)", rb":PORT\1", log, flags=re.MULTILINE)


def refusal(words: Sequence[str | bytes], program: str, environ: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """Return what a server prints that does not start, and its exit status."""
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
    """Return the pids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie: the first process of a container may reap orphans late, or never."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let the tests' own process open only so many further descriptors."""
    found = [os.dup(2) for _ in range(count + 1)]
    for descriptor in found:
        os.close(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # 0 to 2 are always open, and poll takes no more entries than the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (found[-1] if count else 3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_files(files: Mapping[str, Path]) -> list[str]:
    """Return the words before a program that replace files of the system for it. Needs root (mount namespace)."""
    mounts = "".join(f'mount --bind "{found}" {path} && ' for path, found in files.items())
    return ["unshare", "-m", "sh", "-c", f'{mounts}exec "$@"', "sh"]


def open_to_all(directory: Path) -> None:
    """Let every account enter a temporary directory, which pytest creates for its own account."""
    while directory != Path(gettempdir()):
        directory.chmod(0o755)
        directory = directory.parent


def hasty(directory: Path) -> str:
    """Write a tcpserver that waits half a second between TERM and KILL, instead of five, and return its path."""
    path = directory / "tcpserver"
    path.write_text(HASTY.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def compiled(cdb: Path, text: str) -> Path:
    """Compile a rules file with our tcprules, without its start-up."""
    done = forked.run(tcprules, ["tcprules", str(cdb), f"{cdb}.tmp"], text.encode())
    assert done.exit == 0, done.stderr
    return cdb
