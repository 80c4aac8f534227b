"""Rules that let the public relay, or addresses that no client has: twenty files, of which ten get no warning."""

import pytest

from tcprules.compile import records
from tcprules.lint import Lint
from tcprules.ranges import TABLES, range_text, span


def warnings(rules: str) -> list[str]:
    lint = Lint()
    for _ in records(rules.encode().splitlines(keepends=True), lint):
        pass
    lint.finish(want_default=False)
    return [text.decode() for text in lint.texts()]


RELAY = ':allow,RELAYCLIENT=""\n'
RIGHT = {
    "loopback": f"127.{RELAY}::1{RELAY}:allow\n",
    "the private networks": f"10.{RELAY}172.16-31.{RELAY}192.168.{RELAY}127.{RELAY}:allow\n",
    "the private networks in CIDR": f"10.0.0.0/8{RELAY}172.16.0.0/12{RELAY}192.168.0.0/16{RELAY}:allow\n",
    "unique local and link-local": f"fc00::/7{RELAY}fe80::/10{RELAY}169.254.{RELAY}:allow\n",
    "an office": f"8.8.4.4{RELAY}9.9.9.16/28{RELAY}62.40.1.{RELAY}2a00:1450:4::/48{RELAY}:allow\n",
    "an organisation": f"130.149.{RELAY}2a00:1450::/32{RELAY}:allow\n",
    "a wide network without RELAYCLIENT": '172.:allow,RBLSMTPD=""\n192.:deny\n224-255.:deny\n0.:deny\n:allow\n',
    "a wide network whose public parts have rules": f"5.0-254.:allow\n5.{RELAY}"
    f"172.0-15.:allow\n172.32-255.:allow\n172.{RELAY}:allow\n",
    "one customer of NAT64": f"64:ff9b::5.6.0.0/112{RELAY}64:ff9b:1::/48{RELAY}:allow\n",
    "one customer of carrier NAT": f"100.64.7.9{RELAY}100.100.{RELAY}:allow\n",
    "names, users and POP before SMTP": f"=mail.example.org{RELAY}198.18.0.0/15:deny\n81.2.69.160-169{RELAY}:allow\n",
}
WRONG = {
    "all of 172": (
        f"172.{RELAY}:allow\n",
        "line 1, column 12: RELAYCLIENT for public addresses: 172.0.0.0/12 172.32.0.0-172.255.255.255 "
        "(240 of 256 /16 networks)",
    ),
    "all of 172 but one": (
        f":allow\n172.{RELAY}172.32-254.:allow\n172.0-14.:deny\n",
        "line 2, column 12: RELAYCLIENT for public addresses: 172.15.0.0/16 172.255.0.0/16 (2 of 18 /16 networks)",
    ),
    "one network too many": (
        f"172.16-32.{RELAY}",
        "line 1, column 18: RELAYCLIENT for public addresses: 172.32.0.0/16 (1 of 17 /16 networks)",
    ),
    "a network of many keys": (
        f"130.0.0.0/15{RELAY}",
        "line 1, column 20: RELAYCLIENT for public addresses: 130.0.0.0/15 (2 of 2 /16 networks)",
    ),
    "all of IPv4": (
        f"0-255.{RELAY}",
        "line 1, column 14: RELAYCLIENT for public addresses: 1.0.0.0-9.255.255.255 11.0.0.0-126.255.255.255 "
        "128.0.0.0-169.253.255.255 169.255.0.0-172.15.255.255 and 3 more (56556 of 65536 /16 networks)",
    ),
    "all of carrier NAT": (
        f"100.64.0.0/10{RELAY}",
        "line 1, column 21: RELAYCLIENT for carrier NAT addresses (RFC 6598), which strangers share: 100.64.0.0/10 "
        "(64 of 64 /16 networks)",
    ),
    "a registry's IPv6 network": (
        f"2a00::/16{RELAY}",
        "line 1, column 17: RELAYCLIENT for public addresses: 2a00::/16 (65536 of 65536 /32 networks)",
    ),
    "the translated IPv4 Internet": (
        f"64:ff9b::/96{RELAY}",
        "line 1, column 20: RELAYCLIENT for the public IPv4 addresses behind NAT64 (RFC 6052)",
    ),
    "a network with the translated IPv4 Internet in it": (
        f"64:ff9b::/64{RELAY}",
        "line 1, column 20: RELAYCLIENT for the public IPv4 addresses behind NAT64 (RFC 6052)",
    ),
    "the IPv6 addresses that begin with 0": (
        f"::/8{RELAY}",
        "line 1, column 12: RELAYCLIENT for the public IPv4 addresses behind NAT64 (RFC 6052)",
    ),
    "an example that was not adapted": (
        f"192.0.2.{RELAY}",
        "line 1, column 16: RELAYCLIENT for documentation addresses (RFC 5737, RFC 3849): no client has one",
    ),
    "a network that is written as an address": (
        f"192.168.0.0{RELAY}",
        "line 1, column 1: only this address may relay: its network is written 192.168.",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_file_gets_no_warning(name: str) -> None:
    assert warnings(RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_lets_too_many_or_nobody_relay_gets_one_warning(name: str) -> None:
    rules, expected = WRONG[name]
    assert warnings(rules) == [expected]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("224-239.", "multicast addresses (RFC 5771, RFC 4291)"),
        ("ff02::1", "multicast addresses (RFC 5771, RFC 4291)"),
        ("198.18.0.0/15", "benchmark addresses (RFC 2544)"),
        ("2001:2::7", "benchmark addresses (RFC 2544)"),
        ("2001:db8::/32", "documentation addresses (RFC 5737, RFC 3849)"),
        ("3fff::/20", "documentation addresses (RFC 5737, RFC 3849)"),
        ("203.0.113.7", "documentation addresses (RFC 5737, RFC 3849)"),
        ("0.", "addresses of no network (RFC 791)"),
        ("255.255.255.255", "reserved addresses (RFC 6890)"),
    ],
)
def test_relayclient_for_addresses_that_no_client_has_gets_one_warning(address: str, text: str) -> None:
    assert warnings(address + RELAY) == [
        f"line 1, column {len(address) + 8}: RELAYCLIENT for {text}: no client has one"
    ]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "0.0.0.0/0"])
