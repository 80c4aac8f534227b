"""TLS on a Wire: real handshakes over sockets and pipes, and invalid data in place of them."""

import fcntl
import os
import random
import re
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmail_smtpd.net import certificate, tls
from qmail_smtpd.net.wire import Closed, TimedOut, TlsBroken, Wire
from tests.kit.tlspeer import Client, certify, get_all, insecure_context, trusting

EXIT_CODES = {"done": 0, "crashed": 1, "broken": 2, "closed": 3, "timed out": 4, "unavailable": 5}
NORMAL_ENDS = (("done", b""), ("closed", b""))  # the second if the client disconnects before close_notify is sent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "control").mkdir()
    certify(home / "control")
    return home


def trusted(home: Path) -> ssl.SSLContext:
    return trusting(home / "control/servercert.pem")


def echo_capitals(wire: Wire) -> None:
    """Serve by echoing all input in capitals."""
    while data := wire.read():
        wire.write(data.upper())


def count_bytes(wire: Wire) -> None:
    """Serve by reading to the end, as in DATA, and replying with the number of bytes."""
    size = 0
    while data := wire.read_data():
        size += len(data)
        if data.endswith(b"."):
            wire.write(b"%d\n" % size)


class ForkedServer:
    """A forked server of one connection, on a socket or two pipes. `ends`: the client's, for reading and writing."""

    def __init__(
        self,
        home: Path,
        kind: str = "socket",
        serve: Callable[[Wire], None] = echo_capitals,
        timeout: float = 20,
        seconds: float = 0,
    ) -> None:
        if kind == "socket":
            client_end, server_end = socket.socketpair()
            client = client_end.detach()
            self.ends, servers = (client, client), [server_end.detach()] * 2
        else:
            (server_in, client_out), (client_in, server_out) = os.pipe(), os.pipe()
            self.ends, servers = (client_in, client_out), [server_in, server_out]
        self.log, log = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                for end in {*self.ends, self.log}:
                    os.close(end)
                for number, descriptor in enumerate([*servers, log]):
                    os.dup2(descriptor, number)
                for descriptor in {*servers, log} - {0, 1, 2}:
                    os.close(descriptor)
                os.chdir(home)
                os._exit(EXIT_CODES[run(serve, timeout, seconds)])
            finally:
                os._exit(EXIT_CODES["crashed"])
        for descriptor in {*servers, log}:
            os.close(descriptor)

    def __enter__(self) -> "ForkedServer":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in {*self.ends, self.log}:
            try:
                os.close(descriptor)
            except OSError:
                pass
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def disconnect(self) -> None:
        for descriptor in set(self.ends):
            os.close(descriptor)

    def wait_for_end(self) -> tuple[str, bytes]:
        """Return how the server ended, and the reason it reported."""
        handle = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        assert poller.poll(20_000), "the server has not ended"
        os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return next(name for name, number in EXIT_CODES.items() if number == status), get_all(self.log)


