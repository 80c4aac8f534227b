"""Clients that use DATA where CHUNKING is offered (docs/clients.md). Their text with bare LFs arrives whole."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server
from tests.kit.support import peer, script

pytestmark = pytest.mark.peer
SENDER, INSIDE = "s@sender.test", "u@example.com"
TEXT = "Subject: t\n\none\n.\n..\nQUIT\n\nlast\n"


def curl(port: int) -> list[str]:
    words = [peer("/usr/bin/curl"), "-sS", "--crlf", "--mail-from", SENDER, "--mail-rcpt", INSIDE, "-T", "-"]
    return [*words, f"smtp://127.0.0.1:{port}"]


def swaks(port: int) -> list[str]:
    return [peer("/usr/bin/swaks"), "--server", f"127.0.0.1:{port}", "--from", SENDER, "--to", INSIDE, "--data", "-"]


def msmtp(port: int) -> list[str]:
    return [
        peer("/usr/bin/msmtp"),
        "--file=/dev/null",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--from={SENDER}",
        INSIDE,
    ]


@pytest.mark.parametrize("client", [curl, swaks, msmtp], ids=lambda client: client.__name__)
def test_a_client_sends_by_data_where_chunking_is_offered(tmp_path: Path, client: Callable[[int], list[str]]) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "chunking": ""})
    words = ["-RHl0", "127.0.0.1", "0", script("recordio"), script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        subprocess.run(client(server.port), input=TEXT, capture_output=True, text=True, check=True, timeout=90)
        log = server.wait_for_log(rb" > 221 ")
    assert b"250 CHUNKING" in log
    assert b" < DATA" in log
    assert b" < BDAT" not in log
    (message,) = (path.read_bytes() for path in (home / "dump").glob("*.m"))
    assert message.rstrip(b"\n").endswith(b"\n" + TEXT.rstrip("\n").encode())
