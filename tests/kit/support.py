"""Where the tests find programs: ours next to this interpreter, C originals and real clients in Debian's places."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_PACKAGED = "this system has no package"  # in the reason of a skip that PEERS=1 permits
PACKAGES = {"/usr/sbin/smtpfront-qmail": "mailfront"}  # of programs whose package some Debian releases lack


def script(name: str) -> str:
    """Return the path of one of our console scripts, next to the interpreter that runs the tests."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed: run tests/run, or pip install -e '.[test]'"
    return str(path)


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
