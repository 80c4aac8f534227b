"""tcpserver's log: the text fields, JSON for each event, SIGUSR1, what -q and -Q leave out."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tcpserver.environ import Facts
from tcpserver.log import Lines, field
from tcpserver.log_json import JsonLines
from tests.kit.server import Server, children, compiled, until

RULES = '127.0.0.1:allow,A="b"\n127.0.0.2:deny\n127.0.0.3:allow,MAXCONIP="0"\n127.0.:allow\n'
CAT = ["127.0.0.1", "0", "cat"]
ENDS = {"local_ip": "127.0.0.1", "local_host": "0", "remote_ip": "127.0.0.1"}


def events(server: Server) -> list[dict[str, Any]]:
    """The log's objects; what is no line of JSON in ASCII fails."""
    return [json.loads(line.decode("ascii")) for line in server.log().splitlines()]


def named(server: Server, event: str, times: int = 1) -> list[dict[str, Any]]:
    until(lambda: len([found for found in events(server) if found["event"] == event]) >= times, server.log)
    return [found for found in events(server) if found["event"] == event]


def has(event: dict[str, Any], **values: object) -> bool:
    return {name: event.get(name) for name in values} == values


@pytest.fixture(params=["parent", "child"])
def json_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, bool]]:
    cdb = compiled(tmp_path / "cdb", RULES)
    banner = ["-Bx"] if request.param == "child" else []
    words = ["-vRHl0", *banner, "-C5", "--log-format", "json", "-x", str(cdb), *CAT]
    with Server(words) as server:
        yield server, request.param == "child"


def test_every_event_is_an_object_of_its_own(json_server: tuple[Server, bool]) -> None:
    server, _ = json_server
    with server.connect() as client:
        client.sendall(b"y")
        until(lambda: b"y" in client.recv(10))
        pid, port = children(server.pid)[0], client.getsockname()[1]
    end = named(server, "end")[0]
    assert has(end, pid=pid, status=0, exit=0, signal=None, remote_ip="127.0.0.1")
    assert 0 < end["duration"] < 100
    assert has(named(server, "ok")[0], pid=pid, local_port=server.port, remote_port=port, rule="127.0.0.1", **ENDS)
    assert has(named(server, "pid")[0], pid=pid, remote_ip="127.0.0.1")
    assert [found["children"] for found in named(server, "status", 3)] == [0, 1, 0]
    assert all(found["limit"] == 40 and found["time"] > 1.7e9 for found in named(server, "status"))


def test_a_refusal_names_the_rule_or_limit(json_server: tuple[Server, bool]) -> None:
    server, by_child = json_server
    for source, rule, reason in (("127.0.0.2", "127.0.0.2", None), ("127.0.0.3", "127.0.0.3", "limit-address")):
        server.ask(source=source)
        until(lambda s=source: any(has(found, remote_ip=s) for found in named(server, "deny")))
        found = next(found for found in named(server, "deny") if found["remote_ip"] == source)
        assert has(found, rule=rule, reason=reason)
        assert (found["pid"] == server.pid) != by_child


def test_a_limit_of_the_server_has_no_rule(json_server: tuple[Server, bool]) -> None:
    server, _ = json_server
    with ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(server.connect(source="127.0.0.9"))
            client.sendall(b"y")
            until(lambda c=client: b"y" in c.recv(10))
        server.ask(source="127.0.0.9")
        assert has(named(server, "deny")[0], pid=server.pid, rule=None, reason="limit-address", remote_ip="127.0.0.9")
        assert {found["rule"] for found in named(server, "ok")} == {"127.0."}


def test_a_death_by_signal_has_a_signal_and_no_exit_code(json_server: tuple[Server, bool]) -> None:
    server, _ = json_server
    with server.connect() as client:
        client.sendall(b"y")
        until(lambda: b"y" in client.recv(10))
        os.kill(children(server.pid)[0], signal.SIGKILL)
        assert has(named(server, "end")[0], status=9, signal=9, exit=None)


def test_a_dropped_connection_is_logged_with_its_reason(json_server: tuple[Server, bool], tmp_path: Path) -> None:
    server, by_child = json_server
    (tmp_path / "cdb").unlink()
    server.ask()
    drop = named(server, "drop")[0]
    assert has(drop, reason=f"unable to read {tmp_path}/cdb: file does not exist", remote_ip="127.0.0.1")
    assert (drop["pid"] == server.pid) != by_child


