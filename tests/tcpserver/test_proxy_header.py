"""The PROXY protocol's parser: version 1's grammar, version 2's addresses and TLVs, any bytes; and --proxy-from."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpserver.environ import Facts
from tcpserver.parent import proxy_header
from tcpserver.parent.proxy_header import MAX_V2, Invalid, header_length, parse
from tcpserver.parent.proxy_networks import Networks, is_whole_family
from tests.kit import proxyheader as made

Ends = tuple[bytes, int, bytes, int]
IPV4 = made.ends("192.0.2.7", "198.51.100.25", (40312, 25))
IPV6 = made.ends("2001:db8::7", "2001:db8::25", (40312, 25))


def ends(facts: Facts | None) -> Ends | None:
    return facts and (facts.remote_ip, facts.remote_port, facts.local_ip, facts.local_port)


def read(data: bytes) -> tuple[int, Ends | None]:
    """Return the length of the header that these bytes begin with, and its content. Raise Invalid."""
    length = header_length(data)
    assert 0 < length <= len(data), length
    return length, ends(parse(data[:length]))


VALID: dict[str, tuple[bytes, Ends | None]] = {
    "v1": (made.v1("192.0.2.7", "198.51.100.25"), (b"192.0.2.7", 40312, b"198.51.100.25", 25)),
    "v1, ports": (made.v1("192.0.2.7", ports=(0, 65535)), (b"192.0.2.7", 0, b"192.0.2.25", 65535)),
    "v1, IPv6": (made.v1("2001:DB8::7", "2001:db8:0::25"), (b"2001:db8::7", 40312, b"2001:db8::25", 25)),
    "v1, mapped": (made.v1("::ffff:127.0.0.9", "::ffff:7f00:1"), (b"127.0.0.9", 40312, b"127.0.0.1", 25)),
    "v1, one mapped": (made.v1("::ffff:127.0.0.9", "::1"), (b"127.0.0.9", 40312, b"::1", 25)),
    "v1, longest": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",) * 2),
        (b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1, unknown, more": (b"PROXY UNKNOWN 192.0.2.7 \0\xff TCP4\r\n", None),
    "v1, unknown, longest": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    "v2": (made.v2(IPV4), (b"192.0.2.7", 40312, b"198.51.100.25", 25)),
    "v2, IPv6": (made.v2(IPV6, made.TCP6), (b"2001:db8::7", 40312, b"2001:db8::25", 25)),
    "v2, mapped": (
        made.v2(made.ends("::ffff:192.0.2.7", "::1"), made.TCP6),
        (b"192.0.2.7", 40312, b"::1", 25),
    ),
    "v2, TLVs": (
        made.v2(IPV4 + made.tlv(0xEA, b"\1vpce-1") + made.tlv(4, b"") + made.tlv(made.SSL, b"\1\0\0\0\0")),
        (b"192.0.2.7", 40312, b"198.51.100.25", 25),
    ),
    "v2, a large certificate": (
        made.v2(IPV4 + made.tlv(made.SSL, b"c" * (MAX_V2 - 31))),
        (b"192.0.2.7", 40312, b"198.51.100.25", 25),
    ),
    "v2, CRC32C first": (
        made.summed(made.v2(IPV4 + made.tlv(made.CRC32C, made.NO_SUM) + made.tlv(made.AUTHORITY, b"mx.example"))),
        (b"192.0.2.7", 40312, b"198.51.100.25", 25),
    ),
    "v2, CRC32C last": (
        made.summed(made.v2(IPV6 + made.tlv(made.UNIQUE_ID, b"u") + made.tlv(made.CRC32C, made.NO_SUM), made.TCP6)),
        (b"2001:db8::7", 40312, b"2001:db8::25", 25),
    ),
    "v2, LOCAL": (made.v2(b"", made.UNSPEC, made.LOCAL), None),
    "v2, LOCAL with CRC32C": (
        made.summed(made.v2(made.tlv(made.CRC32C, made.NO_SUM), made.UNSPEC, made.LOCAL)),
        None,
    ),
    "v2, LOCAL with addresses": (made.v2(IPV4, made.TCP4, made.LOCAL), None),
    "v2, LOCAL of no family": (made.v2(b"anything", 0xFF, made.LOCAL), None),
    "v2, LOCAL and no TLV": (made.v2(b"\1\1\1\1\1", made.UNSPEC, made.LOCAL), None),
    "v2, unspecified": (made.v2(b"", made.UNSPEC), None),
    "v2, unspecified, TLVs": (made.v2(made.tlv(made.UNIQUE_ID, b"u"), made.UNSPEC), None),
    "v2, AF_UNIX": (made.v2(b"/run/x".ljust(216, b"\0"), made.UNIX), None),
}

# haproxy 2.6.12, proxy-v2-options crc32c,authority,unique-id,ssl,cert-cn,ssl-cipher,cert-sig,cert-key; its own check
VALID["haproxy, TLS"] = (
    bytes.fromhex(
        "0d0a0d0a000d0a515549540a212100a40000000000000000000000000000000100000000000000000000000000000001"
        "9ae4a3430300043b2a73f702000e6d782e6578616d706c652e6f726705001e3a3a313a33393635322d3a3a313a343137"
        "39352d313739353937373331352000440100000000210007544c5376312e33250005454332353624001165636473612d"
        "776974682d534841323536230016544c535f4145535f3235365f47434d5f534841333834"
    ),
    (b"::1", 39652, b"::1", 41795),
)
VALID["haproxy, check"] = (bytes.fromhex("0d0a0d0a000d0a515549540a20000007030004a9b87e8f"), None)


@pytest.mark.parametrize("case", VALID)
@pytest.mark.parametrize("behind", [b"", b"EHLO me\r\nQUIT\r\n", b"\x16\x03\x01", b"PROXY ", b"\n"])
def test_a_header_is_read_to_its_end_and_no_further(case: str, behind: bytes) -> None:
    header, expected = VALID[case]
    assert read(header + behind) == (len(header), expected)


@pytest.mark.parametrize("case", VALID)
def test_however_a_header_is_cut_it_is_whole_only_at_its_end(case: str) -> None:
    header, expected = VALID[case]
    lengths = [header_length(header[:end]) for end in range(len(header))]
    assert all(length in (0, len(header)) for length in lengths)
    assert header[:5] != b"PROXY" or not any(lengths)
    assert read(header) == (len(header), expected)


LINE = b"PROXY %b\r\n"
WRONG_SUM = made.tlv(made.CRC32C, b"\0\0\0\1")
INVALID = {
    "something else": b"EHLO me\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "in lower case": b"proxy TCP4",
    "no blank": b"PROXY\tTCP4",
    "half a signature": made.SIGNATURE[:11] + b"\r",
    "LF alone": b"PROXY UNKNOWN\n",
    "no protocol": LINE % b"",
    "two blanks": LINE % b" TCP4 192.0.2.7 192.0.2.25 1 2",
    "a blank at the end": LINE % b"TCP4 192.0.2.7 192.0.2.25 1 2 ",
    "two blanks between": LINE % b"TCP4 192.0.2.7  192.0.2.25 1 2",
    "a tab": LINE % b"TCP4 192.0.2.7\t192.0.2.25 1 2",
    "a CR": LINE % b"TCP4 192.0.2.7 192.0.2.25 1 2\r",
    "a NUL": LINE % b"TCP4 192.0.2.7 192.0.2.25 1 2\0",
    "UDP": LINE % b"UDP4 192.0.2.7 192.0.2.25 1 2",
    "no family": LINE % b"TCP 192.0.2.7 192.0.2.25 1 2",
    "UNKNOWNx": LINE % b"UNKNOWNx",
    "one port": LINE % b"TCP4 192.0.2.7 192.0.2.25 1",
    "three ports": LINE % b"TCP4 192.0.2.7 192.0.2.25 1 2 3",
    "IPv6 as TCP4": LINE % b"TCP4 ::1 ::1 1 2",
    "IPv4 as TCP6": LINE % b"TCP6 192.0.2.7 192.0.2.25 1 2",
    "a leading zero": LINE % b"TCP4 192.0.2.07 192.0.2.25 1 2",
    "an octet too large": LINE % b"TCP4 192.0.2.256 192.0.2.25 1 2",
    "three octets": LINE % b"TCP4 192.0.2 192.0.2.25 1 2",
    "a name": LINE % b"TCP4 localhost 192.0.2.25 1 2",
    "a zone": LINE % b"TCP6 fe80::1%lo fe80::2 1 2",
    "in brackets": LINE % b"TCP6 [::1] ::1 1 2",
    "a prefix": LINE % b"TCP6 ::1/128 ::1 1 2",
    "five digits": LINE % b"TCP6 ::00001 ::1 1 2",
    "a port too large": LINE % b"TCP4 192.0.2.7 192.0.2.25 65536 2",
    "a port with a leading zero": LINE % b"TCP4 192.0.2.7 192.0.2.25 1 025",
    "a signed port": LINE % b"TCP4 192.0.2.7 192.0.2.25 +1 2",
    "an empty port": LINE % b"TCP4 192.0.2.7 192.0.2.25  2",
    "a long port": LINE % (b"TCP4 192.0.2.7 192.0.2.25 1 " + b"1" * 60),
    "digits of another script": LINE % "TCP4 192.0.2.7 192.0.2.25 \u0661 2".encode(),
    "a line of 108 bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "a line without end": b"PROXY UNKNOWN " + b"x" * 93,
    "v2, version 1": made.v2(IPV4, command=0x11),
    "v2, version 3": made.v2(IPV4, command=0x31),
    "v2, another command": made.v2(IPV4, command=0x22),
    "v2, a command at once": made.SIGNATURE + b"\x2f\x11\0\x0c",
    "v2, too long": made.SIGNATURE + bytes([made.PROXY, made.TCP4]) + b"\xff\xff",
    "v2, addresses too short": made.v2(IPV4[:-1]),
    "v2, IPv6 too short": made.v2(IPV4, made.TCP6),
    "v2, AF_UNIX too short": made.v2(bytes(215), made.UNIX),
    "v2, datagrams": made.v2(IPV4, made.UDP4),
    "v2, no transport": made.v2(IPV4, 0x10),
    "v2, unknown family": made.v2(IPV4, 0x41),
    "v2, a TLV too long": made.v2(IPV4 + b"\4\0\2x"),
    "v2, half a TLV": made.v2(IPV4 + b"\4\0"),
    "v2, wrong CRC32C": made.v2(IPV4 + WRONG_SUM),
    "v2, wrong CRC32C of LOCAL": made.v2(WRONG_SUM, made.UNSPEC, made.LOCAL),
    "v2, CRC32C too short": made.v2(IPV4 + made.tlv(made.CRC32C, b"\0\0\0")),
    "v2, CRC32C too long": made.v2(IPV4 + made.tlv(made.CRC32C, b"\0" * 5)),
    "v2, two CRC32C": made.v2(IPV4 + WRONG_SUM + WRONG_SUM),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_no_header_is_refused(case: str) -> None:
    with pytest.raises(Invalid):
        read(INVALID[case])


TYPE_OF_SUM = 28  # changed, it is another TLV


@pytest.mark.parametrize("at", [at for at in range(16, 16 + 12 + 7 + 13) if at != TYPE_OF_SUM])
def test_a_changed_byte_of_a_summed_header_is_noticed(at: int) -> None:
    header = VALID["v2, CRC32C first"][0]
    assert len(header) == 16 + 12 + 7 + 13
    with pytest.raises(Invalid):
        read(header[:at] + bytes([header[at] ^ 0x10]) + header[at + 1 :])


def test_the_sum_is_crc32c() -> None:
    assert proxy_header.crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogues
    assert proxy_header.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


def test_the_texts_of_the_error_are_our_own() -> None:
    for data in INVALID.values():
        with pytest.raises(Invalid) as caught:
            read(data)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 40


starts = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", made.SIGNATURE, made.SIGNATURE + b"\x21"])


@given(starts, st.binary(max_size=300))
def test_no_bytes_raise_another_error(start: bytes, rest: bytes) -> None:
    try:
        length = header_length(start + rest)
        if 0 < length <= len(start + rest):
            parse((start + rest)[:length])
    except Invalid:
        pass


@given(st.binary(max_size=600), st.sampled_from([*range(0x30), 0x31, 0xFF]), st.sampled_from([made.LOCAL, made.PROXY]))
def test_no_block_of_version_2_raises_another_error(block: bytes, family: int, command: int) -> None:
    try:
        facts = parse(made.v2(block, family, command))
    except Invalid:
        return
    assert command == made.PROXY or facts is None


addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.integers(0, 2**32 - 1).map(lambda n: ipaddress.ip_address(f"::ffff:{ipaddress.ip_address(n)}")),
)
ports = st.tuples(st.integers(0, 65535), st.integers(0, 65535))


@given(addresses, addresses, ports, st.lists(st.tuples(st.integers(4, 255), st.binary(max_size=40)), max_size=4))
def test_both_versions_give_what_was_encoded(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    server: ipaddress.IPv4Address | ipaddress.IPv6Address,
    both: tuple[int, int],
    more: list[tuple[int, bytes]],
) -> None:
    if client.version != server.version:
        return
    block = made.ends(str(client), str(server), both) + b"".join(made.tlv(*pair) for pair in more)
    found = ends(parse(made.v2(block, made.TCP4 if client.version == 4 else made.TCP6)))
    assert found == ends(parse(made.v1(str(client), str(server), both)))
    assert found
    assert (found[1], found[3]) == both
    for text, address in ((found[0], client), (found[2], server)):
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        assert ipaddress.ip_address(text.decode()) == (mapped or address)
        assert b":" not in text or b"." not in text


# -- the networks of --proxy-from

WITHIN = [
    ("192.0.2.7", "192.0.2.7", True),
    ("192.0.2.7", "192.0.2.8", False),
    ("192.0.2.0/24", "192.0.2.255", True),
    ("192.0.2.0/24", "192.0.3.0", False),
    ("0.0.0.0/0", "203.0.113.1", True),
    ("0.0.0.0/0", "::1", False),
    ("::/0", "2001:db8::1", True),
    ("::/0", "203.0.113.1", False),
    ("2001:db8::/33", "2001:db8:7fff::1", True),
    ("2001:db8::/33", "2001:db8:8000::1", False),
    ("::ffff:192.0.2.0/120", "192.0.2.9", True),
    ("::ffff:0:0/96", "203.0.113.1", True),
    ("fe80::/10", "fe80::1", True),
    ("::1", "::1", True),
    ("::1", "0.0.0.1", False),
    ("0.0.0.1", "::1", False),
]


@pytest.mark.parametrize(("network", "address", "is_within"), WITHIN)
def test_a_network_has_the_addresses_of_its_own_family(network: str, address: str, is_within: bool) -> None:
    assert Networks([b"198.51.100.1", network.encode()]).contain(address.encode()) == is_within


def test_no_other_text_is_within_a_network() -> None:
    everybody = Networks([b"0.0.0.0/0", b"::/0"])
    assert not any(everybody.contain(text) for text in (b"", b"unknown", b"1.2.3", b"fe80::1%lo"))


@pytest.mark.parametrize(
    "text", ["", "10", "10.", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/08", "10.0.0.1/8", "::1/0", "::/129"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any text)
        Networks([text.encode()])


def test_a_network_of_a_whole_family_is_recognised() -> None:
    texts = (b"0.0.0.0/0", b"::/0", b"::ffff:0.0.0.0/96", b"0.0.0.0/1", b"::1")
    assert [is_whole_family(text) for text in texts] == [True, True, True, False, False]