def run(serve: Callable[[Wire], None], timeout: float, seconds: float) -> str:
    """Serve one client on descriptors 0 and 1, and return a key of EXIT_CODES."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    wire = Wire(timeout)
    wire.set_limits(timeout, seconds)
    try:
        tls.accept(wire, certificate.context())
        serve(wire)
        wire.close()
    except TlsBroken as broken:
        os.write(2, broken.why)
        return "broken"
    except Closed:
        return "closed"
    except TimedOut as error:
        os.write(2, type(error).__name__.encode())
        return "timed out"
    except certificate.TlsUnavailable as error:
        os.write(2, error.why)
        return "unavailable"
    return "done"


# Data under TLS.


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_data_passes_in_both_directions(home: Path, kind: str, piece: int) -> None:
    with ForkedServer(home, kind) as server:
        client = Client(server.ends, trusted(home), piece).handshake()
        for word in (b"one\r\n", b"two\r\n"):
            client.send(word)
            assert client.receive() == word.upper()
        server.disconnect()
        assert server.wait_for_end() in NORMAL_ENDS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_accepted(home: Path, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.minimum_version = context.maximum_version = version
    with ForkedServer(home) as server:
        client = Client(server.ends, context).handshake()
        client.send(b"hello")
        assert client.receive() == b"HELLO"
        assert client.tls.version() == version.name.replace("_", ".")
        assert client.tls.compression() is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused_with_an_alert(home: Path, version: ssl.TLSVersion) -> None:
    with ForkedServer(home) as server:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            Client(server.ends, insecure_context(version)).handshake()
        assert server.wait_for_end() == ("broken", b"unsupported protocol")


@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_megabytes_pass_in_both_directions(home: Path, kind: str) -> None:
    text = bytes(range(256)) * 8192
    with ForkedServer(home, kind, count_bytes) as server:
        client = Client(server.ends, trusted(home)).handshake()
        client.send(text + b".")
        assert client.receive() == b"%d\n" % (len(text) + 1)
    with ForkedServer(home, kind, lambda wire: wire.write(text)) as server:
        assert Client(server.ends, trusted(home)).handshake().receive_all() == text
        assert server.wait_for_end() == ("done", b"")


def test_many_records_in_one_packet_are_all_read(home: Path) -> None:
    """The descriptor becomes readable only once: records left from the first read must not wait for another."""
    with ForkedServer(home) as server:
        client = Client(server.ends, trusted(home)).handshake()
        client.put(b"".join(client.encrypt(b"%d;" % number) for number in range(3000)) + client.encrypt(b"x" * 9000))
        expected = b"".join(b"%d;" % number for number in range(3000)) + b"X" * 9000
        assert client.receive_until(b"X" * 9000) == expected


def test_output_pending_before_the_handshake_is_sent_in_clear(home: Path) -> None:
    client_end, server_end = socket.socketpair()
    pid = os.fork()
    if not pid:
        os.dup2(server_end.fileno(), 0)
        os.dup2(server_end.fileno(), 1)
        os.chdir(home)
        wire = Wire(20)
        wire.write(b"220 go on\r\n")
        tls.accept(wire, certificate.context())
        wire.close()
        os._exit(0)
    server_end.close()
    assert client_end.recv(100) == b"220 go on\r\n"
    assert Client((client_end.fileno(), client_end.fileno()), trusted(home)).handshake().receive() == b""
    assert os.waitpid(pid, 0)[1] == 0
    client_end.close()


# The end of a connection.


def test_the_server_sends_close_notify_and_does_not_wait_for_the_clients(home: Path) -> None:
    with ForkedServer(home, serve=lambda wire: wire.write(b"221 bye\r\n")) as server:
        client = Client(server.ends, trusted(home)).handshake()
        assert client.receive_all() == b"221 bye\r\n"  # an end without close_notify would be ssl.SSLEOFError
        assert server.wait_for_end() == ("done", b"")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_close_notify_of_the_client_is_its_end(home: Path, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.maximum_version = version
    with ForkedServer(home) as server:
        client = Client(server.ends, context).handshake()
        client.send(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.put(client.outgoing.read())
        assert client.receive_until(b"LAST WORDS") == b"LAST WORDS"
        assert server.wait_for_end() == ("done", b"")


def test_a_disconnect_without_close_notify_is_the_clients_end_too(home: Path) -> None:
    with ForkedServer(home) as server:
        Client(server.ends, trusted(home)).handshake().send(b"x")
        server.disconnect()
        assert server.wait_for_end() in NORMAL_ENDS


def test_a_client_that_reads_nothing_is_disconnected(home: Path) -> None:
    with ForkedServer(home, "pipes", serve=lambda wire: wire.write(bytes(1 << 20)), timeout=0.5) as server:
        Client(server.ends, trusted(home)).handshake()
        assert server.wait_for_end() == ("closed", b"")


# Data that is not TLS.


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"EHLO client.example\r\n", b"wrong version number"),
        (b"GET / HTTP/1.0\r\n\r\n", b"http request"),
        (b"\x00" * 64, b"wrong version number"),
        (b"\xff" * 4096, b"wrong version number"),
        (b"\x80\x1c\x01\x00\x02\x00\x03\x00\x00\x00\x10\x01\x00\x80" + bytes(16), b"unknown protocol"),
        (b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00", b"excessive message size"),
        # OpenSSL 3.0 names the fault itself, 3.5 does not
        (b"\x16\x03\x01\xff\xff" + b"\x01" * 500, b"packet length too long|record layer failure"),
        (b"\x15\x03\x01\x00\x02\x02\x28", b"unexpected message"),
        (b"\x17\x03\x03\x00\x05hello", b"unexpected message"),
        (b"\x14\x03\x03\x00\x01\x01" * 40, b".+"),
    ],
    ids=["smtp", "http", "zeros", "ones", "SSLv2", "huge hello", "huge record", "alert", "data", "change cipher"],
)
@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
def test_garbage_instead_of_a_handshake_ends_it_without_a_reply_in_clear(
    home: Path, garbage: bytes, why: bytes, piece: int
) -> None:
    with ForkedServer(home) as server:
        size = piece or len(garbage)
        for start in range(0, len(garbage), size):
            try:
                os.write(server.ends[1], garbage[start : start + size])
            except (BrokenPipeError, ConnectionResetError):
                break
        end, reported = server.wait_for_end()
        assert end == "broken"
        assert re.fullmatch(why, reported), reported  # `.` matches no line end
        assert get_all(server.ends[0])[:1] in (b"", b"\x15")  # an alert at most


@pytest.mark.slow
def test_a_damaged_client_hello_ends_the_handshake_cleanly(home: Path) -> None:
    """Change, drop and double some bytes, then close: the server must not crash, hang, or reply in clear."""
    rng = random.Random(1)
    for _ in range(150):
        with ForkedServer(home, "pipes") as server:
            hello = bytearray(Client(server.ends, trusted(home)).hello())
            for _ in range(rng.randint(1, 4)):
                position = rng.randrange(len(hello))
                change = rng.randrange(3)
                hello[position : position + (change > 0)] = bytes((rng.randrange(256),)) * (2 - change)
            os.write(server.ends[1], hello)
            os.close(server.ends[1])
            end, why = server.wait_for_end()
            assert (end, b"\n" in why) == ("broken", False)
            assert get_all(server.ends[0])[:1] in (b"", b"\x15", b"\x16")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_client_that_disconnects_within_its_hello(home: Path, share: float) -> None:
    with ForkedServer(home) as server:
        hello = Client(server.ends, trusted(home)).hello()
        os.write(server.ends[1], hello[: int(len(hello) * share)])
        server.disconnect()
        assert server.wait_for_end() == ("broken", b"the client is gone")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_client_that_stops_within_the_handshake_times_out(home: Path, share: float) -> None:
    with ForkedServer(home, timeout=0.5) as server:
        hello = Client(server.ends, trusted(home)).hello()
        os.write(server.ends[1], hello[: int(len(hello) * share)])
        assert server.wait_for_end() == ("broken", b"timeout in the handshake")


def test_the_sessions_deadline_limits_the_handshake_too(home: Path) -> None:
    with ForkedServer(home, timeout=20, seconds=0.5) as server:
        assert server.wait_for_end() == ("broken", b"timeout in the handshake")


def test_a_client_that_does_not_read_the_handshake_times_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain of the certificate is longer than the pipe, so the server blocks in a write."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.5)
    control = tmp_path / "control"
    control.mkdir()
    (control / "servercert.pem").write_text((home / "control/servercert.pem").read_text() * 30)
    (control / "serverkey.pem").symlink_to(home / "control/serverkey.pem")
    with ForkedServer(tmp_path, "pipes", timeout=60) as server:
        fcntl.fcntl(server.ends[0], fcntl.F_SETPIPE_SZ, 4096)
        os.write(server.ends[1], Client(server.ends, trusted(home)).hello())
        assert server.wait_for_end() == ("broken", b"timeout in the handshake")


def test_a_handshake_sent_byte_by_byte_has_the_time_of_one_read(home: Path) -> None:
    with ForkedServer(home, timeout=1) as server:
        hello = Client(server.ends, trusted(home)).hello()
        deadline = time.monotonic() + 20
        for byte in hello:
            try:
                os.write(server.ends[1], bytes((byte,)))
            except (BrokenPipeError, ConnectionResetError):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            raise AssertionError("the server has read the whole hello")
        assert server.wait_for_end() == ("broken", b"timeout in the handshake")


def test_a_record_sent_byte_by_byte_has_the_time_of_one_read(home: Path) -> None:
    with ForkedServer(home, timeout=1) as server:
        client = Client(server.ends, trusted(home)).handshake()
        try:
            for byte in client.encrypt(b"x" * 400):
                os.write(server.ends[1], bytes((byte,)))
                time.sleep(0.05)
            raise AssertionError("the server has read the whole record")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert server.wait_for_end() == ("timed out", b"TimedOut")


def hostile_records(client: Client) -> Iterator[tuple[str, bytes]]:
    """Yield names and data that a broken or hostile client may send after its handshake."""
    good = client.encrypt(b"x" * 100)
    yield "tampered", good[:-1] + bytes((good[-1] ^ 1,))
    yield "twice", good + good
    yield "oversize", b"\x17\x03\x03\xff\xff" + bytes(0xFFFF)
    yield "oversize header", b"\x17\x03\x03\x48\x01" + bytes(100)
    yield "plain text", b"QUIT\r\n"
    yield "plain alert", b"\x15\x03\x03\x00\x02\x02\x28"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["tampered", "twice", "oversize", "oversize header", "plain text", "plain alert"])
def test_a_bad_record_ends_the_connection(home: Path, name: str, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.maximum_version = version
    with ForkedServer(home) as server:
        client = Client(server.ends, context).handshake()
        try:
            client.put(dict(hostile_records(client))[name])
        except (BrokenPipeError, ConnectionResetError):
            pass
        end, why = server.wait_for_end()
        assert end == "broken"
        assert why
        assert b"\n" not in why


def test_memory_stays_flat_whatever_the_client_sends(home: Path) -> None:
    """A hundred megabytes in complete records."""
    with ForkedServer(home, serve=lambda wire: [None for _ in iter(wire.read_data, b"")] and None) as server:
        client = Client(server.ends, trusted(home)).handshake()
        before = resident(server.pid)
        for _ in range(400):
            client.send(bytes(1 << 18))
        assert resident(server.pid) - before < 4000
        server.disconnect()
        server.wait_for_end()


def resident(pid: int) -> int:
    """Return the peak memory of the process in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# Callers with their own poll loop.


