"""Connections that wait for their PROXY header: bounded in time, number and log lines; they delay nobody."""

import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpserver.environ import Facts
from tcpserver.parent import proxy_header
from tcpserver.parent.proxied import MAX_LINES, Proxied
from tests.kit import proxyheader as made
from tests.kit.server import PATIENCE, Server, children, compiled, descriptors, read_all, until
from tests.kit.support import script

HEADER = made.v1("192.0.2.7")
DROPPED = b"tcpserver: warning: dropping connection, unable to read PROXY header from 127.0.0.1: %b\n"
MORE = re.compile(rb"^tcpserver: warning: dropping (\d+) more connections without a PROXY header$", re.MULTILINE)
FACTS = Facts(b"127.0.0.1", 25, b"127.0.0.1", 40000)
NEVER = "100000"  # seconds: longer than a test
LONGEST = "2000000"  # seconds: the largest value of the options


@contextmanager
def serving(
    *options: str, program: Sequence[str] = ("cat",), preexec: Callable[[], object] | None = None
) -> Iterator[Server]:
    words = ["-RHl0", "--proxy-from", "127.0.0.0/8", *options, "127.0.0.1", "0", *program]
    with Server(words, preexec=preexec) as server:
        yield server


def signalled(server: Server, headers: int, turns: int) -> bytes:
    """Send SIGUSR1 until the server logs that this many wait. Return the log."""
    line = b"tcpserver: waiting: %d for a PROXY header, %d for their turn\n" % (headers, turns)

    def reported() -> bool:
        server.send(signal.SIGUSR1)
        return line in server.log()

    until(reported, server.log)
    return server.log()


@pytest.mark.parametrize("sent", [b"", b"P", b"PROXY UNKNOWN", made.SIGNATURE, made.v2(bytes(40))[:-1]])
def test_a_header_that_does_not_become_whole_is_dropped_after_its_time(sent: bytes) -> None:
    with serving("--proxy-timeout", "1") as server, server.connect() as client:
        client.sendall(sent)
        assert read_all(client) == b""
        assert server.log() == DROPPED % b"timed out"
        assert not children(server.pid)


def test_bytes_that_trickle_in_do_not_extend_the_time() -> None:
    with serving("--proxy-timeout", "1") as server, server.connect() as client:
        client.settimeout(0.2)
        ended, sent = False, 0
        while not ended and sent < 100:
            client.sendall(HEADER[sent % 13 : sent % 13 + 1] if sent < 6 else b"x")
            sent += 1
            try:
                ended = client.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionResetError:
                ended = True
        assert ended
        assert server.log() in (DROPPED % b"timed out", DROPPED % b"no PROXY header")


@pytest.mark.parametrize(("option", "lines"), [("-v", 1), ("-Q", 0)])
def test_a_connection_that_sends_nothing_and_ends_is_logged_only_with_v(option: str, lines: int) -> None:
    with serving(option, "--proxy-timeout", NEVER) as server:
        for sent in (b"", b"PROXY TCP4"):
            assert server.ask(sent) == b""
        until(lambda: descriptors(server.pid) < 12)
        assert server.log().count(DROPPED % b"connection closed") == 2 * lines


def test_a_header_and_the_end_of_the_connection_are_served() -> None:
    with serving() as server:
        for _ in range(20):
            assert server.ask(HEADER + b"x") == b"x"


def test_at_the_limit_whole_headers_wait_in_their_order(tmp_path: Path) -> None:
    rules = compiled(tmp_path / "cdb", "192.0.2.9:deny\n:allow\n")
    with (
        serving("-v", "-c1", "-x", str(rules), "--proxy-timeout", NEVER) as server,
        server.connect() as first,
        server.connect() as second,
        server.connect() as denied,
        server.connect() as third,
        server.connect() as silent,
    ):
        signalled(server, 5, 0)
        for turns, (client, last) in enumerate(((first, 1), (third, 3), (denied, 9), (second, 2))):
            client.sendall(made.v1(f"192.0.2.{last}") + b"x")
            signalled(server, 4 - turns, turns)
        assert first.recv(10) == b"x"
        assert len(children(server.pid)) == 1
        for client, following in ((first, third), (third, second)):
            client.close()
            assert following.recv(10) == b"x"
        assert read_all(denied) == b""
        log = server.wait_for_log(rb" from 192.0.2.2$")
        order = [b" from 192.0.2.1\n", b" from 192.0.2.3\n", b":192.0.2.9::40312\n", b" from 192.0.2.2\n"]
        places = [log.index(part) for part in order]
        assert places == sorted(places)
        assert b"2/1" not in log
        second.close()
        silent.sendall(made.v1("192.0.2.4") + b"x")
        assert silent.recv(10) == b"x"


