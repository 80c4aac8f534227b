"""How many at once and how fast: -c defers as 0.88 does; -C, --rate, MAXCONIP refuse; and what refused clients get."""

import re
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcprules.lookup import Verdict
from tcpserver.parent.limits import MAX_RATED, Limits, group
from tcpserver.parent.linger import MOST as MOST_LINGERING
from tests.kit.server import Server, children, compiled, descriptors, masked, read_all, until
from tests.kit.support import peer, script

C = "/usr/bin/tcpserver"
WHILE_OPEN = ["127.0.0.1", "0", "sh", "-c", "echo in; cat >/dev/null"]  # until the client leaves


def let_in(client: socket.socket) -> bool:
    """Whether the client has reached the program."""
    return client.recv(100) == b"in\n"


def deny(server: Server, client: tuple[str, int], reason: str) -> bytes:
    local = f"0:127.0.0.1:{server.port}"
    return f"tcpserver: deny {server.pid} {local} :{client[0]}::{client[1]}{reason}\n".encode()


def deferred(program: str) -> bytes:
    """The log of -c 1 and three clients, of which the second resets its connection while it waits."""
    with Server(["-vRHl0", "-c1", "-b5", *WHILE_OPEN], program) as server:
        first = server.connect()
        assert let_in(first)
        second, third = server.connect(), server.connect()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        log = server.wait_for_log(rb"^tcpserver: ok")
        assert log.count(b"tcpserver: pid ") == 1  # nobody else has been accepted
        assert log.endswith(b"::%d\n" % first.getsockname()[1])
        first.close()
        assert let_in(third)
        third.close()
        log = masked(server.wait_for_log(rb"^tcpserver: status: 0/1$", 4))
        return b"\n".join(line for line in log.splitlines() if line.startswith(b"tcpserver: "))  # none of sh


@pytest.mark.peer
def test_at_the_limit_clients_wait_their_turn_as_with_the_original() -> None:
    assert deferred(script("tcpserver")) == deferred(peer(C))


def test_at_the_limit_clients_wait_their_turn() -> None:
    log = deferred(script("tcpserver"))
    assert log.count(b"tcpserver: status: 1/1") == 3  # the one that had reset was served like the others
    assert b"2/1" not in log


def test_the_limit_counts_sessions_not_connections_made(tmp_path: Path) -> None:
    with Server(["-vRHl0", "-c3", *WHILE_OPEN]) as server, ExitStack() as stack:
        inside = [stack.enter_context(server.connect()) for _ in range(3)]
        assert all(let_in(client) for client in inside)
        waiting = stack.enter_context(server.connect())
        assert len(children(server.pid)) == 3
        inside[1].close()
        assert let_in(waiting)
        assert len(children(server.pid)) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("2:421 too many connections", b"421 too many connections\r\n"),
        ("2", b""),
        ("2:", b""),
        ("2:a:b", b"a:b\r\n"),
        ("2:\udcff", b"\xff\r\n"),
    ],
    ids=["message", "none", "empty", "colon", "byte"],
)
def test_one_more_from_an_address_is_refused_with_the_message(option: str, message: bytes) -> None:
    with Server(["-vRHl0", "-C", option, *WHILE_OPEN]) as server, ExitStack() as stack:
        inside = [stack.enter_context(server.connect()) for _ in range(2)]
        assert all(let_in(client) for client in inside)
        log = server.wait_for_log(rb"^tcpserver: ok", 2)
        with server.connect() as refused:
            name = refused.getsockname()
            assert read_all(refused) == message
        assert server.wait_for_log(rb"limit-address$")[len(log) :] == deny(server, name, " limit-address")
        assert len(children(server.pid)) == 2
        other = stack.enter_context(server.connect(source="127.0.0.2"))
        assert let_in(other)
        inside[0].close()
        server.wait_for_log(rb"^tcpserver: end")
        again = stack.enter_context(server.connect())
        assert let_in(again)