def echo_with_poll(wire: Wire) -> None:
    """Serve by echoing, like a program that polls other descriptors too."""
    layer = wire.layer
    assert layer
    wire.write(wire.read()[:4])
    wire.write(b"<" + layer.read_buffered() + b">")
    wire.flush()
    poller = select.poll()
    poller.register(0, select.POLLIN)
    while not layer.at_end and poller.poll(20_000):
        data = layer.read_ready()
        wire.write(b"-" if data is None else data)
        wire.flush()


def test_a_caller_with_its_own_poll_loop_loses_and_delays_nothing(home: Path) -> None:
    with ForkedServer(home, serve=echo_with_poll) as server:
        client = Client(server.ends, trusted(home)).handshake()
        client.put(client.encrypt(b"user" * 2100) + client.encrypt(b"more"))
        rest = b"user" * (2100 - 2048) + b"more"
        assert client.receive_until(b">") == b"user<" + rest + b">"
        client.put(client.encrypt(b"a" * 16384) + client.encrypt(b"b" * 16384))
        assert client.receive_until(b"b" * 16384) == b"a" * 16384 + b"b" * 16384
        record = client.encrypt(b"c")
        client.put(record[:10])
        assert client.receive() == b"-"  # it continued although the record was incomplete
        client.put(record[10:])
        assert client.receive() == b"c"
        server.disconnect()
        assert server.wait_for_end() in NORMAL_ENDS


@pytest.mark.parametrize("words", [b"", b"last words"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_caller_with_its_own_poll_loop_sees_close_notify_on_an_open_connection(
    home: Path, version: ssl.TLSVersion, words: bytes
) -> None:
    context = trusted(home)
    context.maximum_version = version
    with ForkedServer(home, serve=echo_with_poll) as server:
        client = Client(server.ends, context).handshake()
        client.send(b"user")
        assert client.receive_until(b"<>") == b"user<>"
        last = client.encrypt(words) if words else b""
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.put(last + client.outgoing.read())
        if words:
            assert client.receive_until(words) == words
        assert server.wait_for_end() == ("done", b"")
