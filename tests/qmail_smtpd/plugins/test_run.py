"""Running one plugin: without descriptors, and on systems without pidfd_open."""

import os
from pathlib import Path
from time import monotonic

import pytest

from qmail_smtpd.plugins import run
from tests.kit.server import PATIENCE, room_for

ENVIRON = dict(os.environb)


def plugin(tmp_path: Path, text: str) -> bytes:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return bytes(path)


@pytest.mark.parametrize(("descriptors", "why"), [(0, b"can't pipe()"), (2, b"can't open /dev/null")])
def test_without_descriptors_a_plugin_has_failed(descriptors: int, why: bytes, tmp_path: Path) -> None:
    line = plugin(tmp_path, "echo E550 no")
    with room_for(descriptors), pytest.raises(run.Failure) as caught:
        run.run(line, ENVIRON, monotonic() + PATIENCE)
    assert caught.value.why == why


def attend(line: bytes, seconds: float = PATIENCE) -> bytes:
    """Return the output of a plugin for whose process there is no descriptor."""
    reader, writer = os.pipe()
    pid = run.spawn([line], ENVIRON, writer)
    os.close(writer)
    try:
        with room_for(0):
            return run.attend(pid, reader, monotonic() + seconds)
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("echo D", b"D\n"),
        ("echo D; exec >&-; sleep 0.05", b"D\n"),
        ("sleep 1000 & echo $! >$0.pid; sleep 0.05; echo D", b"D\n"),  # which holds the pipe
        ("head -c 65536 /dev/zero", bytes(65536)),
    ],
)
def test_without_a_descriptor_for_its_process_a_plugin_works_all_the_same(
    text: str, output: bytes, tmp_path: Path
) -> None:
    line = plugin(tmp_path, text)
    assert attend(line) == output
    for left in tmp_path.glob("*.pid"):
        os.kill(int(left.read_text()), 9)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exec sleep 1000", b"timeout"),
        ("exec >&-; exec sleep 1000", b"timeout"),
        ("kill -9 $$", b"child crashed"),
        ("exit 120", b"can't execute"),
        ("head -c 65537 /dev/zero", b"too much output"),
    ],
)
def test_without_it_a_plugin_fails_for_the_same_reasons(text: str, why: bytes, tmp_path: Path) -> None:
    with pytest.raises(run.Failure) as caught:
        attend(plugin(tmp_path, text), 0.3 if why == b"timeout" else PATIENCE)
    assert caught.value.why == why
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left, not even a zombie
