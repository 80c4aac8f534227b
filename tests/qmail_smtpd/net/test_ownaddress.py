"""This host's addresses, as the kernel of the test host lists them."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qmail_smtpd.net.ownaddress import own_addresses

IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
PRINT_ADDRESSES = """
from qmail_smtpd.net.ownaddress import own_addresses
print(sorted(".".join(map(str, octets)) for octets in own_addresses() if len(octets) == 4))
"""


def test_loopback_and_the_unspecified_address_are_addresses_of_this_host() -> None:
    assert {socket.inet_aton("127.0.0.1"), bytes(4)} <= own_addresses()


def test_other_loopback_addresses_and_foreign_addresses_are_not_addresses_of_this_host() -> None:
    assert not {socket.inet_aton(text) for text in ("127.0.0.2", "192.0.2.99", "255.255.255.255")} & own_addresses()


def test_all_of_them_can_be_bound() -> None:
    for octets in filter(lambda octets: len(octets) == 4, own_addresses()):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((socket.inet_ntoa(octets), 0))


def test_the_ipv6_addresses_of_the_interfaces_are_addresses_of_this_host() -> None:
    listed = {bytes.fromhex(line.split()[0]) for line in Path("/proc/net/if_inet6").read_text().splitlines()}
    assert {octets for octets in own_addresses() if len(octets) == 16} == listed | {bytes(16)}


def addresses_in_a_namespace(commands: str) -> str:
    """Return the addresses in a network namespace after these shell commands."""
    if not shutil.which("unshare") or subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    command = [*IN_A_NAMESPACE, "sh", "-c", f'{commands} && exec {sys.executable} -c "$0"', PRINT_ADDRESSES]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_interface_that_is_down_has_no_address() -> None:
    assert addresses_in_a_namespace("true") == "['0.0.0.0']"


def test_more_addresses_than_the_first_buffer_can_hold() -> None:
    if not shutil.which("ip"):
        pytest.skip("no ip program to add addresses")
    setup = "ip link set lo up && i=1; while [ $i -lt 200 ]; do ip addr add 10.9.8.$i/32 dev lo; i=$((i+1)); done; true"
    addresses = addresses_in_a_namespace(setup)
    assert addresses.count("'10.9.8.") == 199
    assert "'127.0.0.1'" in addresses