def test_all_clients_and_addresses_meant_as_all_clients_get_one_warning(address: str) -> None:
    assert len(warnings(address + RELAY)) == 1


def test_a_rule_that_an_earlier_line_has_replaced_gets_only_the_warning_about_that() -> None:
    assert warnings(f"172.:deny\n172.{RELAY}") == ["line 2, column 1: 172. is set by line 1, which wins"]


def test_warnings_about_relaying_are_listed_when_others_are_only_counted() -> None:
    actual = warnings("10.0 deny\n" * 57 + f"172.{RELAY}5-6.{RELAY}")
    assert [text.partition(",")[0] for text in actual[-3:]] == ["line 58", "line 59", "file: and 37 more"]


@pytest.mark.parametrize("bits", [32, 128])
def test_the_classes_cover_every_address_once(bits: int) -> None:
    pieces = list(TABLES[bits].split(0, (1 << bits) - 1))
    assert [first for first, _, _ in pieces] == [0, *(last + 1 for _, last, _ in pieces[:-1])]
    assert pieces[-1][1] == (1 << bits) - 1


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b"10.", b"10.0.0.0/8"),
        (b"1.2.3.", b"1.2.3.0/24"),
        (b"1.2.3.4", b"1.2.3.4"),
        (b"2001:0db8:/", b"2001:db8::/32"),
        (b"fd0/", b"fd00::/12"),
        (b"::1", b"::1"),
    ],
)
def test_the_range_of_a_key(key: bytes, text: bytes) -> None:
    found = span(key)
    assert found
    assert range_text(*found) == text


@pytest.mark.parametrize(
    "key", [b"", b"=host", b"1.2", b"1.2.3.4.", b".", b"1..", b"300.", b"joe@10.1.2.3", b"/", b"x/"]
)
def test_a_key_that_is_no_address_has_no_range(key: bytes) -> None:
    assert span(key) is None
