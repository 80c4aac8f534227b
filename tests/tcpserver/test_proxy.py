"""--proxy-from: the client is the one that the PROXY header names, in every way to run a program."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import proxyheader as made
from tests.kit.consolescript import EXECUTE, install_script
from tests.kit.server import Server, compiled, read_all, refusal
from tests.kit.support import script

LOADED = ["--preload", "obey"]
WAYS = {
    "spawn": ["-RHl0"],
    "exec": ["-RHl0", "--exec"],
    "fork and exec": ["-Rhl0"],
    "fork and call": ["-RHl0", *LOADED, "--reuse", "1"],
    "fork, ask and call": ["-Rhl0", *LOADED, "--reuse", "1"],
    "call again": ["-RHl0", *LOADED],
    "ask and call again": ["-Rhl0", *LOADED],
    "banner": ["-RHl0", "-B", "", *LOADED],
}
RULES = '127.0.0.1:allow,RELAYCLIENT="",A="1"\n192.0.2.7:allow,RELAYCLIENT="",B="2"\n192.0.2.8:deny\n:allow\n'
GIVEN = {  # inherited, among them names that tcpserver or a rule sets
    "RELAYCLIENT": "inherited",
    "NORELAY": "inherited",
    "PROXYREMOTEIP": "inherited",
    "PROXYREMOTEPORT": "inherited",
    "TCP6REMOTEIP": "inherited",
    "TCPREMOTEINFO": "inherited",
}
SHOW = (
    b"import os; names = [name for name in os.environ if name.startswith(('TCP', 'PROTO', 'PROXY', 'NORELAY'))];"
    b"names += {'RELAYCLIENT', 'A', 'B'} & {*os.environ}; print(*(f'{name}={os.environ[name]}' for name in names))\n\n"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scripts")
    install_script(directory, "obey", EXECUTE)
    compiled(directory / "rules.cdb", RULES)
    return directory


def started(home: Path, *options: str, host: str = "127.0.0.1", proxies: str = "127.0.0.0/8,::1") -> Server:
    """A server that runs `obey`, with the rules, and takes a header from all of loopback."""
    environ = GIVEN | {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-x", str(home / "rules.cdb"), "--proxy-from", proxies, *options, host, "0", "obey"]
    return Server(words, environ=environ, cwd=home)


@pytest.fixture(scope="module", params=WAYS)
def server(request: pytest.FixtureRequest, home: Path) -> Iterator[Server]:
    with started(home, *WAYS[request.param]) as server:
        yield server


def seen(answer: bytes) -> dict[str, str]:
    """The variables that the program saw, without names, which only some ways ask for."""
    pairs = dict(word.split("=", 1) for word in answer.decode().split())
    return {name: value for name, value in pairs.items() if not name.endswith("HOST")}


def peer_of(variables: dict[str, str]) -> dict[str, str]:
    """The variables about the proxy, which are taken out."""
    return {name: variables.pop(name) for name in list(variables) if name.startswith("PROXY")}


@pytest.mark.parametrize(
    "header", [made.v1("192.0.2.7"), made.v2(made.ends("192.0.2.7", "192.0.2.25"))], ids=["v1", "v2"]
)
def test_the_header_names_the_client(server: Server, header: bytes) -> None:
    with server.connect() as client:
        client.sendall(header + SHOW)
        variables = seen(read_all(client))
        assert peer_of(variables) == {
            "PROXYREMOTEIP": "127.0.0.1",
            "PROXYREMOTEPORT": str(client.getsockname()[1]),
        }
    assert variables == {
        "PROTO": "TCP",
        "TCPLOCALIP": "192.0.2.25",
        "TCPLOCALPORT": "25",
        "TCPREMOTEIP": "192.0.2.7",
        "TCPREMOTEPORT": "40312",
        "RELAYCLIENT": "",
        "B": "2",
    }


@pytest.mark.parametrize(
    "header",
    [made.v1("2001:DB8::7", "2001:db8::25"), made.v2(made.ends("2001:db8::7", "2001:db8::25"), made.TCP6)],
    ids=["v1", "v2"],
)
def test_a_client_with_ipv6_has_both_sets_of_variables(server: Server, header: bytes) -> None:
    variables = seen(server.ask(header + SHOW))
    assert len(peer_of(variables)) == 2
    assert variables.pop("PROTO") == "TCP6"
    assert variables.pop("RELAYCLIENT") == "inherited"
    assert variables == {
        f"{name}{suffix}": value
        for name in ("TCP", "TCP6")
        for suffix, value in {
            "LOCALIP": "2001:db8::25",
            "LOCALPORT": "25",
            "REMOTEIP": "2001:db8::7",
            "REMOTEPORT": "40312",
        }.items()
    }


NAMELESS = {
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.7 192.0.2.25 1 2\r\n",
    "LOCAL": made.v2(b"", made.UNSPEC, made.LOCAL),
    "LOCAL with addresses": made.v2(made.ends("192.0.2.7", "192.0.2.25"), made.TCP4, made.LOCAL),
    "AF_UNSPEC": made.v2(made.tlv(made.UNIQUE_ID, b"u"), made.UNSPEC),
    "AF_UNIX": made.v2(bytes(216), made.UNIX),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_a_client_without_a_name_has_the_rules_of_the_proxy_and_never_relays(server: Server, name: str) -> None:
    with server.connect() as client:
        client.sendall(NAMELESS[name] + SHOW)
        port = str(client.getsockname()[1])
        assert seen(read_all(client)) == {
            "PROTO": "TCP",
            "TCPLOCALIP": "127.0.0.1",
            "TCPLOCALPORT": str(server.port),
            "TCPREMOTEIP": "127.0.0.1",
            "TCPREMOTEPORT": port,
            "PROXYREMOTEIP": "127.0.0.1",
            "PROXYREMOTEPORT": port,
            "NORELAY": "1",
            "A": "1",
        }


def test_a_named_client_may_relay_after_one_without_a_name(server: Server) -> None:
    for _ in range(3):
        assert "RELAYCLIENT" not in seen(server.ask(NAMELESS["UNKNOWN"] + SHOW))
        variables = seen(server.ask(made.v1("127.0.0.1") + SHOW))
        assert variables["RELAYCLIENT"] == ""
        assert "NORELAY" not in variables


def test_a_denied_client_is_closed(server: Server) -> None:
    denied = made.v1("192.0.2.8")
    before = server.log().count(b"192.0.2.8")
    assert server.ask(denied + SHOW) == b""
    server.wait_for_log(rb"^tcpserver: deny \d+ [^ ]*:192.0.2.25:25 [^ ]*:192.0.2.8::40312$", 1)
    assert server.log().count(b"192.0.2.8") > before


BEHIND = b"import sys; print(ascii(sys.stdin.buffer.read()))\n\n\x16\x03\x01\0\xff\r\nPROXY TCP4 192.0.2.8 1 2\r\n"


@pytest.mark.parametrize(
    "header",
    [made.v1("192.0.2.7"), made.v2(made.ends("192.0.2.7", "192.0.2.25") + made.tlv(4, b"x" * 300))],
    ids=["v1", "v2"],
)
def test_no_byte_behind_the_header_is_lost_however_it_is_cut(home: Path, header: bytes) -> None:
    expected = ascii(BEHIND.partition(b"\n\n")[2]).encode() + b"\n"
    data = header + BEHIND
    with started(home, *WAYS["call again"]) as server:
        for first in (1, 5, 12, 15, 16, len(header) - 1, len(header), len(header) + 1, len(data)):
            with server.connect() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(data[:first])
                client.sendall(data[first:])
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == expected
        with server.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in data:
                client.sendall(bytes([octet]))
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == expected


def test_from_elsewhere_a_header_is_never_looked_for(home: Path) -> None:
    header = made.v1("192.0.2.7")
    with started(home, *WAYS["call again"], proxies="127.0.0.2,10.0.0.0/8") as server:
        code = b"import sys; print(ascii(sys.stdin.buffer.read()))\n\n"
        assert server.ask(code + header) == ascii(header).encode() + b"\n"
        assert server.ask(header + code, source="127.0.0.2") == b"b''\n"
        variables = seen(server.ask(SHOW))
        assert peer_of(variables) == {}
        assert (variables["TCPREMOTEIP"], variables["RELAYCLIENT"], "NORELAY" in variables) == ("127.0.0.1", "", False)


def test_a_proxy_with_ipv4_on_a_listener_for_both_families_is_known(home: Path) -> None:
    with started(home, *WAYS["spawn"], host="::") as server:
        for host in ("127.0.0.1", "::1"):
            variables = seen(server.ask(made.v1("192.0.2.7") + SHOW, host=host))
            assert (variables["TCPREMOTEIP"], variables["PROXYREMOTEIP"]) == ("192.0.2.7", host)


def test_limits_count_the_clients_and_not_the_proxy(home: Path) -> None:
    options = ["-C", "1:421 too many", "--rate", "2/1000"]
    with started(home, *WAYS["spawn"], *options) as server, server.connect() as other:
        other.sendall(made.v1("192.0.2.9"))
        with server.connect() as client:
            client.sendall(made.v1("192.0.2.7"))
            server.wait_for_log(rb"^tcpserver: ok ", 2)
            assert server.ask(made.v1("192.0.2.7")) == b"421 too many\r\n"
        server.wait_for_log(rb"^tcpserver: end ")
        assert b"B=2" in server.ask(made.v1("192.0.2.7") + SHOW)
        server.wait_for_log(rb"^tcpserver: end ", 2)
        assert server.ask(made.v1("192.0.2.7") + SHOW) == b""
        log = server.log()
        assert len(re.findall(rb"^tcpserver: deny \d+ .*:192.0.2.7::40312 limit-address$", log, re.MULTILINE)) == 1
        assert len(re.findall(rb"^tcpserver: deny \d+ .*:192.0.2.7::40312 rate$", log, re.MULTILINE)) == 1


def test_ident_is_not_asked_for_a_client_behind_a_proxy(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "cdb", "joe@192.0.2.7:deny\n:allow\n")
    with started(home, "-rHl0", "-x", str(rules)) as server:
        assert "TCPREMOTEINFO" not in seen(server.ask(made.v1("192.0.2.7") + SHOW))


# -- the log


def test_the_log_names_the_client_and_as_json_also_the_proxy(home: Path) -> None:
    with started(home, "-RHl0", "--log-format", "json") as server:
        with server.connect() as client:
            port = client.getsockname()[1]
            client.sendall(made.v1("192.0.2.7") + SHOW)
            read_all(client)
        server.ask(made.v1("192.0.2.8"))
        server.ask(b"EHLO me\r\n")
        server.wait_for_log(rb'"event": "drop"')
        server.wait_for_log(rb'"event": "end"')
        events = [json.loads(line) for line in server.log().splitlines()]
    (ok,) = [event for event in events if event["event"] == "ok"]
    (deny,) = [event for event in events if event["event"] == "deny"]
    (drop,) = [event for event in events if event["event"] == "drop"]
    assert (ok["remote_ip"], ok["remote_port"], ok["local_ip"]) == ("192.0.2.7", 40312, "192.0.2.25")
    assert (ok["proxy_ip"], ok["proxy_port"]) == ("127.0.0.1", port)
    assert (deny["remote_ip"], deny["proxy_ip"], deny["rule"]) == ("192.0.2.8", "127.0.0.1", "192.0.2.8")
    assert drop["remote_ip"] == "127.0.0.1"
    assert drop["reason"] == "unable to read PROXY header from 127.0.0.1: no PROXY header"


# -- the command line


@pytest.mark.parametrize(
    "networks", ["", "10", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8,", "10.0.0.0/8 ::1", "localhost"]
)
def test_what_is_no_list_of_networks_is_a_usage_error(networks: str) -> None:
    message, status = refusal(["--proxy-from", networks, "127.0.0.1", "0", "true"], script("tcpserver"))
    assert message.startswith(b"tcpserver: fatal: --proxy-from needs networks, such as 10.0.0.0/8,::1: ")
    assert (message.count(b"\n"), status) == (1, 100)


def test_every_list_of_networks_counts(home: Path) -> None:
    with started(home, "-RHl0", "--proxy-from", "127.0.0.3", proxies="127.0.0.1,127.0.0.2") as server:
        for last, known in ((1, True), (2, True), (3, True), (4, False)):
            data = made.v1("192.0.2.7") + SHOW if known else SHOW
            variables = seen(server.ask(data, source=f"127.0.0.{last}"))
            assert variables["TCPREMOTEIP"] == ("192.0.2.7" if known else "127.0.0.4")


@pytest.mark.parametrize(("options", "times"), [([], 2), (["-q"], 0)])
def test_everybody_as_a_proxy_is_warned_about(options: list[str], times: int) -> None:
    words = ["-RHl0", *options, "--proxy-from", "0.0.0.0/0,10.0.0.0/8,::/0", "127.0.0.1", "0", "cat"]
    with Server(words) as server:
        assert server.ask(made.v1("192.0.2.7") + b"x") == b"x"
        assert server.log().count(b"0: every client may claim any address\n") == times
        assert server.log().count(b"\n") == times


# -- descriptors


@pytest.mark.parametrize("way", WAYS)
def test_no_program_has_a_connection_that_waits(home: Path, way: str) -> None:
    code = b"import os, sys; print(len(os.listdir('/proc/self/fd')), flush=True); sys.stdin.read()\n\n"
    with started(home, *WAYS[way]) as server, server.connect() as silent:
        silent.sendall(b"PROXY")
        with server.connect() as client:
            client.sendall(made.v1("192.0.2.7") + code)
            beside = client.recv(1000)
            silent.sendall(b"\n")
            assert read_all(silent) == b""  # no other process holds it open
    with started(home, *WAYS[way]) as server, server.connect() as client:
        client.sendall(made.v1("192.0.2.7") + code)
        assert client.recv(1000) == beside
