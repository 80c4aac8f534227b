"""TLS on a Wire: real handshakes over sockets and pipes, and everything a client may send in place of them."""

import fcntl
import os
import random
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
from tests.kit.tlspeer import Client, certify, get_all, trusting, unarmed

ENDS = {"done": 0, "crashed": 1, "broken": 2, "closed": 3, "timed out": 4, "trouble": 5}
OVER = (("done", b""), ("closed", b""))  # a client that hangs up may be gone before it is told goodbye


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "control").mkdir()
    certify(home / "control")
    return home


def trusted(home: Path) -> ssl.SSLContext:
    return trusting(home / "control/servercert.pem")


def echo(wire: Wire) -> None:
    """What the server of these tests does: say everything again, in capitals."""
    while data := wire.read():
        wire.write(data.upper())


def count(wire: Wire) -> None:
    """Read to the end as DATA is read, and say how much it was."""
    size = 0
    while data := wire.read_data():
        size += len(data)
        if data.endswith(b"."):
            wire.write(b"%d\n" % size)


class Served:
    """A forked server of one connection, on one socket or two pipes; `ends` are the client's to read and to write."""

    def __init__(
        self,
        home: Path,
        kind: str = "socket",
        serve: Callable[[Wire], None] = echo,
        timeout: float = 20,
        seconds: float = 0,
    ) -> None:
        if kind == "socket":
            ours, theirs = socket.socketpair()
            client = ours.detach()
            self.ends, servers = (client, client), [theirs.detach()] * 2
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
                os._exit(ENDS[run(serve, timeout, seconds)])
            finally:
                os._exit(ENDS["crashed"])
        for descriptor in {*servers, log}:
            os.close(descriptor)

    def __enter__(self) -> "Served":
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

    def hang_up(self) -> None:
        for descriptor in set(self.ends):
            os.close(descriptor)

    def ended(self) -> tuple[str, bytes]:
        """How the server ended, and what it said about that."""
        handle = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        assert poller.poll(20_000), "the server does not end"
        os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return next(name for name, number in ENDS.items() if number == status), get_all(self.log)


def run(serve: Callable[[Wire], None], timeout: float, seconds: float) -> str:
    """Serve one client on descriptors 0 and 1."""
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
    except TimedOut as late:
        os.write(2, type(late).__name__.encode())
        return "timed out"
    except certificate.TlsUnavailable as trouble:
        os.write(2, trouble.why)
        return "trouble"
    return "done"


