"""examples/roaming on a copy of the tree: a login opens relaying for its address, for a while, and nothing else."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.examples import copy_tree, programs_of
from tests.kit.server import PATIENCE, needs_root
from tests.kit.support import free_port

STEPS = [  # what each step of the round prints after `roaming: ok: `
    r"127\.0\.0\.5 to someone@elsewhere\.example: 553 .*, not stored",
    r"127\.0\.0\.5 to someone@example\.com: 250 ok .*, stored",
    r"127\.0\.0\.5 logs in with a wrong password: -ERR authorization failed",
    r"127\.0\.0\.5 to someone@elsewhere\.example: 553 .*, not stored",
    r"127\.0\.0\.5 logs in: \+OK 1 messages",
    r"127\.0\.0\.5 to someone@elsewhere\.example: 250 ok .*, stored",
    r"127\.0\.0\.5, a message of 3000 bytes: 552 .*",
    r"127\.0\.0\.6 to someone@elsewhere\.example: 553 .*, not stored",
    r"127\.0\.0\.7 logs in: \+OK 1 messages",
    r"127\.0\.0\.7 to someone@elsewhere\.example: no answer: .*, not stored",
    r"127\.0\.0\.1 to someone@elsewhere\.example: 250 ok .*, stored",
    r"127\.0\.0\.5 logs in: \+OK 1 messages",
    r"relay-list: 127\.0\.0\.5 +joe@example\.com .*",
    r"127\.0\.0\.5 to someone@elsewhere\.example, \d+\.\d s later: 553 .*",
    r"127\.0\.0\.1 to someone@elsewhere\.example: 250 ok .*, stored",
    r"127\.0\.0\.6 to someone@elsewhere\.example: 553 .*, not stored",
    r"tcp\.smtp\.cdb is unchanged: [0-9a-f]{16}",
]

# It does what .venv/bin/python3 would do, except that pip installs nothing.
PYTHON = """#!/bin/sh
case "$*" in
    *" -m pip install "* | "-m pip install "*) ;;
    *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout whose .venv is there, with our programs in it."""
    found: Path = copy_tree(tmp_path)
    programs = found / ".venv/bin"
    programs.mkdir(parents=True)
    for path in Path(sys.executable).parent.iterdir():
        if not path.name.startswith("python"):
            (programs / path.name).symlink_to(path)
    (programs / "python3").write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    (programs / "python3").chmod(0o755)
    return found


def environment(**changes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PORTS", "PYTHON", "RELAYCLIENT")} | changes


def roaming(tree: Path, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [tree / "examples/roaming", *words]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_check_proves_each_step_and_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    foreign = {
        "PYTHONWARNINGS": "default::ResourceWarning",
        "RELAYCLIENT": "",
        "RELAY_SECONDS": "9999",
        "RELAY_DIR": "/nowhere",
        "RELAY_STORE": "x",
        "USER": "root",
    }
    done = roaming(tree, "--check", TMPDIR=str(temporary), **foreign)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    reported = [
        line.removeprefix("roaming: ok: ") for line in done.stdout.splitlines() if line.startswith("roaming: ok: ")
    ]
    assert len(reported) == len(STEPS)
    for step, line in zip(STEPS, reported, strict=True):
        assert re.fullmatch(step, line)
    (later,) = re.findall(r", (\d+\.\d) s later: ", done.stdout)
    assert float(later) >= 5  # the window has six, and times are whole seconds
    assert programs_of(tree) == []
    assert list(temporary.iterdir()) == []


def refusing(folder: Path, *names: str) -> str:
    """A PATH in which these programs fail, as in a container that refuses what they ask for."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {name}: {name} failed: Operation not permitted >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slow
@needs_root
def test_root_needs_no_user_namespaces(tree: Path, tmp_path: Path) -> None:
    tree.chmod(0o700)  # as in root's home
    done = roaming(tree, "--check", PATH=refusing(tmp_path / "bin", "unshare"))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("roaming: ok: ") == len(STEPS)


@needs_root
def test_root_without_any_other_account_gets_advice(tree: Path, tmp_path: Path) -> None:
    done = roaming(tree, "--check", PATH=refusing(tmp_path / "bin", "unshare", "setpriv"))
    text = "the POP3 server does not run as root, and this host refuses unshare and setpriv: use another account\n"
    assert (done.returncode, done.stderr) == (111, f"roaming: fatal: {text}")
    assert programs_of(tree) == []


@pytest.mark.slow
def test_a_check_of_a_server_that_does_not_ask_the_store_fails_and_shows_the_log(tree: Path) -> None:
    script = tree / "examples/smtp-after-pop/run"
    script.write_text(script.read_text().replace(" relay-check qmail-smtpd\n", " qmail-smtpd\n"))
    done = roaming(tree, "--check")
    assert done.returncode == 1
    assert "roaming: NOT OK: 127.0.0.5 to someone@elsewhere.example: unexpected: 553 " in done.stdout
    assert "tcpserver: " in done.stderr


@contextmanager
def serving(tree: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The example while it serves, and the lines that it has printed itself."""
    command = [tree / "examples/roaming"]
    environ = environment(PORTS=f"{free_port()} {free_port()}")
    process = subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    assert process.stdout
    lines: list[str] = []
    try:
        while not lines or "relay-list" not in lines[-1]:
            line = process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip("\n"))
        yield process, [line for line in lines if not line.startswith("tcpserver: ")]
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.slow
def test_the_commands_that_it_prints_work_and_a_signal_ends_it(tree: Path) -> None:
    with serving(tree) as (process, lines):
        results = [
            subprocess.run(line, shell=True, capture_output=True, text=True) for line in lines if line.startswith("  ")
        ]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert programs_of(tree) == []
    refused, fetched, taken, listed = results
    assert refused.stdout.startswith("553 ")
    assert fetched.stdout == "+OK 1 messages\n"
    assert taken.stdout.startswith("250 ok ")
    assert re.search(r"^127\.0\.0\.5  joe@example\.com ", listed.stdout, re.MULTILINE)


@pytest.mark.parametrize("ports", ["2525", "2525 0", "25 110 143", "smtp pop3", "2525 65536"])
def test_ports_that_are_none_are_a_clear_line(tree: Path, ports: str) -> None:
    done = roaming(tree, PORTS=ports)
    assert (done.returncode, done.stderr) == (
        100,
        f"roaming: fatal: PORTS are not two numbers from 1 to 65535: {ports}\n",
    )


def test_anything_but_check_is_a_usage_error(tree: Path) -> None:
    done = roaming(tree, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (100, "", "usage: examples/roaming [ --check ]\n")
