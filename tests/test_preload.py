"""The sessions that a parent holds with nobody before it forks: nobody notices them."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from mailhome import CONTROL, lay_home
from server import Server
from support import script

from qmail_smtpd import main, preload

SHORT = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.com>\r\nRCPT TO:<u@outside.example>\r\nQUIT\r\n"


@pytest.mark.parametrize(
    "control",
    [
        CONTROL,
        {},
        {**CONTROL, "rcpthosts": 0o000, "morercpthosts.cdb": "x" * 2048},
        {"me": "\r\n", "databytes": "many"},
    ],
    ids=["as it should be", "nothing there", "odd files", "odd lines"],
)
def test_rehearsals_leave_no_trace(
    tmp_path: Path, control: Mapping[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    home = lay_home(tmp_path / "home", {name: value for name, value in control.items() if isinstance(value, str)})
    for name, value in control.items():
        if not isinstance(value, str):
            (home / "control" / name).mkdir()  # what even root cannot read as a file
    before = os.getcwd(), sorted(os.listdir("/proc/self/fd")), dict(os.environ), sorted(home.rglob("*"))
    preload.rehearse(os.fsencode(home), main.World)
    assert (os.getcwd(), sorted(os.listdir("/proc/self/fd")), dict(os.environ), sorted(home.rglob("*"))) == before
    assert capfd.readouterr() == ("", "")


def test_a_home_that_is_not_there_yet_does_not_keep_the_server_from_starting(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ["-v", "-RHl0", "--preload", "qmail-smtpd", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        assert server.ask(SHORT).startswith(b"421 ")
        lay_home(home, CONTROL)
        heard = server.ask(SHORT).split(b"\r\n")
        assert [line[:3] for line in heard if line[3:4] == b" "] == [b"220", b"250", b"250", b"250", b"553", b"221"]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        server.ask(SHORT)
        assert server.wait_for_log(rb"tcpserver: end ").count(b"qmail-smtpd: ") == 1  # of the refused recipient
