"""Addresses of clients: one text for each, beside the library's ipaddress, and no text for what is none."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmail_smtpd.relay.address import NO_CLIENT, is_within, networks, normalise
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
def test_an_address_has_one_text(text: bytes) -> None:
    assert normalise(text) == TABLE[text]
    assert normalise(TABLE[text]) == TABLE[text]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address_has_none(text: bytes) -> None:
    assert normalise(text) is None


def test_an_endless_text_is_none_and_takes_no_time() -> None:
    assert normalise(b"1." * 100_000) is None
    assert normalise(b"1:" * 100_000) is None
    assert normalise(b"f" * 100_000 + b"::") is None


@given(st.ip_addresses(v=4))
def test_ipv4_is_as_ipaddress_says(address: ipaddress.IPv4Address) -> None:
    assert normalise(str(address).encode()) == str(address).encode()
    assert normalise(b"::ffff:" + str(address).encode()) == str(address).encode()


@given(st.ip_addresses(v=6))
@example(ipaddress.IPv6Address("::ffff:1.2.3.4"))
@example(ipaddress.IPv6Address("::1.2.3.4"))
def test_ipv6_is_as_ipaddress_says_in_every_spelling(address: ipaddress.IPv6Address) -> None:
    wanted = str(address.ipv4_mapped or address).encode()
    for text in (address.compressed, address.exploded, address.exploded.upper(), f"{address.compressed}%eth0"):
        assert normalise(text.encode()) == wanted


@given(st.one_of(st.binary(max_size=50), st.text("0123456789abcdef:.%/", max_size=50).map(str.encode)))
def test_what_has_a_text_is_an_address_for_ipaddress_and_a_safe_file_name(text: bytes) -> None:
    found = normalise(text)
    if found is not None:
        assert str(ipaddress.ip_address(found.decode())).encode() == found
        assert not found.translate(None, b"0123456789abcdef:.")
        assert found.strip(b".") == found != b""


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


@pytest.mark.parametrize(("text", "address", "wanted"), WITHIN)
def test_networks_hold_what_they_should(text: bytes, address: bytes, wanted: bool) -> None:
    assert is_within(address, networks(text)) is wanted


@given(
    st.ip_addresses(), st.lists(st.sampled_from([b"1.", b"1.2.", b"255.255.255.", b"::1", b"ff/", b"2/", b"", b"0."]))
)
def test_a_network_holds_an_address_whose_rule_it_would_be(address: object, found: list[bytes]) -> None:
    text = normalise(str(address).encode())
    assert text is not None
    for networks_ in (frozenset(found), frozenset([*found, text])):
        assert is_within(text, networks_) == any(key in networks_ for key in keys(text, None, None))


@pytest.mark.parametrize("text", [b"proxy", b"10.0.0.1/8", b"127.", b"::1 10.0.0.0/33", b"=proxy.example", b"::/0"])
def test_what_is_no_network_is_named(text: bytes) -> None:
    with pytest.raises(ValueError, match=text.split()[-1].decode().replace(".", r"\.")):
        networks(text)


@given(st.ip_addresses())
@example(ipaddress.ip_address("239.255.255.255"))
@example(ipaddress.ip_address("ff02::1"))
@example(ipaddress.ip_address("0.0.0.0"))
@example(ipaddress.ip_address("::"))
def test_no_client_has_an_unspecified_or_multicast_address(address: ipaddress.IPv4Address) -> None:
    text = normalise(str(address).encode())
    assert text is not None
    wanted = ipaddress.ip_address(text.decode())
    assert is_within(text, NO_CLIENT) == (wanted.is_unspecified or wanted.is_multicast)
