"""Another host's /proc/net and /sys/class/net, as files: our programs take its gateways and bridges for this host's."""

import ipaddress
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tcprules import hostnet
from tests.kit.support import script

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
# A kernel's own instead: words before a command that is to run in a network namespace. They need root.
SETUP = """
mount -t sysfs sysfs /sys
ip link set lo up
ip link add weird type bridge && ip addr add 10.88.0.1/24 dev weird && ip link set weird up
ip link add lan type bridge && ip addr add 192.168.5.2/24 dev lan && ip link set lan up
ip route add default via 192.168.5.1
exec "$@"
"""
NAMESPACE = ["unshare", "--net", "--mount", "sh", "-ec", SETUP, "sh"]
PATCHED = """#!{python}
from tcprules import hostnet
hostnet.NET, hostnet.DEVICES = {net!r}, {devices!r}
from tcpserver import cli
cli.SERVE = "from tcprules import hostnet; hostnet.NET, hostnet.DEVICES = {net!r}, {devices!r}; " + cli.SERVE
import runpy
runpy.run_path({program!r}, run_name="__main__")
"""


def write(directory: Path, gateways: Mapping[str, str], bridges: Mapping[str, str]) -> None:
    """Write the files: device -> the address of the gateway, device -> the bridge's own address and its length."""
    net, devices = directory / "net", directory / "devices"
    for folder in (net, devices):
        folder.mkdir()
    routes, routes6, trie, addresses6 = [HEADER], [], ["Main:\n", "  +-- 0.0.0.0/0 2 0 2\n"], []
    for device, gateway in gateways.items():
        (devices / device).mkdir()
        if ":" in gateway:
            routes6.append(route6("::/0", gateway, device))
        else:
            routes.append(route(device, "0.0.0.0/0", gateway))
    for device, text in bridges.items():
        (devices / device / "bridge").mkdir(parents=True)
        own = ipaddress.ip_interface(text)
        if own.version == 6:
            routes6.append(route6(str(own.network), "::", device))
            addresses6.append(f"{int(own.ip):032x} 02 {own.network.prefixlen:02x} 00 80 {device:>8}\n")
        else:
            routes.append(route(device, str(own.network), "0.0.0.0"))
            trie.append(f"        |-- {own.network[0]}\n           /{own.network.prefixlen} link UNICAST\n")
            trie.append(f"        |-- {own.ip}\n           /32 host LOCAL\n")
    for name, lines in (("route", routes), ("ipv6_route", routes6), ("fib_trie", trie), ("if_inet6", addresses6)):
        (net / name).write_text("".join(lines))


def route(device: str, network: str, gateway: str) -> str:
    """A line of /proc/net/route."""
    found = ipaddress.IPv4Network(network)
    words = [word(found[0]), word(ipaddress.IPv4Address(gateway)), "0003" if gateway != "0.0.0.0" else "0001"]
    return "\t".join([device, *words, "0", "0", "0", word(found.netmask), "0", "0", "0"]) + "\n"


def word(address: ipaddress.IPv4Address) -> str:
    return f"{int.from_bytes(address.packed, sys.byteorder):08X}"


def route6(network: str, gateway: str, device: str) -> str:
    """A line of /proc/net/ipv6_route."""
    found, via = ipaddress.IPv6Network(network), ipaddress.IPv6Address(gateway)
    flags = 3 if int(via) else 1
    ends = f"{int(found[0]):032x} {found.prefixlen:02x} {0:032x} 00 {int(via):032x}"
    return f"{ends} 00000400 00000001 00000000 {flags:08x} {device:>8}\n"


def use(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and those that it forks, read these files."""
    monkeypatch.setattr(hostnet, "NET", str(directory / "net"))
    monkeypatch.setattr(hostnet, "DEVICES", str(directory / "devices"))


def patched(directory: Path, program: str) -> str:
    """Write one of our programs that reads these files, as does the server that tcpserver becomes. Return its path."""
    path = directory / program
    net, devices = str(directory / "net"), str(directory / "devices")
    path.write_text(PATCHED.format(python=sys.executable, net=net, devices=devices, program=script(program)))
    path.chmod(0o755)
    return str(path)
