"""IPv6: which families a host listens on, mapped clients, variables, log lines, rules, names, limits."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpserver.parent.admission import text
from tests.kit.server import PATIENCE, Server, compiled, needs_root, read_all, until, with_files


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this host has no ::1")
RULES = '::1:allow,RULE="six"\n127.0.0.1:allow,RULE="four"\n127.:deny\n::/1:deny\n'


@pytest.fixture(scope="module", params=["parent", "child"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    cdb = compiled(tmp_path_factory.mktemp("rules") / "cdb", RULES)
    banner = ["-B\n"] if request.param == "child" else []
    with Server(
        ["-vRHl0", *banner, "-x", str(cdb), "::", "0", "env"],
        environ={"TCP6REMOTEIP": "stale", "TCP6INTERFACE": "stale"},
    ) as server:
        yield server


def variables(answer: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in answer.decode().splitlines() if line)


def test_two_colons_take_both_families(both: Server) -> None:
    six, four = variables(both.ask(host="::1")), variables(both.ask(host="127.0.0.1"))
    assert (six["PROTO"], four["PROTO"]) == ("TCP6", "TCP")
    assert (six["TCPREMOTEIP"], six["TCPLOCALIP"]) == ("::1", "::1")
    assert (four["TCPREMOTEIP"], four["TCPLOCALIP"]) == ("127.0.0.1", "127.0.0.1")
    assert six["TCPLOCALPORT"] == four["TCPLOCALPORT"] == str(both.port)


def test_programs_that_read_protoremoteip_know_the_client(both: Server) -> None:
    six, four = variables(both.ask(host="::1")), variables(both.ask(host="127.0.0.1"))
    names = ("LOCALIP", "LOCALPORT", "LOCALHOST", "REMOTEIP", "REMOTEPORT")
    assert [six["TCP6" + name] for name in names] == [six["TCP" + name] for name in names]
    assert not [name for name in four if name.startswith("TCP6")]
    assert "TCP6INTERFACE" not in six


def link_local() -> str | None:
    """An address of this host with a zone (fe80::1%eth0)."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        words = line.split()
        if words[0].startswith("fe80"):
            address = ":".join(words[0][start : start + 4] for start in range(0, 32, 4))
            return f"{address}%{words[5]}"
    return None


@pytest.mark.skipif(link_local() is None, reason="this host has no link-local address")
def test_the_zone_of_a_link_local_client_is_the_interface(both: Server) -> None:
    address = link_local()
    assert address
    found = variables(both.ask(host=address))
    assert found["TCP6INTERFACE"] == address.partition("%")[2]
    assert found["TCPREMOTEIP"] == found["TCP6REMOTEIP"]
    assert "%" not in found["TCPREMOTEIP"]


def test_rules_know_ipv6_and_see_mapped_clients_as_ipv4(both: Server) -> None:
    assert variables(both.ask(host="::1"))["RULE"] == "six"
    assert variables(both.ask(host="127.0.0.1"))["RULE"] == "four"
    assert both.ask(source="127.0.0.2", host="127.0.0.1").strip() == b""


def test_the_log_has_brackets_between_colons_alone(both: Server) -> None:
    both.ask(host="::1")
    log = both.wait_for_log(rb"^tcpserver: ok \d+ 0:\[::1\]:%d :\[::1\]::\d+$" % both.port)
    assert re.search(rb"(?m)^tcpserver: pid \d+ from ::1$", log)
    both.ask(host="127.0.0.1")
    log = both.wait_for_log(rb"^tcpserver: ok \d+ 0:127\.0\.0\.1:%d :127\.0\.0\.1::\d+$" % both.port)
    assert b"ffff" not in log


