"""Where the tests find programs: ours beside this interpreter, C originals and real clients where Debian puts them."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def script(name: str) -> str:
    """The path of one of our console scripts, installed beside the interpreter that runs the tests."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed: run tests/run, or pip install -e '.[test]'"
    return str(path)


def peer(path: str) -> str:
    """The path of a program that ours is compared with. Without it the test is skipped; with PEERS=1 it fails."""
    if not os.path.exists(path):
        reason = f"peer missing: {path}"
        if os.environ.get("PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