def test_of_too_many_the_oldest_is_dropped() -> None:
    limited = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))  # noqa: E731  # 256 are reserved
    with serving("-c100", "--proxy-timeout", NEVER, preexec=limited) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(50)]
        assert [read_all(client) for client in clients[:6]] == [b""] * 6
        assert server.log() == DROPPED % b"too many connections wait" * 6
        assert server.ask(HEADER + b"x") == b"x"  # the next one may be dropped for it, if the header has come too late
        for client in clients[7:]:
            client.sendall(HEADER + b"y")
            assert client.recv(1) == b"y"


def test_a_flood_is_counted_to_the_last() -> None:
    with serving("--proxy-timeout", NEVER) as server:
        for _ in range(100):
            assert server.ask(b"EHLO\r\n") == b""

        def counted() -> int:
            log = server.log()
            return log.count(DROPPED % b"no PROXY header") + sum(map(int, MORE.findall(log)))

        until(lambda: counted() == 100, server.log)


def test_no_more_than_some_lines_a_second_are_logged() -> None:
    """The test passes the time itself. Every connection sends something else than a header."""
    lines: list[str] = []
    proxied = Proxied([b"0.0.0.0/0"], 5, 100, lambda facts, why: lines.append(why), lambda n: lines.append(str(n)))

    def flood(number: int, now: float) -> None:
        for _ in range(number):
            client, connection = socket.socketpair()
            with client:
                client.sendall(b"EHLO")
                proxied.add(connection, FACTS, now)

    flood(MAX_LINES + 7, 100.0)
    assert lines == ["no PROXY header"] * MAX_LINES
    assert proxied.next_deadline() == 101.0
    proxied.on_clock(100.9)
    assert len(lines) == MAX_LINES
    proxied.on_clock(101.0)
    assert lines.pop() == "7"
    assert proxied.next_deadline() is None
    flood(MAX_LINES + 3, 102.0)
    flood(1, 103.5)
    assert lines == ["no PROXY header"] * MAX_LINES * 2 + ["3", "no PROXY header"]
    proxied.epoll.close()


def test_connections_that_end_by_themselves_are_not_counted_where_they_are_not_logged() -> None:
    lines: list[str] = []
    log = lambda facts, why: lines.append(why)  # noqa: E731
    for only_faults in (True, False):
        proxied = Proxied([b"0.0.0.0/0"], 5, 100, log, lambda n: lines.append(str(n)), only_faults)
        for _ in range(MAX_LINES + 1):
            client, connection = socket.socketpair()
            client.close()
            proxied.add(connection, FACTS, 100.0)
        proxied.on_clock(102.0)
        proxied.epoll.close()
        assert lines == ([] if only_faults else ["connection closed"] * MAX_LINES + ["1"])


HEADERS = [
    HEADER,
    b"PROXY UNKNOWN\r\n",
    made.v2(made.ends("192.0.2.7", "192.0.2.25")),
    made.summed(
        made.v2(made.ends("::1", "::1") + made.tlv(made.CRC32C, made.NO_SUM) + made.tlv(4, b"x" * 99), made.TCP6)
    ),
    made.v2(b"", made.UNSPEC, made.LOCAL),
]


@given(st.sampled_from(HEADERS), st.binary(max_size=40), st.data())
def test_however_a_header_is_cut_only_its_own_bytes_are_read(header: bytes, behind: bytes, data: st.DataObject) -> None:
    whole = header + behind
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    proxied = Proxied([b"0.0.0.0/0"], 5, 100, lambda facts, why: None, lambda n: None)
    client, connection = socket.socketpair()
    with client:
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            client.sendall(whole[start:end])
            if not start:
                proxied.add(connection, Facts(b"127.0.0.1", 25, b"127.0.0.1", 40000), 100.0)
            proxied.serve(100.0)
            assert bool(proxied.ready) == (end >= len(header))
        ((found, facts),) = proxied.ready
        client.shutdown(socket.SHUT_WR)
        with found:
            assert read_all(found) == behind
    named = proxy_header.parse(header)
    assert facts.remote_ip == (named.remote_ip if named else b"127.0.0.1")
    assert facts.never_relays == (named is None)
    assert not proxied.waiting
    proxied.epoll.close()


