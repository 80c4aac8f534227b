"""This host's gateways and bridges, from files as the kernel prints them, and from a kernel's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcprules import hostnet
from tests.kit import hostfiles
from tests.kit.server import needs_root
from tests.kit.support import peer

GATEWAYS = {"eth0": "192.168.5.1", "eth1": "fe80::1"}
BRIDGES = {"docker0": "172.17.0.1/16", "br-1a2b": "10.88.0.1/24", "lan6": "fd00:1::1/64"}
PRINT = "from tcprules import hostnet; print([hostnet.text(place).decode() for place in hostnet.read()[0]])"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hostfiles.write(tmp_path, GATEWAYS, BRIDGES)
    hostfiles.use(tmp_path, monkeypatch)
    return tmp_path


def places() -> list[str]:
    found = hostnet.read()
    assert found
    return [hostnet.text(place).decode() for place in found[0]]


def test_gateways_come_first_then_the_bridges_own_addresses(host: Path) -> None:
    assert places() == [
        "192.168.5.1 (default gateway)",
        "fe80::1 (default gateway)",
        "172.17.0.1 (bridge docker0)",
        "10.88.0.1 (bridge br-1a2b)",
        "fd00:1::1 (bridge lan6)",
    ]


def test_the_networks_behind_bridges_are_found(host: Path) -> None:
    found = hostnet.read()
    assert found
    assert [(route[4], route[1]) for route in found[1]] == [("docker0", 16), ("br-1a2b", 24), ("lan6", 64)]


def test_a_bridge_is_known_by_its_name_where_sys_does_not_show_it(host: Path) -> None:
    shutil.rmtree(host / "devices")
    assert places()[2:] == ["172.17.0.1 (bridge docker0)", "10.88.0.1 (bridge br-1a2b)"]


def test_a_bridge_to_the_gateway_is_the_local_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostfiles.write(tmp_path, {"eth0": "192.168.5.1"}, {"br0": "192.168.5.2/24"})
    routes = tmp_path / "net/route"
    routes.write_text(routes.read_text().replace("eth0", "br0"))
    hostfiles.use(tmp_path, monkeypatch)
    assert places() == ["192.168.5.1 (default gateway)"]


def test_an_address_that_several_routes_name_is_found_once(host: Path) -> None:
    routes = host / "net/route"
    routes.write_text(routes.read_text() + hostfiles.route("eth9", "0.0.0.0/0", "192.168.5.1"))
    assert places().count("192.168.5.1 (default gateway)") == 1


def test_without_the_kernels_routes_nothing_is_found(host: Path) -> None:
    (host / "net/route").unlink()
    assert hostnet.read() is None


@pytest.mark.parametrize("name", ["ipv6_route", "fib_trie", "if_inet6"])
def test_a_missing_file_hides_only_what_it_has(name: str, host: Path) -> None:
    before = places()
    (host / "net" / name).unlink()
    assert set(places()) < set(before)
    assert "192.168.5.1 (default gateway)" in places()


@pytest.mark.parametrize("text", ["", "x", "a b c\n", "eth0 zz zz 0003 0 0 0 00000000\n", "\n\n", "|--\n", "\xff\0\n"])
def test_lines_of_another_form_are_skipped(text: str, host: Path) -> None:
    before = places()
    for path in (host / "net").iterdir():
        path.write_text(path.read_text() + text)
    assert places() == before


def test_an_endless_file_is_read_in_part(host: Path) -> None:
    (host / "net/ipv6_route").unlink()
    (host / "net/ipv6_route").symlink_to("/dev/zero")
    assert "192.168.5.1 (default gateway)" in places()


@pytest.mark.peer
@needs_root
def test_the_files_of_a_real_kernel_are_read(tmp_path: Path) -> None:
    peer("/sbin/ip")
    command = [*hostfiles.NAMESPACE, sys.executable, "-c", PRINT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "['192.168.5.1 (default gateway)', '10.88.0.1 (bridge weird)']\n"