HOSTS = {  # host -> where it answers
    "::1": ["::1"],
    "[::1]": ["::1"],
    "0:0:0:0:0:0:0:1": ["::1"],
    "::": ["::1", "127.0.0.1"],
    "[::]": ["::1", "127.0.0.1"],
    "0": ["127.0.0.1"],
    "": ["127.0.0.1"],
    "0.0.0.0": ["127.0.0.1"],
    "::ffff:127.0.0.1": ["127.0.0.1"],
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_listens_on_its_own_families(host: str) -> None:
    own = os.urandom(8).hex()  # on another address, the same port may belong to another test
    with Server(["-RHl0", host, "0", "echo", own]) as server:
        for address in ("::1", "127.0.0.1"):
            try:
                answers = server.ask(host=address) == own.encode() + b"\n"
            except ConnectionRefusedError:
                answers = False
            assert answers == (address in HOSTS[host]), address


@needs_root
def test_a_name_with_both_families_is_ipv4_and_one_with_ipv6_alone_is_ipv6(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("::1 both.test six.test\n127.0.0.1 both.test\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    before = with_files({f"/etc/{name}": tmp_path / name for name in ("hosts", "nsswitch.conf")})
    for name, address in (("both.test", "127.0.0.1"), ("six.test", "::1")):
        with Server(["-RHl0", name, "0", "env"], before=before) as server:
            assert variables(server.ask(host=address))["TCPLOCALIP"] == address


@needs_root
@pytest.mark.parametrize("option", ["-h", "-p"])
def test_an_ipv6_client_has_a_name(option: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 four.test\n::1 six.test\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    before = with_files({f"/etc/{name}": tmp_path / name for name in ("hosts", "nsswitch.conf")})
    with Server(["-R", option, "::", "0", "env"], before=before) as server:
        six = variables(server.ask(host="::1"))
        assert (six["TCPREMOTEHOST"], six["TCPLOCALHOST"]) == ("six.test", "six.test")
        four = variables(server.ask(host="127.0.0.1"))
        assert (four["TCPREMOTEHOST"], four["TCPLOCALHOST"]) == ("four.test", "four.test")


def listen_as_ident() -> Iterator[socket.socket]:
    """A listener at port 113 of ::1, once no other run of the tests has it."""
    try:
        yield socket.create_server(("::1", 113), family=socket.AF_INET6)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise


@needs_root
def test_ident_is_asked_over_ipv6() -> None:
    found: list[socket.socket] = []
    until(lambda: found.extend(listen_as_ident()) or found)
    with found[0] as listener:
        listener.settimeout(PATIENCE)
        with Server(["-rHl0", "::1", "0", "env"]) as server, server.connect("::1") as client:
            talk, _ = listener.accept()
            with talk:
                talk.sendall(talk.recv(100).strip() + b" : USERID : UNIX : joe\r\n")
            assert variables(read_all(client))["TCPREMOTEINFO"] == "joe"


def test_a_limit_per_address_counts_ipv6_and_mapped_clients_separately() -> None:
    with Server(["-vRHl0", "-C1", "::", "0", "sh", "-c", "echo in; cat"]) as server, ExitStack() as stack:
        for host in ("::1", "127.0.0.1"):
            assert stack.enter_context(server.connect(host)).recv(10) == b"in\n"
            assert read_all(stack.enter_context(server.connect(host))) == b""
        log = server.wait_for_log(rb" limit-address$", 2)
        assert re.search(rb"(?m)^tcpserver: deny %d 0:\[::1\]:\d+ :\[::1\]::\d+ limit-address$" % server.pid, log)
        assert re.search(rb"(?m)^tcpserver: deny %d 0:127.0.0.1:\d+ :127.0.0.1::\d+ limit-address$" % server.pid, log)


TEXTS = {
    "127.0.0.1": b"127.0.0.1",
    "::ffff:192.0.2.1": b"192.0.2.1",
    "::1": b"::1",
    "2001:db8::1": b"2001:db8::1",
    "2001:db8:0:1:1:1:1:1": b"2001:db8:0:1:1:1:1:1",
    "::192.0.2.1": b"::c000:201",
    "64:ff9b::192.0.2.1": b"64:ff9b::c000:201",
    "fe80::1%lo": b"fe80::1%lo",
}


@pytest.mark.parametrize("address", TEXTS)
def test_an_address_is_written_as_rules_write_it(address: str) -> None:
    assert text(address) == TEXTS[address]
