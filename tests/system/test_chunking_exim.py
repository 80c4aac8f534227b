"""Exim as the sender, which uses BDAT by itself where CHUNKING is offered: messages of one chunk and of several."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server
from tests.kit.support import ROOT, peer, script

EXIM = str(ROOT / ".venv/exim/usr/sbin/exim4")
USER = "Debian-exim"  # compiled in: without this user Exim does not start
CONFIGURATION = """\
exim_path = {exim}
exim_user = daemon
exim_group = daemon
spool_directory = {top}/spool
log_file_path = {top}/%slog
primary_hostname = sender.test
keep_environment =
never_users =
begin routers
all:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1
  self = send
begin transports
out:
  driver = smtp
  port = {port}
  hosts_avoid_tls = *
"""
IN_ITS_NAMESPACE = """\
mount --bind passwd /etc/passwd && mount --bind group /etc/group || exit 99
exec "$0" -C "$PWD/configuration" -v -odf -oi -f a@sender.test u@example.com
"""
LINES = b"a line\n.\n..\nQUIT\nMAIL FROM:<x@y>\n"

pytestmark = [pytest.mark.peer, pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Exim")]


@pytest.fixture
def top() -> Iterator[Path]:
    """Yield a directory that Exim's user can write to, with files for /etc that have this user."""
    top = Path(tempfile.mkdtemp(prefix="exim-"))
    (top / "spool").mkdir()
    for path in (top / "spool", top):
        path.chmod(0o777)
    (top / "passwd").write_text(Path("/etc/passwd").read_text() + f"{USER}:x:65111:65111::/:/bin/false\n")
    (top / "group").write_text(Path("/etc/group").read_text() + f"{USER}:x:65111:\n")
    yield top
    shutil.rmtree(top)


def send(top: Path, port: int, text: bytes) -> str:
    """Let Exim send a message now. Return what it prints about the dialogue."""
    (top / "configuration").write_text(CONFIGURATION.format(exim=peer(EXIM), top=top, port=port))
    words = ["unshare", "--mount", "sh", "-c", IN_ITS_NAMESPACE, EXIM]
    done = subprocess.run(words, input=text, cwd=top, capture_output=True)
    if done.returncode == 99:
        pytest.skip("no mount namespaces here")
    return (done.stdout + done.stderr).decode("latin-1")


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (20_000, 2)])
def test_exim_sends_by_bdat_and_the_message_arrives_whole(tmp_path: Path, top: Path, count: int, chunks: int) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "chunking": ""})
    text = b"Subject: x\n\n" + LINES * count
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ={"QMAILHOME": str(home)}) as server:
        dialogue = send(top, server.port, text)
        assert "Completed" in dialogue, dialogue
    assert dialogue.count("BDAT ") >= chunks
    assert " DATA" not in dialogue
    [message] = [file.read_bytes() for file in (home / "dump").glob("*.m")]
    assert message.endswith(b"\n\n" + LINES * count)


def test_exim_sends_by_data_where_chunking_is_not_offered(tmp_path: Path, top: Path) -> None:
    home = make_home(tmp_path / "home")
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ={"QMAILHOME": str(home)}) as server:
        dialogue = send(top, server.port, b"Subject: x\n\n" + LINES)
    assert "BDAT" not in dialogue
    assert "Completed" in dialogue
