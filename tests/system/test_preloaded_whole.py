"""qmail-smtpd and maildir-queue preloaded: a whole session, message included, without a single exec."""

import re
from pathlib import Path

import pytest

from tests.kit.mailserver import Server
from tests.kit.support import script
from tests.kit.tracer import traced

PRELOAD = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
MESSAGE = "Subject: t\n\nhello\n"


def send(server: Server) -> None:
    with server.smtp() as smtp:
        smtp.sendmail("me@home.example", "someone@example.com", MESSAGE)


@pytest.mark.peer
@pytest.mark.parametrize(("options", "programs"), [(PRELOAD, set()), (["--exec"], {"qmail-smtpd", "maildir-queue"})])
def test_a_preloaded_session_is_stored_without_an_exec(options: list[str], programs: set[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, options) as server:
        with traced(server.process.pid, "-e", "trace=execve", "-o", trace):
            send(server)
        assert server.bodies() == [MESSAGE.encode()]
    assert {Path(path).name for path in re.findall(r'execve\("([^"]*)"', trace.read_text())} >= programs
    assert programs or "execve" not in trace.read_text()


def test_a_queue_program_that_is_not_preloaded_is_exec_ed(tmp_path: Path) -> None:
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, PRELOAD[:2]) as server:
        send(server)
        assert server.bodies() == [MESSAGE.encode()]


def test_a_preloaded_queue_program_reports_its_failures_as_an_exec_ed_one(tmp_path: Path) -> None:
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, PRELOAD) as server:
        server.maildir.write_text("no directory\n")
        with server.smtp() as smtp:
            smtp.mail("me@home.example")
            smtp.rcpt("someone@example.com")
            assert smtp.data(MESSAGE) == (451, b"qq trouble in home directory (#4.3.0)")
            server.maildir.unlink()
        send(server)
        assert server.bodies() == [MESSAGE.encode()]
