"""The PROXY header before qmail-smtpd, and before the chain with relay-check: who may relay, TLS, a passed socket."""

import os
import re
import smtplib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import proxyheader as made
from tests.kit.login import plain
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import PATIENCE, Server, compiled
from tests.kit.support import script
from tests.kit.tlspeer import Client, certify, trusting

RULES = '127.0.0.1:allow,RELAYCLIENT=""\n192.0.2.7:allow,RELAYCLIENT=""\n192.0.2.8:deny\n:allow\n'
TRANSACTION = "EHLO x\r\n{login}MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@elsewhere.test>\r\nQUIT\r\n"
LOCAL = made.v2(b"", made.UNSPEC, made.LOCAL)
UNKNOWN = b"PROXY UNKNOWN\r\n"
WAYS = {"reused": [], "--reuse 1": ["--reuse", "1"], "--exec": ["--exec"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_home(tmp_path_factory.mktemp("mail") / "home", {**CONTROL, "authcleartext": ""})
    compiled(directory / "cdb", RULES)
    compiled(directory / "plain.cdb", ":allow\n")
    (directory / "users").write_text("joe:{PLAIN}secret\n")
    (directory / "users").chmod(0o640)
    certify(directory / "control")
    return directory


@contextmanager
def serving(home: Path, *words: str, **environ: str) -> Iterator[Server]:
    environ = {"QMAILHOME": str(home), "AUTHSLEEP": "0", "SMTPD_LOG": "all", **environ}
    options = ["-v", "-RHl0", "--proxy-from", "127.0.0.1"]
    with Server([*options, *words], environ=environ) as server:
        yield server


def recipient(server: Server, header: bytes, login: str = "") -> str:
    """The code for a recipient elsewhere. Everything is sent at once, the header included."""
    answer = server.ask(header + TRANSACTION.format(login=login).encode())
    return answer.split(b"\r\n")[-3][:3].decode()  # the last but QUIT's


@pytest.mark.parametrize("way", WAYS)
def test_only_a_client_that_the_proxy_names_relays_by_its_address(home: Path, way: str) -> None:
    users = str(home / "users")
    words = [*WAYS[way], "-x", str(home / "cdb"), "127.0.0.1", "0", script("qmail-smtpd")]
    with serving(home, *words, SMTPAUTHFILE=users, RELAYCLIENT="") as server:
        assert recipient(server, made.v1("127.0.0.1")) == "250"
        assert recipient(server, made.v1("192.0.2.7")) == "250"
        for header in (LOCAL, UNKNOWN):
            assert recipient(server, header) == "553"
            assert recipient(server, header, plain("joe")) == "250"  # a login counts without an address
            assert recipient(server, header, plain("joe", "wrong")) == "553"
            assert recipient(server, made.v1("127.0.0.1")) == "250"
        assert server.ask(made.v1("192.0.2.8") + b"QUIT\r\n") == b""
        log = server.wait_for_log(rb"^tcpserver: deny .*:192.0.2.8::40312$")
        assert re.search(rb"^qmail-smtpd: event=accepted pid=\d+ ip=192.0.2.7 ", log, re.MULTILINE)


class Behind(smtplib.SMTP):
    """A client whose header comes byte by byte before all else."""

    header = b""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        found = socket.create_connection((host, port), timeout)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in self.header:
            found.sendall(bytes([octet]))
        return found


@pytest.mark.parametrize("way", WAYS)
def test_a_message_behind_a_header_that_comes_byte_by_byte_names_the_client(home: Path, way: str) -> None:
    headers = {
        "192.0.2.7": made.v1("192.0.2.7"),
        "192.0.2.9": made.v2(made.ends("192.0.2.9", "192.0.2.25")),
        "2001:db8::7": made.v2(made.ends("2001:db8::7", "2001:db8::25"), made.TCP6),
    }
    before = set((home / "dump").glob("*.m"))
    words = [*WAYS[way], "-x", str(home / "cdb"), "127.0.0.1", "0", script("qmail-smtpd")]
    with serving(home, *words) as server:
        for header in headers.values():
            Behind.header = header
            with Behind("127.0.0.1", server.port, "client.example", PATIENCE) as client:
                client.sendmail("s@sender.test", ["u@example.com"], "Subject: t\r\n\r\nhello\r\n")
    texts = [path.read_bytes() for path in sorted(set((home / "dump").glob("*.m")) - before)]
    assert [text.split(b"(")[2].partition(b")")[0].decode() for text in texts] == list(headers)


@pytest.mark.parametrize("way", WAYS)
def test_a_login_by_pop3_does_not_open_the_relay_for_clients_without_a_name(
    home: Path, tmp_path: Path, way: str
) -> None:
    now = int(time.time())
    for address in ("127.0.0.1", "192.0.2.9"):
        (tmp_path / address).write_text(f"1 {address} pop3 {now} {now + 2400} joe\n")
    words = [*WAYS[way], "-x", str(home / "plain.cdb"), "127.0.0.1", "0", script("relay-check"), script("qmail-smtpd")]
    with serving(home, *words, RELAY_DIR=str(tmp_path), RELAY_PROXIES="::1") as server:
        assert recipient(server, made.v1("192.0.2.9")) == "250"
        assert recipient(server, made.v1("192.0.2.7")) == "553"
        assert recipient(server, made.v1("127.0.0.1")) == "250"
        for header in (LOCAL, UNKNOWN):
            assert recipient(server, header) == "553"


def test_the_address_of_the_proxy_that_the_client_has_connected_to_is_an_address_of_this_host(home: Path) -> None:
    ipv4, ipv6 = b"u@[192.0.2.25]", b"u@[IPv6:2001:db8::25]"
    text = b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nRCPT TO:<%b>\r\nQUIT\r\n" % (ipv4, ipv6)
    own = b"u@mx.example.org"  # localiphost
    words = ["-x", str(home / "cdb"), "127.0.0.1", "0", script("qmail-smtpd")]
    for header, recipients in (
        (made.v1("192.0.2.9"), [own, ipv6]),
        (made.v2(made.ends("2001:db8::9", "2001:db8::25"), made.TCP6), [ipv4, own]),
        (LOCAL, [ipv4, ipv6]),
    ):
        with serving(home, *words) as server:
            assert server.ask(header + text).count(b"\r\n553 ") == 2  # none is in rcpthosts
            log = server.log()
        assert re.findall(rb"event=refused .* recipient=(\S+) ", log) == recipients


@pytest.mark.parametrize(
    "header", [made.v1("192.0.2.7"), made.v2(made.ends("192.0.2.7", "192.0.2.25"))], ids=["v1", "v2"]
)
def test_a_header_and_the_hello_of_tls_may_come_in_one_segment(home: Path, header: bytes) -> None:
    words = ["-x", str(home / "cdb"), "127.0.0.1", "0", script("qmail-smtpd")]
    with serving(home, *words, SMTPS="1") as server, server.connect() as connection:
        client = Client((connection.fileno(), connection.fileno()), trusting(home / "control/servercert.pem"))
        connection.sendall(header + client.hello())
        client.handshake()
        assert client.receive_until(b"\r\n").startswith(b"220 ")
        client.send(b"QUIT\r\n")
        assert client.receive_until(b"\r\n").startswith(b"221 ")
        server.wait_for_log(rb"^tcpserver: ok \d+ 0:192.0.2.25:25 :192.0.2.7::40312$")


def test_a_socket_that_was_passed_on_takes_the_header_too(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        server = Server(
            ["-v", "-RHl0", "--proxy-from", "127.0.0.1", "-x", str(home / "cdb"), "fd:", script("qmail-smtpd")],
            environ={"QMAILHOME": str(home), "LISTEN_FDS": "1"},
            preexec=lambda: os.dup2(descriptor, 3) and None,
            pass_fds=[3, descriptor],
        )
        with server:
            assert recipient(server, made.v1("192.0.2.7")) == "250"
            assert recipient(server, UNKNOWN) == "553"
