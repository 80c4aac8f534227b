"""Client addresses: each has one canonical text, equal to ipaddress's, and anything else has none."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmail_smtpd.relay.address import NEVER_CLIENTS, is_within, normalise, parse_networks
from tcprules.lookup import keys

TABLE = {
    b"192.0.2.7": b"192.0.2.7",
    b"::ffff:192.0.2.7": b"192.0.2.7",
    b"::FFFF:c000:207": b"192.0.2.7",
    b"0:0:0:0:0:ffff:192.0.2.7": b"192.0.2.7",
    b"::1": b"::1",
    b"0:0:0:0:0:0:0:1": b"::1",
    b"2001:DB8:0:0:0:0:0:7": b"2001:db8::7",
    b"2001:db8:85a3:8d3:1319:8a2e:370:7348": b"2001:db8:85a3:8d3:1319:8a2e:370:7348",
    b"2001:0db8:85a3:08d3:1319:8a2e:0370:7348": b"2001:db8:85a3:8d3:1319:8a2e:370:7348",
    b"fe80::1%eth0": b"fe80::1",
    b"fe80::1%../../etc": b"fe80::1",
    b"::": b"::",
}
NONE = [
    b"",
    b"unknown",
    b".",
    b"..",
    b"/",
    b"../192.0.2.7",
    b"192.0.2.7/",
    b"192.0.2",
    b"192.0.2.7.",
    b"192.0.2.7.8",
    b"192.0.2.256",
    b"192.0.2.07",
    b" 192.0.2.7",
    b"192.0.2.7 ",
    b"192.0.2.7\n",
    b"192.0.2.7\0",
    b"192.0.2.7%eth0",
    b"1.2.3.4:allow",
    b":allow",
    b":",
    b":::",
    b"::1%",
    b"::1\n",
    b"1::2::3",
    b"2001_db8__7",
    b"2001:db8::7/64",
    b"[2001:db8::7]",
    b"+1::",
    b"::g",
    b"::ffff:192.0.2.256",
    b"1:2:3:4:5:6:7",
    b"1:2:3:4:5:6:7:8:9",
    b"3232235777",
    b"0x7f.1",
    b"\xd9\xa1.\xd9\xa2.\xd9\xa3.\xd9\xa4",
]


@pytest.mark.parametrize("text", TABLE)
def test_an_address_has_one_canonical_text(text: bytes) -> None:
    assert normalise(text) == TABLE[text]
    assert normalise(TABLE[text]) == TABLE[text]


@pytest.mark.parametrize("text", NONE)
def test_anything_else_has_no_canonical_text(text: bytes) -> None:
    assert normalise(text) is None


def test_a_huge_text_is_rejected_quickly() -> None:
    assert normalise(b"1." * 100_000) is None
    assert normalise(b"1:" * 100_000) is None
    assert normalise(b"f" * 100_000 + b"::") is None


@given(st.ip_addresses(v=4))
def test_ipv4_agrees_with_ipaddress(address: ipaddress.IPv4Address) -> None:
    assert normalise(str(address).encode()) == str(address).encode()
    assert normalise(b"::ffff:" + str(address).encode()) == str(address).encode()


@given(st.ip_addresses(v=6))
@example(ipaddress.IPv6Address("::ffff:1.2.3.4"))
@example(ipaddress.IPv6Address("::1.2.3.4"))
def test_ipv6_agrees_with_ipaddress_in_every_spelling(address: ipaddress.IPv6Address) -> None:
    expected = str(address.ipv4_mapped or address).encode()
    for text in (address.compressed, address.exploded, address.exploded.upper(), f"{address.compressed}%eth0"):
        assert normalise(text.encode()) == expected


@given(st.one_of(st.binary(max_size=50), st.text("0123456789abcdef:.%/", max_size=50).map(str.encode)))
def test_a_canonical_text_is_an_address_and_a_safe_file_name(text: bytes) -> None:
    canonical = normalise(text)
    if canonical is not None:
        assert str(ipaddress.ip_address(canonical.decode())).encode() == canonical
        assert not canonical.translate(None, b"0123456789abcdef:.")
        assert canonical.strip(b".") == canonical != b""


WITHIN = [
    (b"127.0.0.0/8 ::1", b"127.1.2.3", True),
    (b"127.0.0.0/8 ::1", b"::1", True),
    (b"127.0.0.0/8 ::1", b"128.0.0.1", False),
    (b"127.0.0.1 ::1", b"127.0.0.5", False),
    (b"10.1.0.0/22\n2001:db8:1::/48", b"10.1.3.255", True),
    (b"10.1.0.0/22\n2001:db8:1::/48", b"10.1.4.0", False),
    (b"10.1.0.0/22\n2001:db8:1::/48", b"2001:db8:1:ffff::1", True),
    (b"10.1.0.0/22\n2001:db8:1::/48", b"2001:db8:2::1", False),
    (b"::ffff:10.0.0.0/104", b"10.9.9.9", True),
    (b"0.0.0.0/0", b"192.0.2.7", True),
    (b"", b"192.0.2.7", False),
]


@pytest.mark.parametrize(("text", "address", "expected"), WITHIN)
def test_an_address_is_or_is_not_within_networks(text: bytes, address: bytes, expected: bool) -> None:
    assert is_within(address, parse_networks(text)) is expected


@given(
    st.ip_addresses(), st.lists(st.sampled_from([b"1.", b"1.2.", b"255.255.255.", b"::1", b"ff/", b"2/", b"", b"0."]))
)
def test_an_address_is_within_the_networks_whose_rules_match_it(address: object, sampled: list[bytes]) -> None:
    text = normalise(str(address).encode())
    assert text is not None
    for network_keys in (frozenset(sampled), frozenset([*sampled, text])):
        assert is_within(text, network_keys) == any(key in network_keys for key in keys(text, None, None))


@pytest.mark.parametrize("text", [b"proxy", b"10.0.0.1/8", b"127.", b"::1 10.0.0.0/33", b"=proxy.example", b"::/0"])
def test_an_invalid_network_is_named(text: bytes) -> None:
    with pytest.raises(ValueError, match=text.split()[-1].decode().replace(".", r"\.")):
        parse_networks(text)


@given(st.ip_addresses())
@example(ipaddress.ip_address("239.255.255.255"))
@example(ipaddress.ip_address("ff02::1"))
@example(ipaddress.ip_address("0.0.0.0"))
@example(ipaddress.ip_address("::"))
def test_unspecified_and_multicast_addresses_are_never_clients(address: ipaddress.IPv4Address) -> None:
    text = normalise(str(address).encode())
    assert text is not None
    expected = ipaddress.ip_address(text.decode())
    assert is_within(text, NEVER_CLIENTS) == (expected.is_unspecified or expected.is_multicast)
