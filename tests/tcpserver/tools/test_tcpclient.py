"""tcpclient: words, descriptors, environment, messages, several addresses; and the same as the C original."""

import errno
import re
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tcpserver.tools import dialling
from tcpserver.tools.dialling import BindError, Dialler, in_turns
from tests.kit.answering import Silent
from tests.kit.pairs import Outcome, both, run
from tests.kit.server import PATIENCE, Server, needs_root
from tests.kit.support import free_port, own_address, script

SHOW = ["sh", "-c", "tr '\\0' '\\n' </proc/self/environ; cat <&6"]
GIVEN = {"A": "1", "TCPREMOTEHOST": "inherited", "TCPREMOTEINFO": "x", "B": "2", "PROTO": "UDP", "TCPLOCALHOST": "h"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(["-RHl0", "127.0.0.1", "0", "echo", "hello"]) as running:
        yield running


def masked(outcome: Outcome) -> Outcome:
    return outcome._replace(stdout=re.sub(rb"(?m)^(TCPLOCALPORT)=\d+$", rb"\1=PORT", outcome.stdout))


@pytest.mark.peer
@pytest.mark.parametrize(
    "options",
    [
        ["-RHl0"],
        ["-RHl", ""],
        ["-vRHllocal"],
        ["-qQvRH", "-l", "a", "-l", "b"],
        ["-DRHl0", "-i", "127.0.0.9", "-T", "5"],
        ["-dRHl0", "-T1+2", "--"],
        ["-RrRHl0", "-t", "1"],
    ],
    ids=" ".join,
)
def test_the_program_finds_what_the_originals_program_finds(server: Server, options: list[str]) -> None:
    ours, original = both("tcpclient", [*options, "127.0.0.1", str(server.port), *SHOW], environ=GIVEN)
    assert masked(ours) == masked(original)
    assert b"hello\n" in ours.stdout


@pytest.mark.peer
@pytest.mark.parametrize("host", ["0", "", "[127.000.0.1]", "127.0.0.1."])
def test_a_host_may_be_written_in_all_ways_of_the_original(server: Server, host: str) -> None:
    ours, original = both("tcpclient", ["-vRHl0", host, str(server.port), "sh", "-c", "cat <&6"])
    assert ours == original == (b"hello\n", b"tcpclient: connected to 127.0.0.1 port %d\n" % server.port, 0)


@pytest.mark.peer
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["0"],
        ["0", "0"],
        ["-z"],
        ["-Rz", "0", "0", "true"],
        ["-T"],
        ["-qT"],
        ["--help"],
        ["-"],
        ["-i", "1.2.3", "0", "1", "true"],
        ["-i", "x", "0", "1", "true"],
        ["-i", "192.0.2.1", "0", "1", "true"],
        ["-qi", "192.0.2.1", "0", "1", "true"],
        ["0", "nonexistent-port", "true"],
        ["-q", "0", "nonexistent-port", "true"],
        ["nonexistent.invalid.", "1", "true"],
    ],
    ids=" ".join,
)
def test_wrong_words_give_the_originals_message(words: list[str]) -> None:
    ours, original = both("tcpclient", words, environ={"DNSCACHEIP": "127.0.0.1"})
    if words[:1] == ["nonexistent.invalid."]:  # which of the two texts depends on the resolver
        assert ours.stderr.endswith(b"P address for nonexistent.invalid.\n") or b": temporary failure\n" in ours.stderr
        assert ours.exit == original.exit == 111
    else:
        assert ours == original


@pytest.mark.peer
@pytest.mark.parametrize("options", [["-RHl0"], ["-qRHl0"], ["-vRHl0"], ["-RHl0T1+1"]], ids=" ".join)
def test_a_refused_connection_gives_the_originals_message(options: list[str]) -> None:
    ours, original = both("tcpclient", [*options, "127.0.0.1", str(free_port()), "true"])
    assert ours == original
    assert ours.exit == 111


@pytest.mark.peer
@pytest.mark.parametrize("program", [["sh", "-c", "exit 7"], ["sh", "-c", "kill -9 $$"], ["no/such"], ["/"]])
def test_the_exit_status_is_the_programs(server: Server, program: list[str]) -> None:
    ours, original = both("tcpclient", ["-RHl0", "127.0.0.1", str(server.port), *program])
    assert ours == original


