"""Rules: the records of lines, and the positions of mistakes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcprules.rules import BadLine, parse


def keys(line: bytes) -> list[bytes] | None:
    rule = parse(line)
    return None if rule is None else rule.keys


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"# 1.2.3.4:deny", None),
        (b"1.2.3.4 deny", None),
        (b"", None),
        (b":deny", [b""]),
        (b" #x:deny", [b" #x"]),
        (b"1.2.3.4:deny \t ", [b"1.2.3.4"]),
        (b"1.2.3.7-9:deny", [b"1.2.3.7", b"1.2.3.8", b"1.2.3.9"]),
        (b"10.2-3.4.5:deny", [b"10.2.4.5", b"10.3.4.5"]),
        (b"-:deny", [b"0"]),
        (b"20:allow", [b"20"]),
        (b"1.2.3.254-300:deny", [b"1.2.3.254", b"1.2.3.255"]),
        (b"1.2.3.9-7:deny", []),
        (b"1.2.3.18446744073709551617-2:deny", [b"1.2.3.1", b"1.2.3.2"]),
        (b"1.2.3." + b"0" * 6000 + b"1-2:deny", [b"1.2.3.1", b"1.2.3.2"]),
        (b"1\0x-2\0y:deny", [b"1", b"2"]),
        (b"joe@1.2.3.4-6:deny", [b"joe@1.2.3.4-6"]),
        (b"a/b@1.2.3.4:deny", [b"a/b@1.2.3.4"]),
        (b"a/b@10.:deny", [b"a/b@10."]),
        (b"2/@ff:deny", [b"2/@ff"]),
        (b"10.0.0.0/8:deny", [b"10."]),
        (b"::1:deny", [b"::1"]),
        (b":::deny", [b"::"]),
        (b"2001:DB8::/32:deny", [b"2001:0db8:/"]),
        (b"joe@2001:DB8::1:deny", [b"joe@2001:db8::1"]),
        (b"joe@::ffff:10.0.0.1:deny", [b"joe@10.0.0.1"]),
        (b"[2001]:deny", [b"[2001]"]),
        (b"[2001]/16:deny", [b"[2001]/16"]),
        (b"foo/bar:deny", [b"foo/bar"]),
        (b"=foo/24:deny", [b"=foo/24"]),
        (b"10.0-1.0.0/8:deny", [b"10.0.0.0/8", b"10.1.0.0/8"]),
        (b'2001:db8::1:allow,A=":deny",B=/:allow/', [b"2001:db8::1"]),
    ],
)
def test_the_keys_of_a_line(line: bytes, expected: list[bytes] | None) -> None:
    assert keys(line) == expected


@pytest.mark.parametrize(
    ("instructions", "data"),
    [
        (b"allow", b""),
        (b"deny", b"D\0"),
        (b'allow,RELAYCLIENT=""', b"+RELAYCLIENT=\0"),
        (b'deny,A="b"', b"D\0+A=b\0"),
        (b"allow,A=/b c/,B=xyzx", b"+A=b c\0+B=yz\0"),
        (b'allow,,A="b"', b"+,A=b\0"),
        (b'allow,="b"', b"+=b\0"),
        (b'allow,A="b\0c"', b"+A=b\0c\0"),
        (b"allow,A= b ,B=\xffc\xff", b"+A=b\0+B=c\0"),
    ],
)
def test_the_data_of_instructions(instructions: bytes, data: bytes) -> None:
    rule = parse(b"1.2.3.4:" + instructions)
    assert rule
    assert rule.data == data


@pytest.mark.parametrize(
    ("line", "column"),
    [
        (b"1.2.3.4:", 9),
        (b"1.2.3.4: allow", 9),
        (b"1.2.3.4:ALLOW", 9),
        (b"1.2.3.4:allowed", 14),
        (b"1.2.3.4:allow\r", 14),
        (b"1.2.3.4:allow,A", 15),
        (b"1.2.3.4:allow,A=", 17),
        (b'1.2.3.4:allow,A="b', 17),
        (b'1.2.3.4:allow,A="b"C="d"', 20),
        (b"1.2.3.4:allow,A= b ", 17),
        (b"foo-bar.example:deny", 1),
        (b"1.2.3.4-5-6:deny", 1),
        (b"10.0.0.0-5/8:deny", 1),
        (b"10.1.2.3/8:deny", 1),
        (b"2/:deny", 1),
        (b"abc/:deny", 1),
        (b"joe@10.0.0.0/8:deny", 5),
        (b"joe@2001:db8::/32:deny", 5),
        (b"jo:e@::1:deny", 4),
        (b"1.2.3.4::deny", 1),
        (b"::/0:deny", 1),
        (b"2001:db8::1-5:deny", 1),
        (b"[2001:db8::1]:deny", 1),
        (b"=::1:deny", 1),
    ],
)
def test_an_invalid_line_is_refused_with_the_column_of_the_mistake(line: bytes, column: int) -> None:
    with pytest.raises(BadLine) as caught:
        parse(line)
    assert caught.value.column == column


@given(st.binary())
def test_any_line_gives_a_rule_of_its_own_bytes_or_is_refused(line: bytes) -> None:
    try:
        rule = parse(line)
    except BadLine as bad:
        rule, column = None, bad.column
    else:
        column = 1
    assert 1 <= column <= len(line) + 1
    assert rule is None or line.startswith(rule.address + b":" + rule.instructions)


@pytest.mark.parametrize("address", [b"2/", b"20/", b"2001:0db8:/", b"2001:0db8:4/", b"-/", b"1-2/"])
def test_a_key_of_an_ipv6_network_cannot_be_written_literally(address: bytes) -> None:
    with pytest.raises(BadLine):
        parse(address + b":deny")
