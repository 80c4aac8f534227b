"""tcprulescheck --audit: who may relay, how many they are, and which of them are this host's gateways and bridges."""

import random
import subprocess
from pathlib import Path

import pytest

from tcprules import check
from tcprules.audit import Audit
from tcprules.cli import tcprulescheck
from tcprules.compile import BadLine, records, write_cdb
from tcprules.lookup import Rules, judge
from tcprules.ranges import span, text
from tests.kit import forked, hostfiles
from tests.kit.server import compiled, needs_root
from tests.kit.support import peer, script, times

RULES = """127.:allow,RELAYCLIENT=""
172.16-17.:allow,RELAYCLIENT=""
172.17.0.1:allow
62.40.1.7-9:allow,RELAYCLIENT=""
198.51.100.:deny
=.example.org:allow,RELAYCLIENT=""
joe@=host.example:allow,RELAYCLIENT=""
fd00:1::/32:allow,RELAYCLIENT=""
:allow
"""
GATEWAYS = {"eth0": "172.16.5.1"}
BRIDGES = {"docker0": "172.17.0.1/16", "br-6": "fd00:1::1/64"}
RELAY = ':allow,RELAYCLIENT=""\n'
MANY = "".join(f"8.8.{octet}.{RELAY}" for octet in range(256))
OPEN = " may relay: an open relay"
BEHIND_NAT = "behind NAT or a published port every client has such an address"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hostfiles.write(tmp_path, GATEWAYS, BRIDGES)
    hostfiles.use(tmp_path, monkeypatch)
    return tmp_path


def audit(host: Path, rules: str, *words: str) -> tuple[list[str], int]:
    """Return the lines of the audit and the exit code."""
    compiled(host / "r.cdb", rules)
    done = forked.run(tcprulescheck, ["tcprulescheck", "--audit", *(words or ["r.cdb"])], cwd=host)
    assert done.stderr == b""
    return done.stdout.decode().splitlines(), done.exit


def warnings(lines: list[str]) -> list[str]:
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def test_the_table_shows_ranges_classes_rules_and_this_host_s_addresses(host: Path) -> None:
    lines, status = audit(host, RULES)
    assert lines[0].split() == ["networks", "addresses", "class", "rules", "of", "this", "host"]
    rows = [line.split() for line in lines[1:-1]]
    docker = ["172.17.0.0/16", "behind", "docker0"]
    assert rows == [
        ["62.40.1.7-62.40.1.9", "3", "public", "62.40.1.7", "and", "2", "more"],
        ["127.0.0.0/8", "16777216", "loopback", "127."],
        ["172.16.0.0-172.17.0.0", "65537", "private", "172.16.", "and", "1", "more"]
        + ["172.16.5.1", "(default", "gateway),", *docker],
        ["172.17.0.2-172.17.255.255", "65534", "private", "172.17.", *docker],
        ["fd00:1::/32", "2^96", "private", "fd00:0001:/"]
        + ["fd00:1::1", "(bridge", "br-6),", "fd00:1::/64", "behind", "br-6"],
        ["by", "name", "or", "ident:", "=.example.org"],
        ["by", "name", "or", "ident:", "joe@=host.example"],
        ["warning:", "172.16.5.1", "(default", "gateway)", "may", "relay:", *BEHIND_NAT.split()],
    ]
    assert lines[-1] == f"warning: fd00:1::1 (bridge br-6) may relay: {BEHIND_NAT}"
    assert status == 1


def test_columns_are_aligned(host: Path) -> None:
    lines, _ = audit(host, f"127.{RELAY}8.8.8.8{RELAY}:allow\n")
    assert lines == [
        "networks     addresses  class     rules    of this host",
        "8.8.8.8              1  public    8.8.8.8",
        "127.0.0.0/8   16777216  loopback  127.",
    ]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (f"127.{RELAY}10.{RELAY}8.8.8.8{RELAY}:allow\n", []),
        (f"130.149.{RELAY}2a00:1450::/32{RELAY}:allow\n", []),
        (f"172.16.{RELAY}172.16.5.1:allow\n:allow\n", []),
        (f"172.16.{RELAY}172.16.5.:deny\n:allow\n", []),
        (f"172.16.{RELAY}:allow\n", [f"172.16.5.1 (default gateway) may relay: {BEHIND_NAT}"]),
        (RELAY + "172.16-17.:allow\nfd00:1::/32:allow\n", ["every client that has no other rule" + OPEN]),
        (f"={RELAY}:allow\n", ["every client that has a name and no other rule" + OPEN]),
        (MANY + f"8.9.9.9{RELAY}", ["65537 public IPv4 addresses may relay"]),
        (f"100.64.0.0/10{RELAY}", ["4194304 public IPv4 addresses may relay"]),
        (f"64:ff9b::/96{RELAY}:allow\n", ["2^32 public IPv4 addresses may relay"]),
        (f"::/8{RELAY}:allow\n", ["2^32 public IPv4 addresses may relay"]),
        (f"64:ff9b::5.6.0.0/112{RELAY}:allow\n", []),
        (f"2a00:1450::/31{RELAY}", ["2^97 public IPv6 addresses may relay"]),
        (f"2a00:1450::/32{RELAY}2a00:1::/36{RELAY}", ["over 2^96 public IPv6 addresses may relay"]),
    ],
)
def test_warnings_and_the_exit_code(rules: str, expected: list[str], host: Path) -> None:
    lines, status = audit(host, rules)
    assert warnings(lines) == expected
    assert status == (1 if expected else 0)