def test_each_connection_has_its_own_time() -> None:
    lines: list[str] = []
    proxied = Proxied([b"0.0.0.0/0"], 5, 100, lambda facts, why: lines.append(why), lambda n: None)
    pairs = [socket.socketpair() for _ in range(3)]
    for number, (_, connection) in enumerate(pairs):
        proxied.add(connection, FACTS, 100.0 + number)
    assert proxied.next_deadline() == 105.0
    pairs[1][0].sendall(HEADER)
    proxied.serve(103.0)
    (ready,) = proxied.ready
    assert (ready[1].remote_ip, ready[1].proxy_ip) == (b"192.0.2.7", b"127.0.0.1")
    proxied.on_clock(106.5)
    assert (lines, proxied.next_deadline()) == (["timed out"], 107.0)
    assert read_all(pairs[0][0]) == b""
    proxied.stop(106.5)
    assert proxied.next_deadline() is None
    for client, _ in pairs:
        client.close()
    proxied.epoll.close()


def most_connections() -> int:
    """3,000, or as many as this system allows to two processes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(3000, hard - 600)


@pytest.fixture
def many() -> Iterator[int]:
    """The number of connections. This process may have as many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = most_connections()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, number + 600)), hard))
    yield number
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("is_loaded", [False, True])
def test_thousands_that_send_nothing_or_little_delay_nobody(many: int, is_loaded: bool) -> None:
    """Clients in front of them, among them and behind them are served; those that wait cost no process."""
    program = [script("relay-check"), "cat"] if is_loaded else ["cat"]
    with serving("-b", "4096", "--proxy-timeout", NEVER, program=program) as server, ExitStack() as stack:
        before = stack.enter_context(server.connect())
        before.sendall(HEADER)
        waiting = [socket.socket() for _ in range(many)]
        for client in waiting:
            stack.enter_context(client)
            client.connect(("127.0.0.1", server.port))
        slow, between = waiting[: many // 3], waiting[many // 2]
        for octet in HEADER[:4]:
            for client in slow:
                client.sendall(bytes([octet]))
            assert server.ask(HEADER + b"x") == b"x"
        before.sendall(b"x")
        assert before.recv(1) == b"x"
        between.settimeout(PATIENCE)
        between.sendall(HEADER + b"x")
        assert between.recv(1) == b"x"
        until(lambda: len(children(server.pid)) == 2)
        signalled(server, many - 1, 0)


def test_those_that_wait_cost_no_time_of_the_processor() -> None:
    """Level-triggered polling would make the loop spin on a header that is half there."""
    with serving("--proxy-timeout", "2") as server, server.connect() as client:
        client.sendall(HEADER[:-1])
        assert read_all(client) == b""
        ticks = sum(map(int, Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        assert ticks < os.sysconf("SC_CLK_TCK")  # two seconds of spinning would be twice as many


# -- the end


def test_term_ends_the_server_while_connections_wait() -> None:
    with serving("--proxy-timeout", NEVER) as server, server.connect() as client:
        signalled(server, 1, 0)
        assert server.stop() == 0
        assert read_all(client) == b""


def test_the_longest_times_are_served() -> None:
    with serving("--drain", LONGEST, "--proxy-timeout", LONGEST) as server, server.connect() as client:
        signalled(server, 1, 0)
        client.sendall(HEADER + b"x")
        assert client.recv(1) == b"x"
        server.send(signal.SIGTERM)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        client.close()
        assert server.process.wait(20) == 0


def test_drain_drops_those_that_wait_and_waits_for_sessions() -> None:
    with (
        serving("-v", "-c1", "--drain", NEVER, "--proxy-timeout", NEVER) as server,
        server.connect() as session,
        server.connect() as silent,
        server.connect() as turn,
    ):
        signalled(server, 3, 0)
        session.sendall(HEADER + b"x")
        assert session.recv(1) == b"x"
        turn.sendall(HEADER)
        signalled(server, 1, 1)
        server.send(signal.SIGTERM)
        assert read_all(silent) == b""
        assert read_all(turn) == b""
        assert DROPPED % b"the server is stopping" in server.log()
        assert b"unable to serve client of proxy 127.0.0.1: the server is stopping\n" in server.log()
        session.sendall(b"y")
        assert session.recv(1) == b"y"
        session.close()
        assert server.process.wait(20) == 0