# A conversation.


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_what_one_side_says_the_other_hears(home: Path, kind: str, piece: int) -> None:
    with Served(home, kind) as served:
        client = Client(served.ends, trusted(home), piece).shake_hands()
        for word in (b"one\r\n", b"two\r\n"):
            client.say(word)
            assert client.hear() == word.upper()
        served.hang_up()
        assert served.ended() in OVER


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_that_are_left_are_spoken(home: Path, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.minimum_version = context.maximum_version = version
    with Served(home) as served:
        client = Client(served.ends, context).shake_hands()
        client.say(b"hello")
        assert client.hear() == b"HELLO"
        assert client.tls.version() == version.name.replace("_", ".")
        assert client.tls.compression() is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused_with_an_alert(home: Path, version: ssl.TLSVersion) -> None:
    with Served(home) as served:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            Client(served.ends, unarmed(version)).shake_hands()
        assert served.ended() == ("broken", b"unsupported protocol")


@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_megabytes_come_through_in_both_directions(home: Path, kind: str) -> None:
    text = bytes(range(256)) * 8192
    with Served(home, kind, count) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        client.say(text + b".")
        assert client.hear() == b"%d\n" % (len(text) + 1)
    with Served(home, kind, lambda wire: wire.write(text)) as served:
        assert Client(served.ends, trusted(home)).shake_hands().hear_all() == text
        assert served.ended() == ("done", b"")


def test_many_records_in_one_packet_are_all_heard(home: Path) -> None:
    """The descriptor becomes readable once; what is left of the first read must not wait for another."""
    with Served(home) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        client.put(b"".join(client.sealed(b"%d;" % number) for number in range(3000)) + client.sealed(b"x" * 9000))
        expected = b"".join(b"%d;" % number for number in range(3000)) + b"X" * 9000
        assert client.hear_until(b"X" * 9000) == expected


def test_what_is_pending_before_the_handshake_goes_out_in_clear(home: Path) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        os.dup2(theirs.fileno(), 0)
        os.dup2(theirs.fileno(), 1)
        os.chdir(home)
        wire = Wire(20)
        wire.write(b"220 go on\r\n")
        tls.accept(wire, certificate.context())
        wire.close()
        os._exit(0)
    theirs.close()
    assert ours.recv(100) == b"220 go on\r\n"
    assert Client((ours.fileno(), ours.fileno()), trusted(home)).shake_hands().hear() == b""
    assert os.waitpid(pid, 0)[1] == 0
    ours.close()


# The end.


def test_the_server_says_goodbye_and_does_not_wait_for_the_clients(home: Path) -> None:
    with Served(home, serve=lambda wire: wire.write(b"221 bye\r\n")) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        assert client.hear_all() == b"221 bye\r\n"  # an end without close_notify would be ssl.SSLEOFError
        assert served.ended() == ("done", b"")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_says_goodbye_is_at_its_end(home: Path, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.maximum_version = version
    with Served(home) as served:
        client = Client(served.ends, context).shake_hands()
        client.say(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.put(client.outgoing.read())
        assert client.hear_until(b"LAST WORDS") == b"LAST WORDS"
        assert served.ended() == ("done", b"")


def test_a_client_that_hangs_up_without_goodbye_is_at_its_end_too(home: Path) -> None:
    with Served(home) as served:
        Client(served.ends, trusted(home)).shake_hands().say(b"x")
        served.hang_up()
        assert served.ended() in OVER


def test_a_client_that_takes_nothing_is_given_up(home: Path) -> None:
    with Served(home, "pipes", serve=lambda wire: wire.write(bytes(1 << 20)), timeout=0.5) as served:
        Client(served.ends, trusted(home)).shake_hands()
        assert served.ended() == ("closed", b"")


# What is no TLS.


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"EHLO client.example\r\n", b"wrong version number"),
        (b"GET / HTTP/1.0\r\n\r\n", b"http request"),
        (b"\x00" * 64, b"wrong version number"),
        (b"\xff" * 4096, b"wrong version number"),
        (b"\x80\x1c\x01\x00\x02\x00\x03\x00\x00\x00\x10\x01\x00\x80" + bytes(16), b"unknown protocol"),
        (b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00", b"excessive message size"),
        (b"\x16\x03\x01\xff\xff" + b"\x01" * 500, b"packet length too long"),
        (b"\x15\x03\x01\x00\x02\x02\x28", b"unexpected message"),
        (b"\x17\x03\x03\x00\x05hello", b"unexpected message"),
        (b"\x14\x03\x03\x00\x01\x01" * 40, b""),
    ],
    ids=["smtp", "http", "zeros", "ones", "SSLv2", "huge hello", "huge record", "alert", "data", "change cipher"],
)
@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "byte by byte"])
def test_garbage_in_place_of_a_handshake_ends_it_with_nothing_in_clear(
    home: Path, garbage: bytes, why: bytes, piece: int
) -> None:
    with Served(home) as served:
        size = piece or len(garbage)
        for start in range(0, len(garbage), size):
            try:
                os.write(served.ends[1], garbage[start : start + size])
            except (BrokenPipeError, ConnectionResetError):
                break
        end, said = served.ended()
        assert (end, said) == ("broken", why or said)
        assert said
        assert b"\n" not in said
        assert get_all(served.ends[0])[:1] in (b"", b"\x15")  # an alert at the most


def test_a_mutilated_hello_is_a_handshake_or_the_end(home: Path) -> None:
    """Bytes changed, lost and doubled, and then the end: no crash, no hanging, nothing in clear."""
    chance = random.Random(1)
    for _ in range(150):
        with Served(home, "pipes") as served:
            hello = bytearray(Client(served.ends, trusted(home)).hello())
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(hello))
                change = chance.randrange(3)
                hello[place : place + (change > 0)] = bytes((chance.randrange(256),)) * (2 - change)
            os.write(served.ends[1], hello)
            os.close(served.ends[1])
            end, why = served.ended()
            assert (end, b"\n" in why) == ("broken", False)
            assert get_all(served.ends[0])[:1] in (b"", b"\x15", b"\x16")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_client_that_goes_away_in_the_middle_of_its_hello(home: Path, share: float) -> None:
    with Served(home) as served:
        hello = Client(served.ends, trusted(home)).hello()
        os.write(served.ends[1], hello[: int(len(hello) * share)])
        served.hang_up()
        assert served.ended() == ("broken", b"the client is gone")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_client_that_stops_in_the_middle_of_the_handshake_is_not_waited_for(home: Path, share: float) -> None:
    with Served(home, timeout=0.5) as served:
        hello = Client(served.ends, trusted(home)).hello()
        os.write(served.ends[1], hello[: int(len(hello) * share)])
        assert served.ended() == ("broken", b"timeout in the handshake")


def test_the_session_s_end_comes_in_a_handshake_too(home: Path) -> None:
    with Served(home, timeout=20, seconds=0.5) as served:
        assert served.ended() == ("broken", b"timeout in the handshake")