def test_a_refused_client_that_has_sent_a_lot_still_gets_the_message() -> None:
    """Closing a socket with unread data resets it, and the reset may overtake the message: hence the draining."""
    with Server(["-vRHl0", "-C1:421 no", *WHILE_OPEN]) as server, server.connect() as inside:
        assert let_in(inside)
        for _ in range(20):
            with server.connect() as refused:
                refused.sendall(b"EHLO me\r\n" * 20_000)
                assert refused.recv(100) == b"421 no\r\n"
                refused.sendall(b"more\r\n" * 1000)
                assert refused.recv(100) == b""


def test_refused_clients_that_stay_are_bounded_and_keep_nobody_out() -> None:
    with Server(["-vRHl0", "-b128", "-C1:421 no", *WHILE_OPEN]) as server, ExitStack() as stack:
        inside = stack.enter_context(server.connect())
        assert let_in(inside)
        before = descriptors(server.pid)
        staying = [stack.enter_context(server.connect()) for _ in range(MOST_LINGERING + 40)]
        for client in staying:
            assert client.recv(100) == b"421 no\r\n"  # also those beyond MOST_LINGERING
        assert descriptors(server.pid) <= before + MOST_LINGERING + 1  # and the one just being refused
        assert let_in(stack.enter_context(server.connect(source="127.0.0.2")))
        until(lambda: descriptors(server.pid) <= before)  # a second later they are closed, though they have not left
        assert server.log().count(b" limit-address\n") == len(staying)


def test_a_refused_client_that_sends_without_end_is_cut_off() -> None:
    with Server(["-RHl0", "-C1:421 no", *WHILE_OPEN]) as server, server.connect() as inside:
        assert let_in(inside)
        with server.connect() as refused:
            endless = iter(lambda: refused.send(b"x" * 65536), None)
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                sum(endless)


def test_a_rate_is_counted_per_address() -> None:
    with Server(["-vRHl0", "--rate", "3/1000", "127.0.0.1", "0", "echo", "in"]) as server:
        assert [server.ask() for _ in range(3)] == [b"in\n"] * 3
        for _ in range(2):
            with server.connect() as refused:
                name = refused.getsockname()
                assert read_all(refused) == b""
            server.wait_for_log(re.escape(deny(server, name, " rate")))
        assert server.ask(source="127.0.0.2") == b"in\n"


def test_after_the_period_the_rate_allows_again() -> None:
    with Server(["-RHl0", "--rate", "2/1", "127.0.0.1", "0", "echo", "in"]) as server:
        until(lambda: [server.ask() for _ in range(3)][-1] == b"")
        until(lambda: server.ask() == b"in\n")


RULES = '127.0.0.1:allow,MAXCONIP="2"\n127.0.0.3:allow,MAXCONIP="0"\n127.0.0.4:allow,MAXCONIP="x"\n:allow\n'


