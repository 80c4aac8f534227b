"""The addresses behind which clients hide: this host's default gateways and bridges, from /proc and /sys.

Behind a proxy, a published port or NAT that replaces the client's address, every client has the address of the gateway
or bridge. Opens no socket. Without Linux's /proc, nothing is found. tcpserver calls read() at its start. It costs
0.7 ms: to keep it cheap, values are tuples.
"""

import os
import sys

from tcprules.network import compress, dotted_quad, ipv4

NET, DEVICES = "/proc/net", "/sys/class/net"
READ_MAX = 1 << 18  # bytes of a file: some 2,000 routes. A router with the routes of the Internet is no mail host
GATEWAY, BRIDGE = b"gateway", b"bridge"
RTF_UP, RTF_GATEWAY = 1, 2  # linux/route.h
BRIDGE_NAMES = ("docker0", "br-", "cni0", "virbr", "lxcbr", "lxdbr", "podman")  # where /sys is not this namespace's
LINK_LOCAL = 0xFE80 >> 6  # the upper 10 bits of fe80::/10
MULTICAST = 0xFF  # the upper 8 bits of ff00::/8

TYPE_CHECKING = False
if TYPE_CHECKING:
    # The address as in TCPREMOTEIP, GATEWAY or BRIDGE, the device
    Place = tuple[bytes, bytes, str]
    # The first address, the length, the bits of the family: 32 or 128, the gateway's number or 0, the device
    Route = tuple[int, int, int, int, str]


def read() -> "tuple[list[Place], list[Route]] | None":
    """Return the addresses of gateways and bridges, and the routes to the networks behind bridges.

    None if there is no /proc/net/route.
    """
    net = NET
    if not os.path.exists(net + "/route"):
        return None
    routes = ipv4_routes(_lines(net + "/route")) + ipv6_routes(_lines(net + "/ipv6_route"))
    places: list[Place] = []
    outward = set()  # devices of default routes: a bridge to the LAN hides no client
    inner: list[Route] = []
    for _, length, bits, gateway, device in routes:
        if not length:
            outward.add(device)
            if gateway:
                _add(places, (_text(gateway, bits), GATEWAY, device))
    bridges = {device for device in {route[4] for route in routes} - outward if is_bridge(device)}
    if bridges:
        inner = [route for route in routes if route[4] in bridges and _is_on_link(route)]
        _add_bridges(places, inner, net)
    return places, inner


def text(place: "Place") -> bytes:
    """Return an address with what it is: `172.17.0.1 (bridge docker0)`."""
    ip, kind, device = place
    return b"%b (%b)" % (ip, b"default gateway" if kind == GATEWAY else b"bridge " + os.fsencode(device))


def ipv4_routes(lines: list[str]) -> "list[Route]":
    """Return the routes in the lines of /proc/net/route (net/ipv4/fib_trie.c, fib_route_seq_show)."""
    found = []
    for words in map(str.split, lines[1:]):
        try:
            first, gateway, flags, mask = _in_memory(words[1]), _in_memory(words[2]), int(words[3], 16), words[7]
            length = _in_memory(mask).bit_count()
        except (IndexError, ValueError, OverflowError):
            continue
        if flags & RTF_UP:
            found.append((first, length, 32, gateway if flags & RTF_GATEWAY else 0, words[0]))
    return found


def ipv6_routes(lines: list[str]) -> "list[Route]":
    """Return the routes to networks in the lines of /proc/net/ipv6_route (net/ipv6/route.c, rt6_info_route)."""
    found = []
    for words in map(str.split, lines):
        try:
            first, length, gateway, flags = int(words[0], 16), int(words[1], 16), int(words[4], 16), int(words[8], 16)
            device = words[9]
        except (IndexError, ValueError):
            continue
        if flags & RTF_UP and length < 128 and device != "lo":
            found.append((first, length, 128, gateway if flags & RTF_GATEWAY else 0, device))
    return found


def is_bridge(device: str) -> bool:
    """Whether a network device is a bridge."""
    return device.startswith(BRIDGE_NAMES) or ("/" not in device and os.path.isdir(f"{DEVICES}/{device}/bridge"))


def _is_on_link(route: "Route") -> bool:
    """Whether the route leads to neighbours, and not to link-local or multicast addresses."""
    first, length, bits, gateway, _ = route
    is_special = bits == 128 and (first >> 118 == LINK_LOCAL or first >> 120 == MULTICAST)
    return bool(length) and not gateway and not is_special


def _add_bridges(places: "list[Place]", routes: "list[Route]", net: str) -> None:
    """Add this host's own addresses on bridges."""
    own = ipv4_addresses(_lines(net + "/fib_trie"))
    addresses6 = [words for words in map(str.split, _lines(net + "/if_inet6")) if len(words) > 5]
    for first, length, bits, _, device in routes:
        on_device = own if bits == 32 else [int(words[0], 16) for words in addresses6 if words[5] == device]
        for number in on_device:
            if number >> bits - length == first >> bits - length:
                _add(places, (_text(number, bits), BRIDGE, device))


def _add(places: "list[Place]", place: "Place") -> None:
    """Add an address, unless it is known."""
    if all(place[0] != known[0] for known in places):
        places.append(place)


def ipv4_addresses(lines: list[str]) -> list[int]:
    """Return this host's addresses in the lines of /proc/net/fib_trie: `/32 host LOCAL` follows each of them."""
    found: dict[int, None] = {}
    leaf = None
    for words in map(str.split, lines):
        if words[:1] == ["|--"]:
            leaf = ipv4(words[1].encode()) if len(words) > 1 else None
        elif words == ["/32", "host", "LOCAL"] and leaf is not None:
            found[leaf] = None
    return list(found)


def _in_memory(word: str) -> int:
    """Return the number of an IPv4 address that is printed as a word of memory in network byte order."""
    return int.from_bytes(int(word, 16).to_bytes(4, sys.byteorder), "big")


def _text(number: int, bits: int) -> bytes:
    return dotted_quad(number) if bits == 32 else compress(number)


def _lines(path: str) -> list[str]:
    """Return the lines in the first READ_MAX bytes of a file; none if it cannot be opened."""
    parts = []
    remaining = READ_MAX
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        while remaining > 0 and (part := os.read(descriptor, remaining)):
            parts.append(part)
            remaining -= len(part)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(parts).decode("ascii", "replace").split("\n")