def test_a_client_that_does_not_take_its_part_of_the_handshake_is_not_waited_for_longer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate with a chain longer than the pipe: it is the server's writing that comes to a stop."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.5)
    control = tmp_path / "control"
    control.mkdir()
    (control / "servercert.pem").write_text((home / "control/servercert.pem").read_text() * 30)
    (control / "serverkey.pem").symlink_to(home / "control/serverkey.pem")
    with Served(tmp_path, "pipes", timeout=60) as served:
        fcntl.fcntl(served.ends[0], fcntl.F_SETPIPE_SZ, 4096)
        os.write(served.ends[1], Client(served.ends, trusted(home)).hello())
        assert served.ended() == ("broken", b"timeout in the handshake")


def test_a_handshake_that_trickles_has_the_time_of_one_read(home: Path) -> None:
    with Served(home, timeout=1) as served:
        hello = Client(served.ends, trusted(home)).hello()
        deadline = time.monotonic() + 20
        for byte in hello:
            try:
                os.write(served.ends[1], bytes((byte,)))
            except (BrokenPipeError, ConnectionResetError):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            raise AssertionError("the whole hello was heard")
        assert served.ended() == ("broken", b"timeout in the handshake")


def test_a_record_that_trickles_has_the_time_of_one_read(home: Path) -> None:
    with Served(home, timeout=1) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        try:
            for byte in client.sealed(b"x" * 400):
                os.write(served.ends[1], bytes((byte,)))
                time.sleep(0.05)
            raise AssertionError("the whole record was heard")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert served.ended() == ("timed out", b"TimedOut")


def records_of(client: Client) -> Iterator[tuple[str, bytes]]:
    """What a broken or hostile client may send after its handshake."""
    good = client.sealed(b"x" * 100)
    yield "tampered", good[:-1] + bytes((good[-1] ^ 1,))
    yield "twice", good + good
    yield "oversize", b"\x17\x03\x03\xff\xff" + bytes(0xFFFF)
    yield "oversize header", b"\x17\x03\x03\x48\x01" + bytes(100)
    yield "plain text", b"QUIT\r\n"
    yield "plain alert", b"\x15\x03\x03\x00\x02\x02\x28"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("what", ["tampered", "twice", "oversize", "oversize header", "plain text", "plain alert"])
def test_a_bad_record_ends_the_connection(home: Path, what: str, version: ssl.TLSVersion) -> None:
    context = trusted(home)
    context.maximum_version = version
    with Served(home) as served:
        client = Client(served.ends, context).shake_hands()
        try:
            client.put(dict(records_of(client))[what])
        except (BrokenPipeError, ConnectionResetError):
            pass
        end, why = served.ended()
        assert end == "broken"
        assert why
        assert b"\n" not in why


def test_memory_stays_flat_whatever_comes(home: Path) -> None:
    """A hundred megabytes of whole records, and a record that never ends."""
    with Served(home, serve=lambda wire: [None for _ in iter(wire.read_data, b"")] and None) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        before = resident(served.pid)
        for _ in range(400):
            client.say(bytes(1 << 18))
        assert resident(served.pid) - before < 4000
        served.hang_up()
        served.ended()


def resident(pid: int) -> int:
    """The most memory that the process has ever had, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# For a loop with a poll of its own.


def relay(wire: Wire) -> None:
    """Echo, as a program does that polls more than the client."""
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


def test_a_loop_of_its_own_misses_nothing_and_waits_for_nothing(home: Path) -> None:
    with Served(home, serve=relay) as served:
        client = Client(served.ends, trusted(home)).shake_hands()
        client.put(client.sealed(b"user" * 2100) + client.sealed(b"more"))
        rest = b"user" * (2100 - 2048) + b"more"
        assert client.hear_until(b">") == b"user<" + rest + b">"
        client.put(client.sealed(b"a" * 16384) + client.sealed(b"b" * 16384))
        assert client.hear_until(b"b" * 16384) == b"a" * 16384 + b"b" * 16384
        record = client.sealed(b"c")
        client.put(record[:10])
        assert client.hear() == b"-"  # it went on while the record was not whole
        client.put(record[10:])
        assert client.hear() == b"c"
        served.hang_up()
        assert served.ended() in OVER


@pytest.mark.parametrize("words", [b"", b"last words"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_loop_of_its_own_hears_a_goodbye_while_the_connection_stays_open(
    home: Path, version: ssl.TLSVersion, words: bytes
) -> None:
    context = trusted(home)
    context.maximum_version = version
    with Served(home, serve=relay) as served:
        client = Client(served.ends, context).shake_hands()
        client.say(b"user")
        assert client.hear_until(b"<>") == b"user<>"
        last = client.sealed(words) if words else b""
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.put(last + client.outgoing.read())
        if words:
            assert client.hear_until(words) == words
        assert served.ended() == ("done", b"")
