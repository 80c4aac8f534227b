"""What a program that runs once a connection loads: the list of its imports in a fresh interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mailhome import MESSAGE, lay_home
from support import script

# Each of these costs 0.9 ms (cdblib) to 24 ms (click) of every connection.
FORBIDDEN = {
    "_ssl",
    "argparse",
    "asyncio",
    "cdblib",
    "click",
    "collections",
    "dataclasses",
    "email",
    "enum",
    "functools",
    "getopt",
    "hmac",
    "logging",
    "pathlib",
    "re",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "typing",
}
SMTPD_MODULES = 22  # measured: 18 before the greeting, 22 with a message; 19 of them are rooms of ours
QUEUE_MODULES = 10  # measured: 8


def imported(argv: list[str], home: Path, first: bytes, second: Path | None = None) -> set[str]:
    """The modules that a Python program loads in its whole life; `first` is on its descriptor 0, the file on 1."""
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "QUEUE_MAILDIR": str(home / "Maildir")}
    with open(second, "rb") if second else open(os.devnull, "wb") as descriptor_1:
        command = [sys.executable, "-X", "importtime", *argv]
        done = subprocess.run(
            command, env=environ, input=first, stdout=descriptor_1, stderr=subprocess.PIPE, check=True
        )
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return imported(["-c", "pass"], tmp_path_factory.mktemp("bare"), b"")


def check(loaded: set[str], most: int) -> None:
    assert len(loaded) > 2, "the list of imports is not what it was"
    assert not {module for module in loaded if module.split(".")[0] in FORBIDDEN}
    assert len(loaded) <= most, sorted(loaded)


@pytest.mark.parametrize("text", ["", MESSAGE], ids=["greeting", "message"])
def test_qmail_smtpd_loads_only_cheap_modules_and_few(text: str, bare: set[str], tmp_path: Path) -> None:
    home = lay_home(tmp_path / "home")
    check(imported([script("qmail-smtpd")], home, text.encode() + b"QUIT\r\n") - bare, SMTPD_MODULES)
    assert len(list((home / "dump").glob("*.m"))) == bool(text)


def test_maildir_queue_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    envelope = tmp_path / "envelope"
    envelope.write_bytes(b"Fs@s.test\0Tu@ok.test\0\0")
    check(imported([script("maildir-queue")], tmp_path, b"hello\n", envelope) - bare, QUEUE_MODULES)
    assert len(list((tmp_path / "Maildir/new").iterdir())) == 1
