"""Ctrl-C ends each program by the signal, without a traceback, wherever it waits."""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.kit.answering import Silent
from tests.kit.pairs import PATH
from tests.kit.peers.listserver import SILENT, ListServer
from tests.kit.server import PATIENCE, needs_root, until
from tests.kit.support import own_address, script

CHECKERS = ["cmd5checkpw", "checkusers", "checkdovecot"]
CREDENTIALS = 3  # the descriptor that a checker reads


class Mute:
    """A server that accepts a connection, and sends nothing."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.listener = socket.create_server((host, port))
        self.listener.settimeout(PATIENCE)
        self.port: int = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []

    def __enter__(self) -> "Mute":
        return self

    def __exit__(self, *_: object) -> None:
        for held in (self.listener, *self.accepted):
            held.close()

    def has_client(self) -> bool:
        self.accepted.append(self.listener.accept()[0])
        return True


@pytest.fixture
def mute() -> Iterator[Mute]:
    with Mute() as server:
        yield server


def interrupted(words: Sequence[str], waits: Callable[[], object], environ: Mapping[str, str] | None = None) -> None:
    """Start a program, and interrupt it and its children when it waits."""
    process = subprocess.Popen(
        [script(words[0]), *words[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH, **(environ or {})},
        start_new_session=True,
    )
    end_of(process, waits)


def end_of(process: "subprocess.Popen[bytes]", waits: Callable[[], object]) -> None:
    try:
        until(waits)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (-signal.SIGINT, b"")


def connecting(port: int) -> int:
    """How many sockets wait for the answer of this port (proc(5), tcp: st 02 is SYN_SENT)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "02" for line in lines)


CLIENTS = {
    "tcpclient": ["-RHl0", "HOST", "PORT", "true"],
    "mconnect": ["HOST", "PORT"],
    "tcpcat": ["HOST", "PORT"],
    "http@": ["HOST", "", "PORT"],
    "who@": ["HOST"],
    "date@": ["HOST"],
    "finger@": ["HOST"],
}
PORTS = {"who@": 11, "date@": 13, "finger@": 79}


@needs_root
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_interrupted_while_it_connects(name: str) -> None:
    with Silent(own_address(1), PORTS.get(name, 0)) as silent:
        before = connecting(silent.port)
        values = {"HOST": own_address(1), "PORT": str(silent.port)}
        words = [values.get(word, word) for word in CLIENTS[name]]
        interrupted([name, *words], lambda: connecting(silent.port) > before)


@pytest.mark.parametrize("words", [["mconnect"], ["tcpcat"], ["http@"]], ids=" ".join)
def test_a_client_is_interrupted_while_its_server_sends_nothing(words: list[str], mute: Mute) -> None:
    more = [""] if words == ["http@"] else []
    interrupted([*words, "127.0.0.1", *more, str(mute.port)], mute.has_client)


@needs_root
def test_tcpclient_is_interrupted_while_it_asks_for_the_user(mute: Mute) -> None:
    host = own_address(1)
    with Mute(host) as server, Mute(host, 113) as ident:
        interrupted(["tcpclient", "-Hl0", host, str(server.port), "true"], ident.has_client)


@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
def test_a_program_between_pipes_is_interrupted_with_the_process_that_copies(name: str, tmp_path: Path) -> None:
    """The log of recordio has the program's first line, and no more."""
    log = tmp_path / "log"
    with open(log, "wb") as written:
        process = subprocess.Popen(
            [script(name), "sh", "-c", "echo ready; exec sleep 60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            env={"PATH": PATH},
            start_new_session=True,
        )
    assert process.stdout
    assert process.stdout.readline() == (b"ready\r\n" if name == "fixcrio" else b"ready\n")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert log.read_bytes() == (b"%d > ready \n" % process.pid if name == "recordio" else b"")


@needs_root
def test_rblsmtpd_is_interrupted_while_it_asks() -> None:
    with ListServer(own_address(1), {"1.2.0.192.list.test": SILENT}) as names:
        environ = {"TCPREMOTEIP": "192.0.2.1", "DNSCACHEIP": names.host}
        interrupted(["rblsmtpd", "-r", "list.test", "true"], lambda: names.asked, environ)


def is_empty(descriptor: int) -> bool:
    """Whether nothing is left to be read from the other end of a pipe."""
    return bool(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))) == (0,))


@pytest.mark.parametrize("name", CHECKERS)
def test_a_checker_is_interrupted_while_it_reads_the_credentials(name: str) -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"exec {script(name)} true {CREDENTIALS}<&0"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH},
        start_new_session=True,
    )
    assert process.stdin
    os.write(process.stdin.fileno(), b"joe")
    end_of(process, lambda: is_empty(process.stdin.fileno()) if process.stdin else False)


@pytest.mark.parametrize("name", ["addcr", "delcr", "tcprules"])
def test_a_filter_is_interrupted_while_it_reads(name: str, tmp_path: Path) -> None:
    words = [str(tmp_path / "cdb"), str(tmp_path / "tmp")]
    process = subprocess.Popen(
        [script(name), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    os.write(process.stdin.fileno(), b"10.:allow")
    end_of(process, lambda: is_empty(process.stdin.fileno()) if process.stdin else False)
    assert list(tmp_path.iterdir()) == []


def test_checkusers_is_interrupted_while_it_reads_a_password(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [script("checkusers"), "--set", "joe"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH, "CHECKUSERS_FILE": str(tmp_path / "users")},
        start_new_session=True,
    )
    assert process.stdin
    os.write(process.stdin.fileno(), b"secr")
    end_of(process, lambda: is_empty(process.stdin.fileno()) if process.stdin else False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["relay-check", "relay-allow"])
def test_a_program_of_a_chain_is_interrupted_while_its_store_is_silent(name: str, mute: Mute) -> None:
    store = f"redis://127.0.0.1:{mute.port}/0"
    client = {"TCPREMOTEIP": "192.0.2.1", "USER": "joe", "RELAY_TIMEOUT": "60"}
    interrupted([name, "true"], mute.has_client, {"RELAY_STORE": store, **client})


def test_rcptcheck_postfix_is_interrupted_while_its_server_is_silent(mute: Mute) -> None:
    server = f"inet:127.0.0.1:{mute.port}"
    environ = {"RCPTCHECK_SERVER": server, "RECIPIENT": "joe@example.org", "SENDER": ""}
    interrupted(["rcptcheck-postfix"], mute.has_client, environ)


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    """A shell without job control ignores SIGINT in this way for the programs that it starts in the background."""
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {script('addcr')}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    os.write(process.stdin.fileno(), b"\n")
    assert os.read(process.stdout.fileno(), 10) == b"\r\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(b"\n", PATIENCE) == (b"\r\n", None)
    assert process.returncode == 0
