"""relaytest on a host with a gateway and a bridge: whether their addresses, which every client may have, may relay."""

import subprocess
from pathlib import Path

import pytest

from tests.kit import hostfiles
from tests.kit.mailhome import make_home
from tests.kit.relaytest import FAST, Outcome, relaytest
from tests.kit.server import Server, compiled, needs_root
from tests.kit.support import peer, script

CONTROL: dict[str, object] = {"me": "mail.example.com\n", "rcpthosts": "example.com\n"}
PLAIN = ("--only", "null/plain")  # enough to see whether a client may relay
RULES = '172.16-17.:allow,RELAYCLIENT=""\n127.8.:allow,RELAYCLIENT=""\n:allow\n'
MAY_RELAY = "may relay: behind NAT or a published port every client has such an address. To test what they may do: "


@pytest.fixture
def program(tmp_path: Path) -> str:
    hostfiles.write(tmp_path, {"eth0": "172.17.0.1"}, {"docker0": "172.16.0.1/16", "br-7": "127.8.0.1/16"})
    return hostfiles.patched(tmp_path, "relaytest")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", CONTROL)


def with_rules(program: str, home: Path, rules: str, *words: str) -> Outcome:
    cdb = compiled(home / "r.cdb", rules)
    return relaytest("--rules", cdb, "--home", home, *PLAIN, *words, program=program)


def test_gateways_and_bridges_that_the_rules_let_relay_are_tried_and_named(program: str, home: Path) -> None:
    done = with_rules(program, home, RULES)
    found = [line for line in done.lines if line.startswith("relaytest: note: ") and "may relay" in line]
    assert found == [
        f"relaytest: note: {name} {MAY_RELAY}--as-outside --client {ip}"
        for name, ip in (
            ("172.17.0.1 (default gateway)", "172.17.0.1"),
            ("172.16.0.1 (bridge docker0)", "172.16.0.1"),
            ("127.8.0.1 (bridge br-7)", "127.8.0.1"),
        )
    ]
    assert "relaytest: client 172.17.0.1: inside: it may relay (rule 172.17.:, RELAYCLIENT=)" in done.lines
    assert done.exit == 0


def test_the_suggested_test_finds_the_open_relay(program: str, home: Path) -> None:
    done = with_rules(program, home, RULES, "--as-outside", "--client", "172.17.0.1")
    assert done.exit == 1
    assert MAY_RELAY not in done.stdout


def test_gateways_that_may_not_relay_are_no_further_clients(program: str, home: Path) -> None:
    done = with_rules(program, home, RULES + "172.17.0.1:allow\n172.16.0.1:deny\n127.8.0.1:allow\n")
    assert MAY_RELAY not in done.stdout
    assert "default gateway" not in done.stdout
    assert done.exit == 0


def serving(home: Path, rules: str) -> Server:
    cdb = compiled(home / "r.cdb", rules)
    words = ["-qRHl0", "-x", str(cdb), "127.0.0.1", "0", script("qmail-smtpd")]
    return Server(words, environ={"QMAILHOME": str(home)})


def over_network(program: str, port: int, *words: object) -> list[str]:
    done = relaytest(f"127.0.0.1:{port}", *FAST, *PLAIN, *words, program=program)
    return [line for line in done.lines if "(bridge" in line]


def test_a_server_on_this_host_is_asked_from_each_bridge(program: str, home: Path) -> None:
    with serving(home, RULES) as server:
        found = over_network(program, server.port)
        assert f"relaytest: note: 127.8.0.1 (bridge br-7) {MAY_RELAY}--as-outside --from-ip 127.8.0.1" in found
        (other,) = [line for line in found if "docker0" in line]
        assert other.startswith("relaytest: note: not asked from 172.16.0.1 (bridge docker0): ")


def test_a_refused_bridge_is_reported_as_refused(program: str, home: Path) -> None:
    with serving(home, ":allow\n") as server:
        found = over_network(program, server.port)
        assert "relaytest: note: asked from 127.8.0.1 (bridge br-7) as well: refused" in found


def test_a_denied_bridge_is_not_reported_as_refused(program: str, home: Path) -> None:
    with serving(home, "127.8.:deny\n:allow\n") as server:
        found = [line for line in over_network(program, server.port) if "127.8.0.1" in line]
        assert len(found) == 1
        assert "refused" not in found[0]
        assert "may relay" not in found[0]


def test_a_chosen_address_is_the_only_one(program: str, home: Path) -> None:
    with serving(home, RULES) as server:
        assert over_network(program, server.port, "--from-ip", "127.0.0.2") == []
        assert over_network(program, server.port, "--from-ip", "127.8.0.1") == [
            f"relaytest: note: 127.8.0.1 (bridge br-7) {MAY_RELAY}--as-outside"
        ]
        assert over_network(program, server.port, "--as-outside") == []


@pytest.mark.peer
@needs_root
def test_a_bridge_of_a_host_of_its_own(home: Path) -> None:
    peer("/sbin/ip")
    cdb = compiled(home / "r.cdb", '10.88.0.:allow,RELAYCLIENT=""\n:allow\n')
    words = ["-qRHl0", "-x", str(cdb), "192.168.5.2", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}, before=hostfiles.NAMESPACE) as server:
        command = ["nsenter", "-t", str(server.pid), "--net", "--mount", script("relaytest"), *FAST, *PLAIN]
        done = subprocess.run([*command, f"192.168.5.2:{server.port}"], capture_output=True, text=True)
        note = f"relaytest: note: 10.88.0.1 (bridge weird) {MAY_RELAY}--as-outside --from-ip 10.88.0.1"
        assert note in done.stdout.splitlines(), (done.stdout, done.stderr)
