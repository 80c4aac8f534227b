"""Comparison with Debian's tcprules, tcprulescheck and tcpserver: the same bytes and verdicts, for every address."""

import collections
import ipaddress
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcprules.cli import tcprules
from tests.kit import forked, rulesfuzz
from tests.kit.support import peer, times

FILES = times(120)


@pytest.mark.peer
def test_random_rules_files_and_clients_give_the_originals_results(tmp_path: Path) -> None:
    peer(rulesfuzz.C_TCPRULES)
    counts: collections.Counter[str] = collections.Counter()
    chance = random.Random(88)
    differences = []
    for _ in range(FILES):
        rules = rulesfuzz.rules_file(chance)
        if rulesfuzz.by_design(rules):
            continue
        counts["files"] += 1
        differences.append(rulesfuzz.compare_files(rules, tmp_path))
        if not (tmp_path / "r.cdb").exists():
            continue
        counts["compiled"] += 1
        for _ in range(2):
            differences.append(rulesfuzz.compare_check(rulesfuzz.client(chance, rules), tmp_path))
        content = (tmp_path / "r.cdb").read_bytes()
        (tmp_path / "r.cdb").write_bytes(rulesfuzz.broken(chance, content))
        differences.append(rulesfuzz.compare_check(rulesfuzz.client(chance, rules), tmp_path, is_broken=True))
    assert [difference for difference in differences if difference] == []
    assert counts["files"] > FILES * 0.9
    assert counts["compiled"] > FILES * 0.4


@pytest.mark.peer
@pytest.mark.parametrize("name", sorted(rulesfuzz.BY_DESIGN))
def test_intended_differences_are_differences(name: str, tmp_path: Path) -> None:
    peer(rulesfuzz.C_TCPRULES)
    rules = {"an IPv6 address": b"2001:db8::1:deny\n"}.get(name, b"10.0.0.0/8:deny\n")
    assert rulesfuzz.by_design(rules) == name
    assert rulesfuzz.compare_files(rules, tmp_path)


@pytest.mark.peer
def test_the_original_may_use_our_tmp_and_we_may_use_its(tmp_path: Path) -> None:
    (tmp_path / "r.tmp").write_bytes(b"left behind by a killed tcprules" * 1000)
    assert forked.run(tcprules, ["tcprules", "r.cdb", "r.tmp"], b":deny\n", cwd=tmp_path).exit == 0
    subprocess.run([peer(rulesfuzz.C_TCPRULES), "c.cdb", "r.tmp"], input=b":deny\n", cwd=tmp_path, check=True)
    assert (tmp_path / "c.cdb").read_bytes() == (tmp_path / "r.cdb").read_bytes()


LONGEST_FIRST = [24, 25, 26, 27, 28, 29, 30, 31, 32, 17, 18, 20, 23, 16, 9, 12, 15, 8]
Networks = list[tuple[ipaddress.IPv4Network, bytes]]


def random_networks(chance: random.Random) -> Networks:
    """Return networks of 127.0.0.0/8, each with its own word, that do not overlap within one level of tcprules."""
    chosen: Networks = []
    for number in range(30):
        bits = chance.choice(LONGEST_FIRST)
        network = ipaddress.IPv4Network((0x7F000000 | chance.getrandbits(24), bits), strict=False)
        if not any(network.overlaps(other) and level(bits) == level(other.prefixlen) for other, _ in chosen):
            chosen.append((network, b"n%d" % number))
    return chosen


def level(bits: int) -> int:
    """Return the number of octets of the keys: 0.88 tries the longest ones first."""
    return (bits + 7) // 8


def word_for(client: ipaddress.IPv4Address, networks: Networks) -> bytes:
    inside = [(level(network.prefixlen), word) for network, word in networks if client in network]
    return max(inside, default=(0, b"default"))[1]


def clients_near(networks: Networks, chance: random.Random) -> Iterator[ipaddress.IPv4Address]:
    """Yield the edges of each network, the addresses beside them, and one inside. 127.0.0.0 cannot be a client."""
    for network, _ in networks:
        first, last = int(network[0]), int(network[-1])
        for number in {first - 1, first, last, last + 1, chance.randint(first, last)}:
            if 0x7F000000 < number < 0x7FFFFFFF:
                yield ipaddress.IPv4Address(number)


def compile_networks(networks: Networks, directory: Path) -> None:
    rules = b"".join(b'%b:allow,NET="%b"\n' % (str(network).encode(), word) for network, word in networks)
    rules += b':allow,NET="default"\n'
    assert forked.run(tcprules, ["tcprules", "r.cdb", "r.tmp"], rules, cwd=directory) == (b"", b"", 0)


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(4))
def test_the_originals_tcprulescheck_agrees_on_every_address_of_a_network(seed: int, tmp_path: Path) -> None:
    program = peer(rulesfuzz.C_TCPRULESCHECK)
    chance = random.Random(seed)
    networks = random_networks(chance)
    compile_networks(networks, tmp_path)
    for client in clients_near(networks, chance):
        done = subprocess.run(
            [program, "r.cdb"], cwd=tmp_path, env={"TCPREMOTEIP": str(client)}, capture_output=True, check=True
        )
        assert done.stdout.splitlines()[1] == b"set environment variable NET=" + word_for(client, networks)


@pytest.mark.peer
@pytest.mark.parametrize("bits", [1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32])
def test_the_originals_tcprulescheck_agrees_on_networks_of_every_kind(bits: int, tmp_path: Path) -> None:
    program = peer(rulesfuzz.C_TCPRULESCHECK)
    network = ipaddress.IPv4Network((0x0A4D5B2B, bits), strict=False)
    compile_networks([(network, b"inside")], tmp_path)
    first, last = int(network[0]), int(network[-1])
    for number in (0, first - 1, first, (first + last) // 2, last, last + 1, 0xFFFFFFFF):
        if 0 <= number < 1 << 32:
            client = ipaddress.IPv4Address(number)
            done = subprocess.run(
                [program, "r.cdb"], cwd=tmp_path, env={"TCPREMOTEIP": str(client)}, capture_output=True, check=True
            )
            expected = b"inside" if client in network else b"default"
            assert done.stdout.splitlines()[1] == b"set environment variable NET=" + expected


@pytest.mark.peer
def test_the_originals_tcprulescheck_agrees_on_each_single_address_of_a_22_and_around_it(tmp_path: Path) -> None:
    program = peer(rulesfuzz.C_TCPRULESCHECK)
    network = ipaddress.IPv4Network("10.1.4.0/22")
    compile_networks([(network, b"inside")], tmp_path)
    for number in range(int(network[0]) - 256, int(network[-1]) + 257):
        client = ipaddress.IPv4Address(number)
        done = subprocess.run(
            [program, "r.cdb"], cwd=tmp_path, env={"TCPREMOTEIP": str(client)}, capture_output=True, check=True
        )
        assert (b"NET=inside\n" in done.stdout) == (client in network)


@pytest.mark.peer
def test_the_originals_tcpserver_agrees_on_every_address_of_a_network(tmp_path: Path) -> None:
    chance = random.Random(25)
    networks = random_networks(chance)
    compile_networks(networks, tmp_path)
    command = [peer("/usr/bin/tcpserver"), "-1RHl0", "-xr.cdb", "127.0.0.1", "0", "sh", "-c", 'echo "$NET"']
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            for client in clients_near(networks, chance):
                with socket.create_connection(("127.0.0.1", port), 20, (str(client), 0)) as connection:
                    assert connection.makefile("rb").read() == word_for(client, networks) + b"\n"
        finally:
            server.terminate()