@pytest.mark.parametrize("options", [[], ["-B\n"]], ids=["parent", "child"])
def test_a_rule_limits_one_client(options: list[str], tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", RULES)
    words = ["-vRHl0", *options, "-x", str(cdb), *WHILE_OPEN]
    greeting = b"\n" if options else b""
    with Server(words) as server, ExitStack() as stack:

        def inside(source: str) -> bool:
            client = stack.enter_context(server.connect(source=source))
            received = b""
            while received != greeting + b"in\n":
                if not (part := client.recv(100)):
                    return False
                received += part
            return True

        assert [inside("127.0.0.1") for _ in range(3)] == [True, True, False]
        log = server.wait_for_log(rb"^tcpserver: deny .* limit-address$")
        pid = rb"(\d+)" if options else b"%d" % server.pid
        found = re.findall(rb"(?m)^tcpserver: deny %s 0:127.0.0.1:\d+ :127.0.0.1::\d+ limit-address$" % pid, log)
        assert len(found) == 1
        assert [inside("127.0.0.2") for _ in range(3)] == [True] * 3
        assert not inside("127.0.0.3")
        assert inside("127.0.0.4")  # a value that is no number is no limit
        if options:  # a child has refused it: its pid is in the line, and its end is logged
            server.wait_for_log(rb"^tcpserver: end %s status 25600$" % found[0])


def test_a_refusal_costs_no_process_and_no_slot(tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", "127.0.0.2:deny\n:allow\n")
    with Server(["-vRHl0", "-c2", "-x", str(cdb), *WHILE_OPEN]) as server, server.connect() as inside:
        assert let_in(inside)
        before = server.wait_for_log(rb"^tcpserver: ok")
        for _ in range(50):
            assert server.ask(source="127.0.0.2") == b""
        lines = server.wait_for_log(rb"^tcpserver: deny", 50)[len(before) :].splitlines()
        assert len(lines) == 50
        assert all(line.startswith(b"tcpserver: deny %d " % server.pid) for line in lines)


# -- the pure part

GROUPS = {
    b"192.0.2.1": b"192.0.2.1",
    b"2001:db8::1": b"2001:db8:0:0",
    b"2001:db8::2:1": b"2001:db8:0:0",
    b"2001:db8:0:1::1": b"2001:db8:0:1",
    b"2001:db8:1:2:3:4:5:6": b"2001:db8:1:2",
    b"::1": b"0:0:0:0",
    b"::": b"0:0:0:0",
    b"1::": b"1:0:0:0",
    b"fe80::1%eth0": b"fe80:0:0:0",
}


@pytest.mark.parametrize("address", GROUPS)
def test_an_ipv6_client_counts_with_its_64(address: bytes) -> None:
    assert group(address) == GROUPS[address]


def test_what_is_released_is_forgotten() -> None:
    limits = Limits(max_connected=2)
    for _ in range(3):
        limits.accept(b"a", 0.0)
    assert limits.refusal(b"a", 0.0) == b"limit-address"
    for _ in range(4):
        limits.release(b"a")
    assert limits.refusal(b"a", 0.0) is None
    assert not limits.connected


def test_a_rate_looks_back_over_its_period_and_forgets() -> None:
    limits = Limits(rate=2, period=10)
    limits.accept(b"a", 0.0)
    limits.accept(b"a", 5.0)
    assert limits.refusal(b"a", 9.9) == b"rate"
    assert limits.refusal(b"a", 10.0) is None
    limits.accept(b"a", 10.0)
    assert limits.refusal(b"a", 14.9) == b"rate"
    assert limits.refusal(b"a", 15.0) is None
    assert limits.refusal(b"b", 14.0) is None
    limits.accept(b"b", 30.0)
    assert list(limits.recent) == [b"b"]


def test_a_rate_remembers_no_more_than_its_period_of_who_never_pauses() -> None:
    limits = Limits(rate=1000, period=10)
    for moment in range(100):
        limits.accept(b"a", float(moment))
    assert list(limits.recent[b"a"]) == [float(moment) for moment in range(90, 100)]


def test_the_table_of_rates_is_bounded() -> None:
    limits = Limits(rate=1, period=10**6)
    for number in range(MAX_RATED + 10):
        limits.accept(b"%d" % number, float(number))
        limits.release(b"%d" % number)
    assert len(limits.recent) == MAX_RATED
    assert b"0" not in limits.recent


@pytest.mark.parametrize(
    ("value", "connected", "over"),
    [
        ("0", 0, True),
        ("2", 1, False),
        ("2", 2, True),
        ("", 9, False),
        ("-1", 9, False),
        ("x", 9, False),
        ("9" * 30, 9, False),
        ("0000000005", 4, False),
        ("0000000005", 5, True),
        ("0" * 5000 + "5", 4, False),
        ("0" * 30, 0, True),
    ],
)
def test_a_rules_own_limit(value: str, connected: int, over: bool) -> None:
    verdict = Verdict(b"", b"+A=1\0+MAXCONIP=" + value.encode() + b"\0")
    assert verdict.is_full(connected) is over