def test_the_program_gets_6_and_7_and_the_standard_descriptors(server: Server) -> None:
    words = ["-RHl0", "127.0.0.1", str(server.port), "sh", "-c", "ls -l /proc/$$/fd"]
    found = re.findall(rb"(\d+) -> (socket|)", run(script("tcpclient"), words).stdout)
    assert found == [(b"0", b""), (b"1", b""), (b"2", b""), (b"6", b"socket"), (b"7", b"socket")]


@pytest.mark.peer
def test_the_program_dies_by_sigpipe_as_usual(server: Server) -> None:
    words = ["-RHl0", "127.0.0.1", str(server.port), "grep", "^Sig[BI]", "/proc/self/status"]
    ours, original = both("tcpclient", words)
    assert ours == original


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-p", "70000", "0", "1", "true"], b"-p needs a whole number from 0 to 65535: 70000"),
        (["-T", "2+x", "0", "1", "true"], b"-T needs a whole number from 0 to 2147483647: x"),
        (["-t", "1s", "0", "1", "true"], b"-t needs a whole number from 0 to 2147483647: 1s"),
        (["0", "65536", "true"], b"port is over 65535: 65536"),
    ],
)
def test_numbers_out_of_bounds_are_refused(words: list[str], line: bytes) -> None:
    assert run(script("tcpclient"), words) == (b"", b"tcpclient: fatal: " + line + b"\n", 100)


def test_a_time_that_poll_cannot_wait_is_taken(server: Server) -> None:
    words = ["-RHl0", "-T", "2147483647+2147483647", "127.0.0.1", str(server.port), "true"]
    assert run(script("tcpclient"), words) == (b"", b"", 0)


@needs_root
def test_a_time_whose_milliseconds_wrap_around_is_not_a_short_one() -> None:
    """4,294,968,000 ms are 704 ms in 32 bits."""
    host = own_address(1)
    with socket.create_server((host, 0)) as server, socket.create_server((host, 113)) as ident:
        ident.settimeout(PATIENCE)
        port = server.getsockname()[1]
        words = ["-Hl0", "-t", "4294968", host, str(port), "sh", "-c", "echo $TCPREMOTEINFO"]
        with subprocess.Popen([script("tcpclient"), *words], stdout=subprocess.PIPE) as process:
            talk, _ = ident.accept()
            with talk:
                ports = talk.recv(100).strip()
                assert select.select([talk], [], [], 1) == ([], [], [])  # it still waits
                talk.sendall(ports + b" : USERID : UNIX : joe\r\n")
            assert process.communicate(timeout=PATIENCE)[0] == b"joe\n"


def test_an_ipv6_server_is_reached_and_named() -> None:
    with Server(["-RHl0", "::1", "0", "echo", "hello"]) as server:
        for host in ("::1", "[::1]"):
            done = run(script("tcpclient"), ["-vRHl0", host, str(server.port), *SHOW], environ=GIVEN)
            assert done.stderr == b"tcpclient: connected to ::1 port %d\n" % server.port
            found = dict(line.split(b"=", 1) for line in done.stdout.splitlines() if b"=" in line)
            assert (found[b"PROTO"], found[b"TCPREMOTEIP"], found[b"TCP6REMOTEIP"]) == (b"TCP6", b"::1", b"::1")
            assert b"TCPREMOTEHOST" not in found
            assert b"TCPREMOTEINFO" not in found


def test_the_local_port_is_chosen(server: Server) -> None:
    port = free_port_of("127.0.0.7")
    words = ["-RHl0", "-i", "127.0.0.7", "-p", str(port), "127.0.0.1", str(server.port), *SHOW]
    done = run(script("tcpclient"), words)
    assert b"TCPLOCALPORT=%d\nTCPLOCALIP=127.0.0.7\n" % port in done.stdout


# -- several addresses, for which a host has no name in the tests


class Reported(list[tuple[str, int]]):
    def __call__(self, address: str, port: int, error: OSError) -> None:
        self.append((address, error.errno or 0))


def test_addresses_of_both_families_are_tried_in_turns() -> None:
    assert in_turns(["::1", "::2", "::3", "127.0.0.1"]) == ["::1", "127.0.0.1", "::2", "::3"]
    assert in_turns(["127.0.0.1", "127.0.0.2", "::1"]) == ["127.0.0.1", "::1", "127.0.0.2"]
    assert in_turns(["127.0.0.1"]) == ["127.0.0.1"]


