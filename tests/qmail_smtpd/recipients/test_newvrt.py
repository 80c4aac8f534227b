"""qmail-newvrt: the records of the cdb, and the error messages."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.support import peer, script


def run_newvrt(home: Path) -> "subprocess.CompletedProcess[bytes]":
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    return subprocess.run([script("qmail-newvrt"), "ignored"], env=environ, capture_output=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    (home / "control/validrcptto").write_bytes(b"Joe@example.com\n# no\n-spam@example.com \t\n\njoe-*@example.com")
    return home


@pytest.mark.peer
def test_the_c_reader_finds_the_records_of_the_patch(home: Path) -> None:
    cdb = peer("/usr/bin/cdb")
    assert run_newvrt(home).returncode == 0
    status = (home / "control/validrcptto").stat()
    stamp = b"%d %d" % (status.st_size, status.st_mtime_ns)
    dump = subprocess.run([cdb, "-d", home / "control/validrcptto.cdb"], capture_output=True, check=True).stdout
    assert dump == (
        b"+15,0:joe@example.com->\n+16,1:spam@example.com->-\n+23,0:joe-default@example.com->\n"
        b"+13,0:\0@example.com->\n+1,%d:\0->%b\n\n" % (len(stamp), stamp)
    )


def test_the_cdb_is_world_readable_and_writable_by_its_owner(home: Path) -> None:
    done = run_newvrt(home)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (home / "control/validrcptto.cdb").stat().st_mode & 0o777 == 0o644
    assert not (home / "control/validrcptto.tmp").exists()


def test_mistakes_are_named(home: Path) -> None:
    (home / "control/validrcptto").write_bytes(b"@a.test\r\n-x@b.test\n")
    done = run_newvrt(home)
    start = b"qmail-newvrt: warning: control/validrcptto "
    assert done.stderr.splitlines() == [
        start + rb"has lines without effect: @a.test\x0d: a CR at the end",
        start + b"accepts no recipient of b.test; @b.test accepts those that it does not refuse",
    ]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ("missing", b"unable to read control/validrcptto: file does not exist"),
        ("directory", b"unable to read control/validrcptto: is a directory"),
        ("tmp", b"unable to create control/validrcptto.tmp: is a directory"),
        ("home", b"unable to chdir to %b: file does not exist"),
    ],
)
def test_an_error_is_one_line_and_the_old_cdb_stays(home: Path, trouble: str, text: bytes) -> None:
    (home / "control/validrcptto.cdb").write_bytes(b"old")
    place = home
    if trouble in ("missing", "directory"):
        (home / "control/validrcptto").unlink()
    if trouble == "directory":
        (home / "control/validrcptto").mkdir()
    if trouble == "tmp":
        (home / "control/validrcptto.tmp").mkdir()
    if trouble == "home":
        place = home / "none"
        text %= bytes(place)
    done = run_newvrt(place)
    assert (done.returncode, done.stderr) == (111, b"qmail-newvrt: fatal: " + text + b"\n")
    assert (home / "control/validrcptto.cdb").read_bytes() == b"old"
