"""Addresses, their canonical text, and the keys of networks, compared with Python's ipaddress."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcprules import lookup, network
from tcprules.network import Refused, canonical, expand

SPARSE = st.integers(0, 2**128 - 1).flatmap(lambda n: st.integers(0, 2**128 - 1).map(lambda mask: n & mask & mask >> 7))
IPV4 = st.integers(0, 2**32 - 1)


def expected_text(number: int) -> bytes:
    address = ipaddress.IPv6Address(number)
    return str(address.ipv4_mapped or address).encode()


@given(SPARSE)
def test_every_spelling_of_an_address_has_one_canonical_text(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    quad = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    spellings = [str(address), address.exploded, address.exploded.upper(), f"{address.exploded[:29]}:{quad}"]
    assert {canonical(text.encode()) for text in spellings} == {expected_text(number)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"::", b"::"),
        (b"::1", b"::1"),
        (b"1::", b"1::"),
        (b"0:0:0:0:0:0:0:0", b"::"),
        (b"2001:DB8:0:0:1:0:0:1", b"2001:db8::1:0:0:1"),
        (b"2001:db8:0:1:1:1:1:1", b"2001:db8:0:1:1:1:1:1"),
        (b"1:2:3:4:5:6:7::", b"1:2:3:4:5:6:7:0"),
        (b"::ffff:192.0.2.1", b"192.0.2.1"),
        (b"::FFFF:c000:201", b"192.0.2.1"),
        (b"::192.0.2.1", b"::c000:201"),
        (b"64:ff9b::192.0.2.1", b"64:ff9b::c000:201"),
    ],
)
def test_canonical_text_is_that_of_rfc_5952_without_dots(text: bytes, expected: bytes) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b":",
        b":::",
        b"1",
        b"1.2.3.4",
        b"1:2:3:4:5:6:7",
        b"1:2:3:4:5:6:7:8:9",
        b"1:2:3:4:5:6:7:8::",
        b"1::2::3",
        b":1::2",
        b"1::2:",
        b"12345::",
        b"::+1",
        b"::1_0",
        b":: 1",
        b"::g",
        b"::1.2.3",
        b"::1.2.3.256",
        b"::01.2.3.4",
        b"1.2.3.4::",
        b"::1.2.3.4:5",
        b"fe80::1%eth0",
        b"[::1]",
        b"::1/128",
        b"::1\n",
        "::\u0661".encode(),
    ],
)
def test_an_invalid_ipv6_address_has_no_canonical_text(text: bytes) -> None:
    assert canonical(text) is None


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (b"0.0.0.0/0", [b""]),
        (b"10.0.0.0/8", [b"10."]),
        (b"10.2.0.0/15", [b"10.2.", b"10.3."]),
        (b"10.1.0.0/22", [b"10.1.0.", b"10.1.1.", b"10.1.2.", b"10.1.3."]),
        (b"192.0.2.4/30", [b"192.0.2.4", b"192.0.2.5", b"192.0.2.6", b"192.0.2.7"]),
        (b"192.0.2.4/32", [b"192.0.2.4"]),
        (b"2001:db8::/32", [b"2001:0db8:/"]),
        (b"2001:db8:4000::/36", [b"2001:0db8:4/"]),
        (b"2000::/3", [b"2/", b"3/"]),
        (b"2001:db8::8/126", [b"2001:db8::8", b"2001:db8::9", b"2001:db8::a", b"2001:db8::b"]),
        (b"2001:db8::10/124", [b"2001:0db8:0000:0000:0000:0000:0000:001/"]),
        (b"2001:db8::/96", [b"2001:0db8:0000:0000:0000:0000:/"]),
        (b"2001:DB8:0::1", [b"2001:db8::1"]),
        (b"2001:db8::1/128", [b"2001:db8::1"]),
        (b"::ffff:10.0.0.0/104", [b"10."]),
        (b"::ffff:10.0.0.1", [b"10.0.0.1"]),
        (b"::/95", [b"0000:0000:0000:0000:0000:000%x:/" % n for n in (0, 1)]),
    ],
)
def test_the_keys_of_a_network(text: bytes, keys: list[bytes]) -> None:
    assert expand(text) == keys


@given(IPV4, st.integers(0, 32), IPV4, st.integers(0, 32))
def test_an_ipv4_client_finds_a_network_exactly_when_it_is_inside(base: int, bits: int, other: int, near: int) -> None:
    inside = ipaddress.IPv4Network((base, bits), strict=False)
    keys = expand(str(inside).encode())
    client = ipaddress.IPv4Address(base ^ (other >> near))
    assert 1 <= len(keys) <= 128
    assert (client in inside) == (not set(keys).isdisjoint(lookup.keys(str(client).encode(), None, None)))


@given(SPARSE, st.integers(1, 128), st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_an_ipv6_client_finds_a_network_exactly_when_it_is_inside(base: int, bits: int, other: int, near: int) -> None:
    inside = ipaddress.IPv6Network((base | 1 << 127, bits), strict=False)
    keys = expand(str(inside).encode())
    client = ipaddress.IPv6Address((base | 1 << 127) ^ (other >> near))
    assert 1 <= len(keys) <= 8
    tried = set(lookup.keys(str(client).encode(), None, None)) - {b""}
    assert (client in inside) == (not set(keys).isdisjoint(tried))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (b"10.1.2.3/8", "10.0.0.0/8"),
        (b"192.0.2.1/31", "192.0.2.0/31"),
        (b"1.0.0.0/0", "0.0.0.0/0"),
        (b"2001:db8::1/32", "2001:db8::/32"),
        (b"::ffff:10.1.2.3/104", "10.0.0.0/8"),
        (b"::/0", "2000::/3"),
        (b"2001:db8::/0", "2000::/3"),
        (b"::ffff:0:0/96", "0.0.0.0/0"),
        (b"10.0/8", "10.0.0.0/8"),
        (b"10.0.0.0/33", "from 0 to 32"),
        (b"10.0.0.0/08", "from 0 to 32"),
        (b"10.0.0.0/", "from 0 to 32"),
        (b"10.0.0.0/255.0.0.0", "from 0 to 32"),
        (b"2001:db8::/129", "from 0 to 128"),
        (b"2001:db8::/-1", "from 0 to 128"),
        (b"2001:db8:::/32", "not an IPv6 address"),
        (b"2001:db8/32", "not an IPv6 address"),
    ],
)
def test_an_invalid_network_is_refused_with_advice(text: bytes, advice: str) -> None:
    with pytest.raises(Refused, match=advice.replace(".", r"\.")):
        expand(text)


def test_no_network_key_looks_like_an_address_a_prefix_or_a_range() -> None:
    keys = {key for bits in range(1, 125) for key in network.ipv6_keys(0x20 << 120, bits)}
    assert all(key.endswith(b"/") for key in keys)
    assert not any(key in keys for key in (b"2", b"20", b"20.", b"2000:", b"0"))
