"""A client that writes behind QUIT, or goes on behind a 421 or 451: it gets every reply, and the server is free soon.

Without care, the kernel resets such a connection, and replies that are on their way are lost.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from qmail_smtpd.net.wire import LAST_BYTES, LAST_SECONDS
from tests.kit.maildrop import AS_NON_ROOT, ENVIRON, Maildir
from tests.kit.mailhome import CONTROL, MESSAGE, make_home
from tests.kit.server import Server, read_all
from tests.kit.support import script
from tests.kit.tlspeer import Client, certify, trusting

WAYS = {"exec'd": ["--exec"], "called": ["--reuse", "1"], "reused": ["--reuse", "100"]}
BEHIND = b"NOOP\r\n" * 10_000
LATE = 0.3  # seconds until the client reads: a reset has arrived by then
TIMES = 4
GREETING = b"220 mx.example.org ESMTP\r\n"
STORED = b"250 ok\r\n250 ok\r\n354 go ahead\r\n250 ok "
BEGIN = MESSAGE.partition("Subject")[0].encode()

# What the client sends -> the last reply.
ENDS = {
    "QUIT": (MESSAGE.encode() + b"QUIT\r\n" + BEHIND, b"221 mx.example.org\r\n"),
    "too many errors": (MESSAGE.encode() + b"x\r\n" * 5 + BEHIND, b"421 too many errors (#4.7.0)\r\n"),
    "a bare LF": (MESSAGE.encode() + BEGIN + b"a\nb" + BEHIND, b"451 See https://cr.yp.to/docs/smtplf.html.\r\n"),
}


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    home = make_home(tmp_path / "home", {**CONTROL, "maxerrors": "4\n"})
    words = ["-v", "-RHl0", *WAYS[request.param], "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home), "SMTPD_LOG": "none"}) as server:
        yield server


def read_late(client: socket.socket, data: bytes) -> bytes:
    """Send the data, wait, and return what the server has sent."""
    with suppress(OSError):  # the server has closed the connection already
        client.sendall(data)
    time.sleep(LATE)
    return read_all(client)


@pytest.mark.parametrize("case", ENDS)
def test_all_replies_arrive_also_at_a_client_that_goes_on(server: Server, case: str) -> None:
    sent, last = ENDS[case]
    for _ in range(TIMES):
        with server.connect() as client:
            assert client.recv(100) == GREETING
            replies = read_late(client, sent)
        assert replies.startswith(STORED)
        assert replies.endswith(b"\r\n" + last)


def test_the_reason_for_no_session_arrives(server: Server, tmp_path: Path) -> None:
    (tmp_path / "home/control/rcpthosts").unlink()
    (tmp_path / "home/control/rcpthosts").symlink_to("nowhere")
    for _ in range(TIMES):
        with server.connect() as client:
            assert read_late(client, BEHIND) == b"421 unable to read controls (#4.3.0)\r\n"


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_all_replies_arrive_under_tls(options: list[str], tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    certify(home / "control")
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    environ = {"QMAILHOME": str(home), "SMTPD_LOG": "none", "SMTPS": "1"}
    with Server(words, environ=environ) as server:
        for _ in range(TIMES):
            with server.connect() as connection:
                client = Client((connection.fileno(),) * 2, trusting(home / "control/servercert.pem")).handshake()
                client.send(MESSAGE.encode() + b"QUIT\r\n")
                with suppress(OSError):
                    for _ in range(20):
                        client.send(BEHIND[:6000])
                time.sleep(LATE)
                replies = client.receive_all()
            assert replies.startswith(GREETING + STORED)
            assert replies.endswith(b"\r\n221 mx.example.org\r\n")


# POP3


@pytest.fixture(params=WAYS)
def pop3(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    Maildir(tmp_path / "Maildir").put("new/1.host", b"x" * 100)
    checker = tmp_path / "checker"
    checker.write_text('#!/bin/sh\nread -r line <&3\ncase "$line" in joe*) exec "$@";; esac\nexit 1\n')
    checker.chmod(0o755)
    chain = [script("qmail-popup"), "mail.example.org", str(checker), *AS_NON_ROOT, script("qmail-pop3d"), "Maildir"]
    with Server(
        ["-v", "-RHl0", *WAYS[request.param], "127.0.0.1", "0", *chain], environ=ENVIRON, cwd=tmp_path
    ) as server:
        yield server


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        (b"QUIT\r\n", b"+OK \r\n"),
        (b"USER nobody\r\nPASS x\r\n", b"+OK \r\n-ERR authorization failed\r\n"),
        (b"USER joe\r\nPASS x\r\nSTAT\r\nQUIT\r\n", b"+OK \r\n+OK \r\n+OK 1 102\r\n+OK \r\n"),
    ],
    ids=["QUIT", "a wrong password", "QUIT after the login"],
)
def test_all_replies_of_pop3_arrive(pop3: Server, sent: bytes, last: bytes) -> None:
    for _ in range(TIMES):
        with pop3.connect() as client:
            assert client.recv(100).startswith(b"+OK <")
            assert read_late(client, sent + BEHIND) == last


# The server's end


@pytest.mark.parametrize("goes_on", [False, True], ids=["silent", "sending"])
def test_a_client_that_does_not_close_its_connection_is_disconnected_soon(server: Server, goes_on: bool) -> None:
    start = time.monotonic()
    with server.connect() as client:
        client.sendall(b"QUIT\r\n")
        while time.monotonic() - start < 20 and b"tcpserver: end " not in server.log():
            with suppress(OSError):
                if goes_on:
                    client.sendall(b"x")
            time.sleep(0.01)
        assert LAST_SECONDS - 0.1 < time.monotonic() - start < 20
    assert b" status 0\n" in server.wait_for_log(rb"^tcpserver: end ")


def test_a_client_that_floods_the_connection_is_disconnected_at_once(server: Server) -> None:
    with server.connect() as client, suppress(OSError):
        client.sendall(b"QUIT\r\n" + bytes(LAST_BYTES))
        for _ in range(100):
            client.sendall(bytes(LAST_BYTES))
        pytest.fail("the server reads on")


def test_a_client_that_closes_after_quit_is_not_waited_for(server: Server) -> None:
    server.ask(b"QUIT\r\n")
    server.wait_for_log(rb"^tcpserver: end ")
    start = time.monotonic()
    for number in range(2, 7):
        with server.connect() as client:
            client.sendall(b"QUIT\r\n")
            assert read_all(client).endswith(b"221 mx.example.org\r\n")
        server.wait_for_log(rb"^tcpserver: end ", number)
    assert time.monotonic() - start < 5 * LAST_SECONDS


ENDS_OF_PROGRAMS = {"qmail-smtpd": 0, "qmail-popup": 1, "qmail-pop3d": 0}  # the exit codes of the originals


@pytest.mark.parametrize("program", ENDS_OF_PROGRAMS)
def test_a_session_whose_output_alone_is_no_socket_ends_as_usual(program: str, tmp_path: Path) -> None:
    """As in `sh -c 'qmail-pop3d Maildir | tee -a copy'`."""
    Maildir(tmp_path / "Maildir")
    environ = {**ENVIRON, "QMAILHOME": str(make_home(tmp_path / "home")), "SMTPD_LOG": "none"}
    client, server = socket.socketpair()
    with client, server:
        client.sendall(b"QUIT\r\n")
        client.shutdown(socket.SHUT_WR)
        words = [*AS_NON_ROOT, script(program), "Maildir", "true"]
        done = subprocess.run(words, stdin=server, capture_output=True, cwd=tmp_path, env=environ, check=False)
    assert (done.returncode, done.stderr) == (ENDS_OF_PROGRAMS[program], b"")
    assert done.stdout.endswith((b"221 mx.example.org\r\n", b"+OK \r\n+OK \r\n", b">\r\n+OK \r\n"))
