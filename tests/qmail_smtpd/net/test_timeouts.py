"""The time limits of sessions that tcpserver serves without exec, where the kernel ends a read or write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.server import Server, read_all
from tests.kit.support import script

TIMEOUT = b"451 timeout (#4.4.2)\r\n"
HELLO = b"HELO c\r\n"
MESSAGE = HELLO + b"MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@example.com>\r\nDATA\r\nSubject: t\r\n"


@pytest.fixture(params=["plain", "reuse 1"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    home = make_home(tmp_path, {"me": "mx.example.org\n", "rcpthosts": "example.com\n", "timeoutsmtpd": "1\n"})
    options = ["--reuse", "1"] if request.param == "reuse 1" else []
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home), "SMTPD_LOG": "all"}) as running:
        yield running


@pytest.mark.parametrize("sent", [b"", HELLO, HELLO + b"MAIL FROM:<s@sender.test>", MESSAGE])
def test_a_silent_client_is_timed_out_and_the_next_is_served(server: Server, sent: bytes) -> None:
    for _ in range(2):  # a process that has timed out serves on, or another takes its place
        with server.connect() as client:
            client.sendall(sent)
            assert read_all(client).endswith(TIMEOUT)
    server.wait_for_log(b"reason=timeout", 2)
    with server.connect() as client:
        client.sendall(HELLO + b"QUIT\r\n")
        assert read_all(client).endswith(b"221 mx.example.org\r\n")


def test_a_client_that_does_not_read_its_replies_is_disconnected(server: Server) -> None:
    with server.connect() as client:
        try:
            while True:
                client.sendall(b"HELP\r\n" * 5_000)
        except ConnectionError:
            pass
    server.wait_for_log(b"reason=gone", 1)
