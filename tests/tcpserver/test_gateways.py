"""Clients of this host's gateway or bridge: a warning at the start if they may relay, a mark in log and variables."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import cdbfile, hostfiles
from tests.kit.mailhome import make_home
from tests.kit.proxyheader import v1
from tests.kit.server import PATIENCE, Server, compiled, needs_root
from tests.kit.support import peer, script

GATEWAY, BRIDGE, OTHER = "127.9.9.9", "127.8.0.1", "127.7.7.7"
RULES = '127.8-9.:allow,RELAYCLIENT=""\n:allow\n'
MAY_RELAY = b" may relay: behind NAT or a published port every client has such an address\n"
WARNING = b"tcpserver: warning: 127.9.9.9 (default gateway), 127.8.0.1 (bridge docker0)" + MAY_RELAY
CAT = ["127.0.0.1", "0", "cat"]

# A container's network: docker0 is the host's bridge, eth0 the container's end. Its gateway is the bridge's address.
HOST = """
ip link set lo up
ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up
echo ready && exec sleep infinity
"""
CONTAINER = """
ip link set lo up
ip link add eth0 type veth peer name veth0 netns {host}
ip addr add 172.17.0.2/16 dev eth0 && ip link set eth0 up
nsenter --net=/proc/{host}/ns/net sh -ec 'ip link set veth0 master docker0 up'
ip route add default via 172.17.0.1
exec "$@"
"""
CLIENT = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(99).decode())"
PRINT_VIA = ["127.0.0.1", "0", "sh", "-c", 'echo "${TCPREMOTEVIA-none}"']


@pytest.fixture
def tcpserver(tmp_path: Path) -> str:
    hostfiles.write(tmp_path, {"eth0": GATEWAY}, {"docker0": f"{BRIDGE}/16"})
    return hostfiles.patched(tmp_path, "tcpserver")


def warnings(server: Server) -> list[bytes]:
    """The warnings so far. The server looks for gateways before it accepts a client."""
    server.ask(source=OTHER)
    return re.findall(rb"^tcpserver: warning: .*\n", server.log(), re.MULTILINE)


@pytest.mark.parametrize("level", ["-v", "-Q"])
def test_gateways_that_may_relay_are_named_once_at_the_start(level: str, tcpserver: str, tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", RULES)
    with Server([level, "-RHl0", "-x", str(cdb), *CAT], tcpserver) as server:
        assert warnings(server) == [WARNING]
        for _ in range(3):
            assert server.ask(b"x", GATEWAY) == b"x"
        assert warnings(server) == [WARNING]


def test_the_warning_as_json(tcpserver: str, tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", RULES)
    with Server(["-RHl0", "--log-format", "json", "-x", str(cdb), *CAT], tcpserver) as server:
        server.ask()
        (event,) = [json.loads(line) for line in server.log().splitlines()]
        assert event["event"] == "warning"
        assert b"tcpserver: warning: " + event["text"].encode() + b"\n" == WARNING


@pytest.mark.parametrize(
    ("rules", "words", "named"),
    [
        (RULES, ["-q"], []),
        (":allow\n", [], []),
        ('127.:allow,RELAYCLIENT=""\n127.9.9.9:allow\n127.8.0.1:deny\n', [], []),
        ('127.:allow,RELAYCLIENT=""\n127.9.9.9:allow\n', [], [b"127.8.0.1 (bridge docker0)"]),
        (':allow,RELAYCLIENT=""\n127.8.:allow\n', [], [b"127.9.9.9 (default gateway)"]),
        (RULES, ["--proxy-from", "127.8.0.0/15"], []),
        (RULES, ["--proxy-from", "127.9.9.9"], [b"127.8.0.1 (bridge docker0)"]),
    ],
)
def test_only_addresses_that_may_relay_and_are_no_known_proxies_are_named(
    rules: str, words: list[str], named: list[bytes], tcpserver: str, tmp_path: Path
) -> None:
    cdb = compiled(tmp_path / "cdb", rules)
    with Server(["-RHl0", *words, "-x", str(cdb), *CAT], tcpserver) as server:
        assert warnings(server) == [b"tcpserver: warning: " + names + MAY_RELAY for names in named]


@pytest.mark.parametrize("words", [[], ["-X"]])
def test_rules_that_cannot_be_read_let_nobody_relay(words: list[str], tcpserver: str, tmp_path: Path) -> None:
    with Server(["-RHl0", *words, "-x", str(tmp_path / "none"), *CAT], tcpserver) as server:
        server.ask()
        assert MAY_RELAY not in server.log()


def test_rules_that_break_at_a_search_are_closed_all_the_same(tcpserver: str, tmp_path: Path) -> None:
    """The file opens as a cdb, but the record of the gateway lies beyond its end."""
    key = GATEWAY.encode()
    (tmp_path / "cdb").write_bytes(cdbfile.with_table(key, [(cdbfile.djb_hash(key), 1 << 20)] * 2))
    with Server(["-RHl0", "-x", str(tmp_path / "cdb"), *CAT], tcpserver) as server:
        server.ask(source=GATEWAY)  # the server looks for gateways before it accepts a client
        server.wait_for_log(b"protocol error")
        opened = [os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()]
    assert str(tmp_path / "cdb") not in opened


def test_a_host_without_proc_has_no_gateways(tcpserver: str, tmp_path: Path) -> None:
    (tmp_path / "net/route").unlink()
    cdb = compiled(tmp_path / "cdb", RULES)
    with Server(["-RHl0", "-x", str(cdb), "127.0.0.1", "0", "env"], tcpserver) as server:
        assert b"TCPREMOTEVIA" not in server.ask(source=GATEWAY)
        assert server.log() == b""


@pytest.mark.parametrize("words", [[], ["-B!"], ["--exec"]], ids=["parent", "child", "exec"])
def test_programs_know_what_a_client_came_through(words: list[str], tcpserver: str, tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", RULES)
    command = ["-RHl0", *words, "-x", str(cdb), *PRINT_VIA]
    with Server(command, tcpserver, {"TCPREMOTEVIA": "stale"}) as server:
        answers = [server.ask(source=source).removeprefix(b"!") for source in (GATEWAY, OTHER, BRIDGE, "127.0.0.1")]
        assert answers == [b"gateway\n", b"none\n", b"bridge\n", b"none\n"]


def test_a_client_that_a_proxy_names_is_judged_by_that_name(tcpserver: str, tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", RULES)
    command = [
        "-RHl0",
        "--proxy-from",
        GATEWAY,
        "-x",
        str(cdb),
        "127.0.0.1",
        "0",
        "sh",
        "-c",
        'echo "${TCPREMOTEVIA-none}"',
    ]
    with Server(command, tcpserver) as server:
        assert server.ask(v1(OTHER, "127.0.0.1"), GATEWAY) == b"none\n"
        assert server.ask(v1(BRIDGE, "127.0.0.1"), GATEWAY) == b"bridge\n"


@pytest.mark.parametrize("words", [[], ["-B220-\r\n"], ["--reuse", "1"], ["--exec"]])
def test_the_log_of_qmail_smtpd_marks_sessions_that_relay_from_there(
    words: list[str], tcpserver: str, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    cdb = compiled(tmp_path / "cdb", RULES + f"{BRIDGE}:allow\n")
    environ = {"QMAILHOME": str(home), "SMTPD_LOG": "all"}
    command = ["-RHl0", *words, "-x", str(cdb), "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(command, tcpserver, environ) as server:
        for source in (GATEWAY, OTHER, BRIDGE, GATEWAY):
            assert b"221 " in server.ask(b"QUIT\r\n", source)
        log = server.wait_for_log(rb"event=end", times=4)
        ends = re.findall(rb"event=end pid=\d+ ip=([0-9.]+) .* errors=0(.*)\n", log)
        assert ends == [
            (GATEWAY.encode(), b" via=gateway"),
            (OTHER.encode(), b""),
            (BRIDGE.encode(), b""),
            (GATEWAY.encode(), b" via=gateway"),
        ]


@pytest.fixture
def host() -> Iterator[int]:
    """A host with a bridge, in a network namespace: the pid of its first process."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-ec", HOST], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.peer
@needs_root
def test_a_container_s_gateway_is_the_host_s_bridge(host: int, tmp_path: Path) -> None:
    peer("/sbin/ip")
    cdb = compiled(tmp_path / "cdb", '172.17.:allow,RELAYCLIENT=""\n:allow\n')
    inside = ["unshare", "--net", "sh", "-ec", CONTAINER.format(host=host), "sh"]
    command = ["-vRHl0", "-x", str(cdb), "0", "0", "sh", "-c", 'echo "$TCPREMOTEIP $TCPREMOTEVIA"']
    with Server(command, before=inside) as server:
        client = [sys.executable, "-c", CLIENT, "172.17.0.2", str(server.port)]
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{host}/ns/net", *client], capture_output=True, timeout=PATIENCE, check=True
        )
        assert done.stdout.strip() == b"172.17.0.1 gateway"
        assert server.log().count(b"tcpserver: warning: 172.17.0.1 (default gateway)" + MAY_RELAY) == 1