def test_where_nobody_may_relay_it_says_so(host: Path) -> None:
    assert audit(host, '10.:deny\n:allow,A="RELAYCLIENT="\n') == (["nobody may relay by address"], 0)


def test_a_host_whose_networks_cannot_be_read_gets_a_note(host: Path) -> None:
    (host / "net/route").unlink()
    note = f"note: the networks of this host are not known: there is no {host}/net/route"
    lines, status = audit(host, f"172.16.{RELAY}:allow\n")
    assert (lines[2:], status) == ([note], 0)


def test_without_a_file_it_reads_the_usual_one(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "DEFAULT_CDB", bytes(host / "r.cdb"))
    compiled(host / "r.cdb", ":allow\n")
    assert forked.run(tcprulescheck, ["tcprulescheck", "--audit"]).stdout == b"nobody may relay by address\n"


def test_of_two_records_with_one_key_the_first_counts(host: Path) -> None:
    relays = b"+RELAYCLIENT=\0"
    pairs = [(b"10.", relays), (b"10.", b"D\0"), (b"9.", b"D\0"), (b"9.", relays)]
    write_cdb(bytes(host / "r.cdb"), bytes(host / "r.tmp"), pairs)
    done = forked.run(tcprulescheck, ["tcprulescheck", "--audit", "r.cdb"], cwd=host)
    assert done.stdout.splitlines()[1:] == [b"10.0.0.0/8   16777216  private  10."]


@pytest.mark.peer
@needs_root
def test_a_host_with_a_gateway_and_a_bridge_of_its_own(tmp_path: Path) -> None:
    peer("/sbin/ip")
    cdb = compiled(tmp_path / "r.cdb", f"192.168.5.{RELAY}10.88.0.{RELAY}:allow\n")
    command = [*hostfiles.NAMESPACE, script("tcprulescheck"), "--audit", str(cdb)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert warnings(done.stdout.splitlines()) == [
        f"192.168.5.1 (default gateway) may relay: {BEHIND_NAT}",
        f"10.88.0.1 (bridge weird) may relay: {BEHIND_NAT}",
    ]
    assert "10.88.0.1 (bridge weird), 10.88.0.0/24 behind weird\n" in done.stdout
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("seed", range(times(30)))
def test_the_rows_are_exactly_the_addresses_that_may_relay(seed: int, tmp_path: Path) -> None:
    """Beside the lookup itself, at the edges of all rules and rows."""
    chosen = random.Random(seed)
    lines = []
    for _ in range(chosen.randint(1, 25)):
        octets = [str(chosen.choice((0, 1, 9, 10, 172, 255))) for _ in range(chosen.randint(1, 4))]
        place = ".".join(octets) + ("." if len(octets) < 4 else "")
        if chosen.random() < 0.3:
            place = f"2a0{chosen.randint(0, 1)}:{chosen.randint(0, 3)}00::/{chosen.choice((20, 23, 24, 28))}"
        what = chosen.choice((RELAY, ":deny\n", ":allow\n", ':deny,RELAYCLIENT=""\n'))
        lines.append(f"{place}{what}".encode())
    lines = [line for line in lines if is_valid(line)]
    pairs = list(records(lines))
    write_cdb(bytes(tmp_path / "cdb"), bytes(tmp_path / "tmp"), pairs)
    rules = Rules.from_bytes((tmp_path / "cdb").read_bytes())
    found = Audit(rules.records()).rows
    ranges = [*filter(None, (span(key) for key, _ in pairs)), *((row.first, row.last, row.bits) for row in found)]
    edges = {(end + step, bits) for first, last, bits in ranges for end in (first, last) for step in (-1, 0, 1)}
    for at, bits in [(at, bits) for at, bits in edges if 0 <= at < 1 << bits]:
        verdict = judge(rules, text(at, bits), None, None)
        relays = not verdict.deny and (b"RELAYCLIENT", b"") in verdict.environment
        assert relays == any(row.bits == bits and row.first <= at <= row.last for row in found), text(at, bits)


def is_valid(line: bytes) -> bool:
    try:
        return bool(list(records([line])))
    except BadLine:
        return False