def test_an_address_that_refuses_is_reported_and_the_next_one_tried(server: Server) -> None:
    reported = Reported()
    link = Dialler(server.port, 2, 58, reported).connect(["127.0.0.8", "::1", "127.0.0.1"])
    assert link
    assert link.getpeername() == ("127.0.0.1", server.port)
    link.close()
    assert reported == [("127.0.0.8", errno.ECONNREFUSED), ("::1", errno.ECONNREFUSED)]


@pytest.mark.parametrize("local_port", [0, 1])
def test_a_silent_address_does_not_hold_up_the_next_one(server: Server, local_port: int) -> None:
    reported = Reported()
    if local_port:
        local_port = free_port_of(own_address(0))
    with Silent(own_address(1), server.port):
        dialler = Dialler(server.port, 1, 58, reported, own_address(0) if local_port else "", local_port)
        link = dialler.connect([own_address(1), "127.0.0.1"])
        assert link
        assert link.getpeername()[0] == "127.0.0.1"
        link.close()
    assert reported == []
    assert dialler.late == ([own_address(1)] if local_port else [])


@pytest.mark.parametrize(("more", "tries"), [(0, 1), (1, 2)])
def test_each_address_is_tried_again_with_the_second_time_out(more: int, tries: int) -> None:
    """With a chosen local port, addresses are tried one after the other, as in 0.88."""
    reported = Reported()
    with Silent(own_address(1)) as silent:
        dialler = Dialler(silent.port, 0, more, reported, own_address(0), free_port_of(own_address(0)))
        assert dialler.connect([own_address(1), own_address(2)]) is None
    late = [(own_address(1), errno.ETIMEDOUT)]
    refused = [(own_address(2), errno.ECONNREFUSED)]
    assert reported == (refused + late if tries == 2 else late + refused)


def free_port_of(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no IPv6, as with a kernel that was booted with ipv6.disable=1."""
    monkeypatch.setattr(dialling, "family", lambda address: 255 if ":" in address else socket.AF_INET)


NO_SOCKET = ("::1", errno.EAFNOSUPPORT)


@pytest.mark.usefixtures("no_ipv6")
@pytest.mark.parametrize("patience", [0, 2], ids=["side by side", "one after the other"])
@pytest.mark.parametrize("addresses", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"]])
def test_an_address_without_a_socket_does_not_end_the_attempts_for_the_others(
    server: Server, addresses: list[str], patience: int
) -> None:
    reported = Reported()
    link = Dialler(server.port, patience, 58, reported).connect(addresses)
    assert link
    link.close()
    assert reported in ([], [NO_SOCKET])  # the first connection may come before the second attempt


@pytest.mark.usefixtures("no_ipv6")
def test_an_address_without_a_socket_is_reported_like_the_others() -> None:
    reported = Reported()
    assert Dialler(free_port(), 2, 58, reported).connect(["::1", "127.0.0.1"]) is None
    assert reported == [NO_SOCKET, ("127.0.0.1", errno.ECONNREFUSED)]


@pytest.mark.usefixtures("no_ipv6")
def test_an_address_that_is_late_gets_its_second_time_after_one_without_a_socket() -> None:
    reported = Reported()
    with Silent(own_address(1)) as silent:
        dialler = Dialler(silent.port, 0, 1, reported, own_address(0), free_port_of(own_address(0)))
        assert dialler.connect([own_address(1), "::1"]) is None
    assert reported == [NO_SOCKET, (own_address(1), errno.ETIMEDOUT)]


@pytest.mark.usefixtures("no_ipv6")
@pytest.mark.parametrize("addresses", [["::1"], ["127.0.0.1", "::1"]])
def test_the_want_of_a_socket_for_the_last_address_is_fatal(addresses: list[str]) -> None:
    with pytest.raises(BindError, match="unable to create socket: address family not supported"):
        Dialler(free_port(), 2, 58, Reported()).connect(addresses)


def test_a_time_out_is_an_error_of_its_address() -> None:
    reported = Reported()
    with Silent(own_address(1)) as silent:
        assert Dialler(silent.port, 0, 0, reported).connect([own_address(1)]) is None
    assert reported == [(own_address(1), errno.ETIMEDOUT)]
