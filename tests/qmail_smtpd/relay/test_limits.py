"""control/relaylimits: which limits count for whom, under which name, and what is refused."""

import pytest

from qmail_smtpd.relay.limits import BadLimit, RelayLimits, parse_limit

EXAMPLE = b"""# how much may be relayed
joe@example.org: 2000/86400      # this login
*: 300/3600 2000/86400
192.168.10.: 1000/3600\t# each address of this network
192.168.10.7: 1/60
10.0.0.0/8: 9/60
2001:db8::/32: 5/60
2001:db8::7: 6/60
2001:db8:0:1:2::/80: 7/60
.: 200/3600
12345: 8/60
"""


@pytest.mark.parametrize(
    ("login", "name", "limits"),
    [
        (b"joe@example.org", b"joe@example.org", ((2000, 86400),)),
        (b"JOE@Example.org", b"joe@example.org", ((2000, 86400),)),
        (b"ann@example.org", b"ann@example.org", ((300, 3600), (2000, 86400))),
        (b"192.168.10.9", b"192.168.10.9", ((300, 3600), (2000, 86400))),  # a login with this name
        (b"12345", b"12345", ((8, 60),)),
    ],
)
def test_a_login_has_its_own_limits_or_those_of_each_other_login(
    login: bytes, name: bytes, limits: tuple[tuple[int, int], ...]
) -> None:
    assert RelayLimits(EXAMPLE).of_login(login) == (name, limits)


@pytest.mark.parametrize(
    ("address", "name", "limit"),
    [
        (b"192.168.10.3", b"192.168.10.3", (1000, 3600)),
        (b"192.168.10.7", b"192.168.10.7", (1, 60)),
        (b"10.255.1.1", b"10.255.1.1", (9, 60)),
        (b"::ffff:10.255.1.1", b"10.255.1.1", (9, 60)),
        (b"2001:db8::7", b"2001:db8::7", (6, 60)),
        (b"2001:db8:0::8", b"2001:db8::/64", (5, 60)),
        (b"2001:db8::9", b"2001:db8::/64", (5, 60)),
        (b"2001:db8:0:1:2::8", b"2001:db8:0:1:2::/80", (7, 60)),
        (b"203.0.113.9", b"203.0.113.9", (200, 3600)),
        (b"2a00:1::1", b"2a00:1::/64", (200, 3600)),
        (b"fe80::1%eth0", b"fe80::/64", (200, 3600)),
        (b"unknown", b"unknown", (200, 3600)),
        (b"a:b", b"a:b", (200, 3600)),
        (b"", b"", (200, 3600)),
    ],
)
def test_an_address_has_the_limits_of_the_narrowest_line(address: bytes, name: bytes, limit: tuple[int, int]) -> None:
    assert RelayLimits(EXAMPLE).of_address(address) == (name, (limit,))


def test_without_a_line_for_it_nothing_is_limited() -> None:
    limits = RelayLimits(b"joe: 1/60\n10.: 1/60\n")
    assert limits.of_login(b"ann")[1] == ()
    assert limits.of_address(b"11.0.0.1")[1] == ()


def test_of_two_lines_for_one_all_limits_hold_and_the_smaller_one_for_the_same_window() -> None:
    assert RelayLimits(b"joe: 5/60 3/10\nJoe: 4/60 9/70\r\n").of_login(b"joe")[1] == ((3, 10), (4, 60), (9, 70))


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert RelayLimits(b"\xef\xbb\xbfjoe: 1/2\n").logins == {b"joe": ((1, 2),)}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"x", "a line is WHO"),
        (b": 1/2", "a line is WHO"),
        (b"x:", "no limit"),
        (b"x: # 1/2", "no limit"),
        (b"x: 300", "two whole numbers"),
        (b"x: 300/", "two whole numbers"),
        (b"x: 300/0", "two whole numbers"),
        (b"x: -3/60", "two whole numbers"),
        (b"x: 3/60s", "two whole numbers"),
        (b"x: 3/1h", "two whole numbers"),
        (b"x: 3/60,4/70", "two whole numbers"),
        (b"x: 3.5/60", "two whole numbers"),
        (b"x: \xb2/60", "two whole numbers"),
        (b"x: 10000000000/60", "two whole numbers"),
        (b"x: 1/1 1/2 1/3 1/4 1/5 1/6 1/7 1/8 1/9", "more than 8"),
        (b"1.2.3: 1/2", "not an address"),
        (b"1.2.3.400: 1/2", "not an address"),
        (b"10.0.0.1/8: 1/2", "bits are set"),
        (b"0.0.0.0/0: 1/2", "every client"),
        (b"2001:db8: 1/2", "not an IPv6 address"),
    ],
)
def test_a_line_that_is_not_understood_is_named(line: bytes, why: str) -> None:
    with pytest.raises(BadLimit, match=f"^line 2: .*{why}"):
        RelayLimits(b"joe: 1/2\n" + line + b"\n")


def test_zero_is_a_limit() -> None:
    assert parse_limit(b"0/60") == (0, 60)
