"""What tests find: our programs next to this interpreter, others in Debian's places, ports that are free."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_PACKAGED = "this system has no package"  # in the reason of a skip that PEERS=1 permits
PACKAGES = {
    "/usr/sbin/smtpfront-qmail": "mailfront",
    "/usr/bin/valkey-server": "valkey-server",
}  # of programs whose package some Debian releases lack
_held_ports: list[socket.socket] = []


def times(count: int) -> int:
    """Return `count` times $EXAMPLES: how much a test with random input tries."""
    return max(1, round(count * float(os.environ.get("EXAMPLES", "1"))))


def script(name: str) -> str:
    """Return the path of one of our console scripts, next to the interpreter that runs the tests."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed: run tests/run, or pip install -e '.[test]'"
    return str(path)


def needs_channel_binding(path: str) -> bool:
    """Whether msmtp or mpop logs in by SCRAM under TLS only where -PLUS is offered (docs/clients.md)."""
    if not os.path.exists(path):
        return False
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(map(int, words[2].split("."))) >= {"msmtp": (1, 8, 26), "mpop": (1, 4, 21)}[words[0]]


def peer(path: str) -> str:
    """Return the path of a program that ours is compared with.

    If it is missing, skip the test, or fail with PEERS=1, unless tests/run has found that its package does not exist.
    """
    if not os.path.exists(path):
        reason = f"peer missing: {path}"
        if PACKAGES.get(path) in os.environ.get("PEERS_ABSENT", "").split():
            pytest.skip(f"{reason}: {NOT_PACKAGED} {PACKAGES[path]}")
        if os.environ.get("PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def is_world_readable(*paths: str | Path) -> bool:
    """Whether every user may read these files and enter their directories, which may be below a private home."""
    files = [file for path in paths for file in (Path(path).absolute(), Path(path).resolve())]
    steps = {step for file in files for step in (file, *file.parents)}
    return all(step.stat().st_mode & (0o001 if step.is_dir() else 0o004) for step in steps)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port for one server of a test. It stays reserved until this process ends.

    A bound socket that does not listen, with SO_REUSEADDR, keeps the kernel from giving the port to another process. A
    server that sets SO_REUSEADDR, as servers do, can still listen on it. Until then clients are refused.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    _held_ports.append(held)
    port: int = held.getsockname()[1]
    return port


def own_uid() -> str:
    """Return a user id of this process's own, without a passwd entry, for a server whose account has a limit."""
    return str(40_000 + os.getpid() % 20_000)  # a container may have 65536 user ids


def own_address(block: int) -> str:
    """Return this process's own address in block 0, 1 or 2 of 127.0.0.0/8, for a server that needs a fixed port.

    It is derived from the process id, which Linux keeps below 2**22.
    """
    pid = os.getpid()
    return f"127.{64 * (1 + block) + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"
