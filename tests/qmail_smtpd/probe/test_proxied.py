"""Behind a proxy every client has the proxy's address: relaytest finds rules that let this address relay.

With the PROXY header the clients have their own addresses, and the same rules are closed.
"""

import subprocess
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.relaytest import FAST, Outcome, relaytest
from tests.kit.server import compiled, needs_root
from tests.kit.support import ROOT, peer, script

EXAMPLE = ROOT / "examples/tcp.smtp"
CONTROL: dict[str, object] = {"me": "mail.example.com\n", "rcpthosts": "example.com\n", "authcleartext": ""}
PLAIN = ("--only", "null/plain")  # enough to see whether a client may relay
NOTE = "relaytest: note: 127.0.0.1 may relay, and control/authcleartext exists."


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", CONTROL)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The compiled rules of the example. Their text is beside the cdb."""
    (tmp_path / "tcp.smtp").write_text(EXAMPLE.read_text())
    return compiled(tmp_path / "tcp.smtp.cdb", EXAMPLE.read_text())


def test_a_local_client_that_may_relay_is_noted_where_a_proxy_is_likely(home: Path, rules: Path) -> None:
    done = relaytest("--rules", rules, "--home", home, *PLAIN)
    assert done.exit == 0
    (note,) = [line for line in done.stdout.splitlines() if line.startswith(NOTE)]
    assert note.endswith(" --as-outside --client 127.0.0.1")


def test_without_authcleartext_nothing_is_noted(home: Path, rules: Path) -> None:
    (home / "control/authcleartext").unlink()
    assert NOTE not in relaytest("--rules", rules, "--home", home, *PLAIN).stdout


def test_rules_that_do_not_let_the_proxy_relay_are_not_noted(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "proxied.cdb", ":allow\n")
    done = relaytest("--rules", rules, "--home", home, *PLAIN)
    assert done.exit == 0
    assert NOTE not in done.stdout
    assert relaytest("--rules", rules, "--home", home, "--client", "127.0.0.1", "--as-outside", *PLAIN).exit == 0


def test_the_proxy_as_an_outside_client_is_an_open_relay(home: Path, rules: Path) -> None:
    done = relaytest("--rules", rules, "--home", home, "--client", "127.0.0.1", "--as-outside", *PLAIN)
    assert done.exit == 1
    line = EXAMPLE.read_text().splitlines().index('127.0.0.1:allow,RELAYCLIENT=""') + 1
    assert f'relaytest: change: {rules.with_suffix("")}, line {line}: 127.0.0.1:allow,RELAYCLIENT="": ' in done.stdout


def test_as_outside_with_rules_needs_a_client(home: Path, rules: Path) -> None:
    done = relaytest("--rules", rules, "--home", home, "--as-outside")
    assert done.exit == 100
    assert "--rules with --as-outside needs --client" in done.stderr


# over the network, through a real proxy, in a network namespace with addresses that are neither private nor loopback

SERVER, CLIENT = "203.0.113.9", "198.51.100.7"
HAPROXY = """\
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
listen smtp
    bind {server}:25
    server qmail 127.0.0.1:2525 {header}
"""
SCRIPT = """\
ip link set lo up && ip addr add {server}/32 dev lo && ip addr add {client}/32 dev lo || exit 99
{tcpserver} -q -RHl0 {options} 127.0.0.1 2525 {program} &
server=$!
{haproxy} -f {configuration} &
proxy=$!
listens() {{ ss -Hlnt "src $1" | grep -q .; }}
for attempt in $(seq 400); do listens {server}:25 && listens 127.0.0.1:2525 && break; sleep 0.05; done
{relaytest}
status=$?
kill $server $proxy
exit $status
"""


def through_haproxy(home: Path, options: str, header: str = "") -> Outcome:
    """Run relaytest from an outside address. `header` is haproxy's option to send a PROXY header."""
    configuration = home / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(server=SERVER, header=header))
    words = [
        script("relaytest"),
        "--from-ip",
        CLIENT,
        f"{SERVER}:25",
        "--listed",
        "example.com",
        "--only",
        "null/plain",
        *FAST,
    ]
    text = SCRIPT.format(
        server=SERVER,
        client=CLIENT,
        tcpserver=script("tcpserver"),
        options=options,
        program=script("qmail-smtpd"),
        haproxy=peer("/usr/sbin/haproxy"),
        configuration=configuration,
        relaytest=" ".join(words),
    )
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QMAILHOME": str(home)}
    done = subprocess.run(["unshare", "-n", "sh", "-c", text], env=environ, capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


@needs_root
@pytest.mark.peer
def test_behind_haproxy_the_example_rules_let_everybody_relay(home: Path, rules: Path) -> None:
    done = through_haproxy(home, f"-x {rules}")
    assert done.verdict.startswith("open: "), done
    assert done.exit == 1


@needs_root
@pytest.mark.peer
def test_a_second_server_without_rules_is_closed_behind_haproxy(home: Path) -> None:
    done = through_haproxy(home, "")
    assert done.verdict.startswith("closed: "), done
    assert done.exit == 0


@needs_root
@pytest.mark.peer
@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c"], ids=["v1", "v2"])
def test_with_the_proxy_header_the_example_rules_are_closed_behind_haproxy(
    home: Path, rules: Path, header: str
) -> None:
    done = through_haproxy(home, f"-x {rules} --proxy-from 127.0.0.1", header)
    assert done.verdict.startswith("closed: "), done
    assert done.exit == 0


@needs_root
@pytest.mark.peer
def test_a_client_whose_own_address_may_relay_does_so_behind_haproxy(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "own.cdb", f'{CLIENT}:allow,RELAYCLIENT=""\n127.0.0.1:deny\n:allow\n')
    done = through_haproxy(home, f"-x {rules} --proxy-from 127.0.0.1", "send-proxy-v2")
    assert done.verdict.startswith("open: "), done  # relaytest takes an outside address that may relay for a fault
