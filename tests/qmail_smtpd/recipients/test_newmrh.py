"""qmail-newmrh: the records of the cdb, and the error messages."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home, talk
from tests.kit.support import peer, script


def run_newmrh(home: Path) -> "subprocess.CompletedProcess[bytes]":
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    return subprocess.run([script("qmail-newmrh"), "ignored"], env=environ, capture_output=True, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    (home / "control/morercpthosts").write_bytes(b"More.test\n# no\n.deep.test \t\n\n #x\nlast.test")
    return home


def test_a_domain_is_accepted_from_the_next_session_on(home: Path) -> None:
    session = "MAIL <a@b>\r\nRCPT <u@MORE.test>\r\nRCPT <u@x.deep.test>\r\nRCPT <u@last.test>\r\nRCPT <u@deep.test>\r\n"
    assert talk(home, session).codes == ["220", "250", "553", "553", "553", "553"]
    done = run_newmrh(home)
    warning = rb"has entries that match nothing: a comment after an entry, a blank"
    assert done.stderr == b"qmail-newmrh: warning: control/morercpthosts " + warning + b"\n"
    assert (done.returncode, done.stdout) == (0, b"")
    assert talk(home, session).codes == ["220", "250", "250", "250", "250", "553"]
    (home / "control/morercpthosts").write_bytes(b"deep.test\n")
    assert run_newmrh(home).returncode == 0
    assert talk(home, session).codes == ["220", "250", "553", "553", "553", "250"]


def test_the_cdb_is_world_readable_and_writable_by_its_owner(home: Path) -> None:
    run_newmrh(home)
    assert (home / "control/morercpthosts.cdb").stat().st_mode & 0o777 == 0o644
    assert not (home / "control/morercpthosts.tmp").exists()


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"a.test\n.b.test\n", b""),
        (b"*.a.test\n", b"a *; write .a.test instead of *.a.test"),
        (b"\xef\xbb\xbfa.test\n", rb"a byte order mark at the beginning; write a.test instead of \xef\xbb\xbfa.test"),
        (b"a.test\r\n", rb"a CR at the end; write a.test instead of a.test\x0d"),
    ],
)
def test_entries_that_match_nothing_are_named(home: Path, content: bytes, warning: bytes) -> None:
    (home / "control/morercpthosts").write_bytes(content)
    done = run_newmrh(home)
    prefix = b"qmail-newmrh: warning: control/morercpthosts has entries that match nothing: "
    assert done.stderr == (prefix + warning + b"\n" if warning else b"")
    assert done.returncode == 0


@pytest.mark.peer
def test_the_c_reader_finds_the_entries(home: Path) -> None:
    cdb = peer("/usr/bin/cdb")
    run_newmrh(home)
    dump = subprocess.run([cdb, "-d", home / "control/morercpthosts.cdb"], capture_output=True, check=True).stdout
    assert dump == b"+9,0:more.test->\n+10,0:.deep.test->\n+3,0: #x->\n+9,0:last.test->\n\n"


def test_a_missing_qmail_home_is_an_error(tmp_path: Path) -> None:
    done = run_newmrh(tmp_path / "none")
    text = b"qmail-newmrh: fatal: unable to chdir to %s/none: file does not exist\n" % bytes(tmp_path)
    assert (done.returncode, done.stderr) == (111, text)


def test_a_missing_text_file_is_an_error(home: Path) -> None:
    (home / "control/morercpthosts").unlink()
    done = run_newmrh(home)
    text = b"qmail-newmrh: fatal: unable to read control/morercpthosts: file does not exist\n"
    assert (done.returncode, done.stderr) == (111, text)


def test_a_directory_in_place_of_the_text_file_is_an_error(home: Path) -> None:
    (home / "control/morercpthosts").unlink()
    (home / "control/morercpthosts").mkdir()
    done = run_newmrh(home)
    text = b"qmail-newmrh: fatal: unable to read control/morercpthosts: is a directory\n"
    assert (done.returncode, done.stderr) == (111, text)


def test_a_directory_in_place_of_the_temporary_file_is_an_error(home: Path) -> None:
    (home / "control/morercpthosts.tmp").mkdir()
    done = run_newmrh(home)
    text = b"qmail-newmrh: fatal: unable to write to control/morercpthosts.tmp: is a directory\n"
    assert (done.returncode, done.stderr) == (111, text)
    assert not (home / "control/morercpthosts.cdb").exists()