def test_what_clients_choose_is_escaped() -> None:
    facts = Facts(b"192.0.2.1", 25, b"192.0.2.2", 1234)
    facts.remote_host, facts.remote_info = b"a\x1b[1m", b'\xff"\n\0\x7f'
    line = JsonLines().verdict(b"ok", 1, facts, b"\xff@=", b"")
    assert line.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in line[:-1])
    found = json.loads(line)
    assert found["remote_info"].encode("latin-1") == facts.remote_info
    assert found["remote_host"].encode("latin-1") == facts.remote_host
    assert found["rule"].encode("latin-1") == b"\xff@="
    assert "local_host" not in found


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_sigusr1_logs_who_is_connected(log_format: str) -> None:
    with Server(["-RHl0", "--log-format", log_format, *CAT]) as server, ExitStack() as stack:
        server.send(signal.SIGUSR1)  # nobody
        for source in ("127.0.0.1", "127.0.0.2"):
            client = stack.enter_context(server.connect(source=source))
            client.sendall(b"y")
            until(lambda c=client: b"y" in c.recv(10))
        pids = set(children(server.pid))
        server.send(signal.SIGUSR1)
        if log_format == "text":
            log = server.wait_for_log(rb"^tcpserver: connected ", 2)
            found = re.findall(rb"(?m)^tcpserver: connected (\d+) (\S+) \d+ seconds$", log)
            assert {int(pid) for pid, _ in found} == pids
            assert {address for _, address in found} == {b"127.0.0.1", b"127.0.0.2"}
        else:
            connected = named(server, "connected", 2)
            assert {found["pid"] for found in connected} == pids
            assert all(found["duration"] >= 0 for found in connected)


@pytest.mark.parametrize(("option", "lines"), [("-q", 0), ("-Q", 1), ("-v", 2)])
def test_the_option_decides_which_lines_are_logged(option: str, lines: int, tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", "127.0.0.2:deny\n:allow\n")
    with Server(["-RHl0", option, "-x", str(cdb), "127.0.0.1", "0", "nosuch"]) as server:
        server.ask(source="127.0.0.2")
        server.ask()
        warning = b"tcpserver: warning: dropping connection, unable to run nosuch: file does not exist\n"
        if lines:
            server.wait_for_log(re.escape(warning))
        assert (warning in server.log()) == (lines > 0)
        assert (b"tcpserver: deny" in server.log()) == (lines > 1)
        assert server.log().count(b"\n") == (0, 1, 3)[lines]


def test_q_logs_nothing_even_at_sigusr1() -> None:
    with Server(["-qRHl0", *CAT]) as server, server.connect() as client:
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        server.send(signal.SIGUSR1)
        assert server.stop() == 0  # the signals are taken in their order, or together
        assert server.log() == b""


def test_q_leaves_descriptor_2_to_the_program() -> None:
    with Server(["-qRHl0", "127.0.0.1", "0", "sh", "-c", "echo spoken >&2"]) as server:
        server.ask()
        assert server.wait_for_log(b"spoken") == b"spoken\n"


# -- the pure part

FIELDS = {  # tcpserver.c, safecats()
    None: b"",
    b"": b"",
    b"plain-1.example": b"plain-1.example",
    b"a b\tc": b"a?b?c",
    b"100%:x": b"100??x",
    b"\x1b\x7f\xff\x80": b"????",
    b"cut\0here": b"cut",
    b"\0": b"",
    b"x" * 99: b"x" * 99,
    b"x" * 100: b"x" * 100 + b"...",
    b"x" * 101: b"x" * 100 + b"...",
    b" " * 300: b"?" * 100 + b"...",
}


@pytest.mark.parametrize("value", FIELDS)
def test_a_field_is_safe_and_short(value: bytes | None) -> None:
    assert field(value) == FIELDS[value]


def test_an_ipv6_address_is_in_brackets_between_colons_and_bare_elsewhere() -> None:
    facts = Facts(b"2001:db8::1", 25, b"2001:db8::2", 1234)
    assert Lines().arrival(7, facts) == b"tcpserver: pid 7 from 2001:db8::2\n"
    expected = b"tcpserver: ok 7 :[2001:db8::1]:25 :[2001:db8::2]::1234\n"
    assert Lines().verdict(b"ok", 7, facts, None) == expected
    assert Lines().verdict(b"deny", 7, facts, b"", b"rate") == expected.replace(b"ok", b"deny").replace(
        b"\n", b" rate\n"
    )


def test_both_formats_have_the_same_lines() -> None:
    by_warning = ["nameless", "lost"]
    methods = [name for name in vars(Lines) if not name.startswith("_")]
    assert [name for name in methods if name not in vars(JsonLines)] == by_warning
    assert json.loads(JsonLines().nameless(b"\xff"))["event"] == "warning"
    assert json.loads(JsonLines().lost(3))["text"] == "dropped 3 log lines: nobody read them"
    assert Lines().lost(3) == b"tcpserver: warning: dropped 3 log lines: nobody read them\n"


def test_a_line_of_the_log_is_one_write(tmp_path: Path) -> None:
    """Several processes write to the log: a line of one must not be inside a line of another."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Server(["-vRHl0", "-Bx", "127.0.0.1", "0", "true"], stderr=writer.fileno()) as server, reader, writer:
        reader.settimeout(20)
        assert server.ask() == b"x"
        while not (part := reader.recv(10_000)).startswith(b"tcpserver: end"):
            assert part.startswith(b"tcpserver: ")
            assert part.endswith(b"\n")
