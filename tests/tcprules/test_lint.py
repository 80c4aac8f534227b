"""The warnings: rules that are legal but dead or dangerous are reported with their position, others are not."""

import pytest

from tcprules.compile import BadLine, records
from tcprules.lint import Lint


def warnings(rules: bytes, want_default: bool = False) -> list[str]:
    lint = Lint()
    try:
        for _ in records(rules.splitlines(keepends=True), lint):
            pass
        lint.finish(want_default)
    except BadLine as bad:
        lint.bad(bad)
    return [text.decode("latin-1") for text in lint.texts()]


@pytest.mark.parametrize(
    "line",
    [
        b"# a comment",
        b"",
        b" \t",
        b" # a comment with a blank before it",
        b"1.2.3.4:allow",
        b"1.2.3.:deny",
        b"10.:deny",
        b'1.2.3.4:allow,DATABYTES="10000000",MAXCONIP="3"',
        b"10.2-3.:deny",
        b"1.2.3.7-9:deny",
        b"1.2.3.007-009:deny",
        b"1.2.3.7-7:deny",
        b"10.0.0.0/22:deny",
        b"2001:db8::1:deny",
        b"2001:db8::/32:deny",
        b"=:deny",
        b"=host.example:deny",
        b"=.example:deny",
        b"=a_b-c.example\\040:deny",
        b"=1.2.3.4.in-addr.example:deny",
        b"=.4:deny",
        b'1.2.3.4:allow,RELAYCLIENT="",A=" b, ",b.c=""',
        b"0.0.0.0/0:allow",
    ],
)
def test_a_working_rule_gets_no_warning(line: bytes) -> None:
    assert warnings(line + b"\n:deny\n" if b"/0:" not in line else line) == []


@pytest.mark.parametrize(
    ("line", "column", "text"),
    [
        (b"1.2.3.4 deny", 13, "no colon"),
        (b"deny", 5, "no colon"),
        (b"10.0:deny", 5, "a prefix ends with a dot"),
        (b"10:deny", 3, "a prefix ends with a dot"),
        (b"1.2.3:deny", 6, "a prefix ends with a dot"),
        (b"10-12:deny", 1, "a prefix ends with a dot"),
        (b"10.0-3:deny", 1, "a prefix ends with a dot"),
        (b"999.1.1.1:deny", 1, "no octet is over 255"),
        (b"1.2.256.:deny", 5, "no octet is over 255"),
        (b"1.256:deny", 3, "no octet is over 255"),
        (b"001.2.3.4:deny", 1, "leading zeros"),
        (b"1.2.03.:deny", 5, "leading zeros"),
        (b"00.1.2.3:deny", 1, "leading zeros"),
        (b"1234.1.2.3:deny", 1, "no octet is over 255"),
        (b"1.2.3.4.5:deny", 1, "no client has such an address"),
        (b"1.2.3.4.:deny", 1, "no client has such an address"),
        (b".1.2.:deny", 1, "no client has such an address"),
        (b" 1.2.3.4:deny", 1, "blank"),
        (b"1.2.3.4 :deny", 8, "blank"),
        (b" #x:deny", 1, "blank"),
        (b"host.example:deny", 1, "must begin with ="),
        (b".example:deny", 1, "must begin with ="),
        (b"localhost:deny", 1, "no client: write 127.0.0.1, and on a line of its own ::1"),
        (b"=Host.example:deny", 2, "lower case"),
        (b"=host.eXample:deny", 8, "lower case"),
        (b"=*.example:deny", 2, "all names below a domain are written =.example.com"),
        (b"=a*b.example:deny", 3, "no client's name has this character"),
        (b"*.example:deny", 1, "all names below a domain are written =.example.com"),
        (b"0.0.0.0:deny", 1, "no client: a rule for all clients has no address"),
        (b":::deny", 1, "no client: a rule for all clients has no address"),
        (b"*:deny", 1, "no client: a rule for all clients has no address"),
        (b"*.*.*.*:deny", 1, "no client: a rule for all clients has no address"),
        (b"192.168.1.*:deny", 1, "no client: write 192.168.1."),
        (b"10.*.*.*:deny", 1, "no client: write 10."),
        (b"10.*:deny", 1, "no client: write 10."),
        (b"10.0.0.1-10.0.0.9:deny", 1, "no client: write 10.0.0.1-9"),
        (b"10.0.0.0-10.0.0.255:deny", 1, "no client: write 10.0.0.0-255"),
        (b"192.168.0.0-192.168.255.255:deny", 1, "no client: write 192.168.0.0/16"),
        (b"172.16.0.0-172.31.255.255:deny", 1, "no client: write 172.16.0.0/12"),
        (b"0.0.0.0-255.255.255.255:deny", 1, "no client: write 0.0.0.0/0"),
        (b"192.168.1.x:deny", 1, "no client: write 192.168.1."),
        (b"172.16.-172.31.:deny", 1, "no client: write 172.16-31."),
        (b"172.16-172.31.:deny", 1, "a range counts within one octet: write 172.16-31."),
        (b"10.0.0-10.0.3.:deny", 1, "no client: write 10.0.0-3."),
        (b"[192.168.1.0]/24:deny", 1, "no client: write 192.168.1.0/24"),
        (b"192.168.1.0/24,10.0.0.0/8:deny", 1, "no client: write one network a line, such as 10.0.0.0/8"),
        (b"ALL:deny", 1, "no client: a rule for all clients has no address"),
        (b".:deny", 1, "no client: a rule for all clients has no address"),
        (b"10.0.0.5-10.0.1.9:deny", 1, "no client: write one network a line, such as 10.0.0.0/8"),
        (b"10.0.0.9-10.0.0.1:deny", 1, "no client: write one network a line, such as 10.0.0.0/8"),
        (b"10.0.1.0-10.0.0.255:deny", 1, "no client: write one network a line, such as 10.0.0.0/8"),
        (b'1.2.3.4:allow,DATABYTES="10M"', 15, "DATABYTES has other characters than digits: using 10"),
        (b'1.2.3.4:allow,DATABYTES="none"', 15, "DATABYTES has other characters than digits: no limit"),
        (b'1.2.3.4:allow,DATABYTES=""', 15, "DATABYTES has other characters than digits: no limit"),
        (b'1.2.3.4:allow,DATABYTES="%bk"' % (b"9" * 9000), 15, "DATABYTES has other characters than digits: using 99"),
        (b'1.2.3.4:allow,MAXCONIP="5/s"', 15, "MAXCONIP has other characters than digits: no limit"),
        (b"=host. example:deny", 7, "no client's name has this character"),
        (b"=host.example.:deny", 14, "dot at the end"),
        (b"=.example.:deny", 10, "dot at the end"),
        (b"=.:deny", 2, "dot at the end"),
        (b"=a..example:deny", 4, "two dots in sequence"),
        (b"=10.1.2.3:deny", 2, "is a number"),
        (b"10.=host:deny", 4, "only a host name begins with ="),
        (b"[2001]:deny", 1, "no client has such an address"),
        (b"foo/bar:deny", 1, "no client has such an address"),
        (b"10.0-1.0.0/8:deny", 1, "no client has such an address"),
        (b"1.2.3-4.5-6:deny", 1, "no client has such an address"),
        (b"\xff:deny", 1, "no client has such an address"),
        (b"joe@1.2.3.4:allow", 4, "ident"),
        (b"joe@2001:db8::1:allow", 4, "ident"),
        (b"joe@=host:allow", 4, "ident"),
        (b"1.2.3.9-7:deny", 1, "an empty range"),
        (b"1.2.3.9-:deny", 1, "an empty range"),
        (b"1.2.3.300-400:deny", 1, "an empty range"),
        (b"1.2.3.250-300:deny", 1, "the range ends at 255"),
        (b'1.2.3.4:allow,A="b",,C="d"', 21, "a comma"),
        (b'1.2.3.4:allow,A,B="c"', 15, "a comma"),
        (b'1.2.3.4:allow, A="b"', 15, "a blank"),
        (b'1.2.3.4:allow,="b"', 15, "without a name"),
        (b'1.2.3.4:deny,A="b"', 14, "after deny"),
        (b'1.2.3.4:allow,A="b\0+RELAYCLIENT="', 15, "a NUL"),
        (b'1.2.3.4:allow,A="b\0D"', 15, "a NUL"),
        (b'1.2.3.4:allow,A\0="b"', 15, "a NUL"),
        (b'=:allow,RELAYCLIENT=""', 9, "an open relay: every client with a name may relay"),
    ],
)
def test_a_dead_or_dangerous_rule_is_reported_with_its_position(line: bytes, column: int, text: str) -> None:
    actual = warnings(b"# first\n" + line + b"\n:deny\n")
    assert len(actual) == 1
    assert actual[0].startswith(f"line 2, column {column}: ")
    assert text in actual[0]


@pytest.mark.parametrize(
    "address",
    [
        b"0." * 200_000 + b"x",
        b"1" * 400_000,
        b"a-" * 200_000 + b"!",
        b"=" + b"a." * 200_000 + b"!",
        b"=" + b"a." * 200_000,
    ],
)
def test_an_address_of_any_length_is_checked_in_linear_time(address: bytes) -> None:
    actual = warnings(address + b".deny\n" + address.replace(b"-", b"_") + b":deny\n:deny\n")
    assert [text.partition(",")[0] for text in actual] == ["line 1", "line 2"]


@pytest.mark.parametrize("place", [b"1.2.3.", b"=.example", b"=", b"", b"host"])
def test_info_before_anything_but_a_whole_address_or_name_gets_two_warnings(place: bytes) -> None:
    actual = warnings(b"joe@" + place + b":deny\n:deny\n")
    assert [text.split(": ")[0] for text in actual] == ["line 1, column 4", "line 1, column 5"]
    assert "whole address" in actual[1]


def test_a_range_beyond_255_without_its_final_dot_gets_two_warnings() -> None:
    actual = warnings(b"10.250-300:deny\n:deny\n")
    assert [text.partition(": ")[2] for text in actual] == [
        "the range ends at 255",
        "the rule matches no client: a prefix ends with a dot",
    ]


@pytest.mark.parametrize("rules", [b"", b"# all comments\n", b"\n\n"])
def test_a_file_without_a_rule_gets_a_warning(rules: bytes) -> None:
    assert warnings(rules) == ["file: no rule: all clients are allowed"]


def test_a_file_that_has_only_an_empty_range_has_no_rule() -> None:
    assert warnings(b"1.2.3.9-7:deny\n")[-1] == "file: no rule: all clients are allowed"


def test_a_missing_default_rule_gets_a_warning_on_request() -> None:
    assert warnings(b"10.:deny\n") == []
    assert warnings(b"10.:deny\n", want_default=True) == ["file: no default rule: all other clients are allowed"]
    assert warnings(b"10.:deny\n0.0.0.0/0:allow\n", want_default=True) == []


@pytest.mark.parametrize("address", [b"", b"0.0.0.0/0"])
def test_relayclient_in_the_default_rule_is_an_open_relay(address: bytes) -> None:
    actual = warnings(address + b':allow,A="b",RELAYCLIENT=""\n')
    assert actual == [f"line 1, column {len(address) + 14}: an open relay: every client may relay"]


def test_deny_with_relayclient_in_the_default_rule_is_no_open_relay() -> None:
    assert warnings(b':deny,RELAYCLIENT=""\n') == ["line 1, column 7: variables after deny are never set"]


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (b"10.:deny\n10.:allow\n", "line 2, column 1: 10. is set by line 1, which wins"),
        (b"10.:deny\n#\n10.:deny\n", "line 3, column 1: 10. is set by line 1, which wins"),
        (b":deny\n:allow\n", "line 2, column 1: the default rule is set by line 1, which wins"),
        (b"1.2.3.4:deny\n1.2.3.1-9:allow\n", "line 2, column 1: 1.2.3.4 is set by line 1, which wins"),
        (b"1.2.3.1-9:deny\n1.2.3.8-10:allow\n", "line 2, column 1: 1.2.3.8 (and 1 more) is set by line 1, which wins"),
        (b"10.:deny\n10.0.0.0/8:allow\n", "line 2, column 1: 10. is set by line 1, which wins"),
        (b"2001:db8::1:deny\n2001:DB8:0::1:allow\n", "line 2, column 1: 2001:db8::1 is set by line 1, which wins"),
        (b"::ffff:10.0.0.1:deny\n10.0.0.1:allow\n", "line 2, column 1: 10.0.0.1 is set by line 1, which wins"),
    ],
)
def test_a_key_that_is_set_twice_is_reported_with_the_line_that_wins(rules: bytes, text: str) -> None:
    assert warnings(rules) == [text]


def test_a_byte_order_mark_is_reported_before_a_comment_and_before_a_rule() -> None:
    for rest in (b"# comment\n:deny\n", b"1.2.3.4:deny\n:deny\n"):
        actual = warnings(b"\xef\xbb\xbf" + rest)
        assert len(actual) == 1
        assert actual[0].startswith("line 1, column 1: a byte order mark")


def test_the_fatal_line_is_reported_last() -> None:
    actual = warnings(b"10.0:deny\n1.2.3.4:alow\n10.1:deny\n")
    assert [text.split(": ")[0] for text in actual] == ["line 1, column 5", "line 2, column 9"]


@pytest.mark.parametrize(
    ("address", "form"),
    [
        (b"192.168.1.0/255.255.255.0", "192.168.1.0/24"),
        (b"10.1.2.3/0.0.255.255", "10.1.0.0/16"),
        (b"10.0.0.0/255.0.255.0", ""),
        (b"10/8", ""),  # the message has it
        (b"172.16/12", "172.16.0.0/12"),
        (b"192.168./16", "192.168.0.0/16"),
        (b"10/99999999999999", ""),
        (b"[::1]", "::1"),
        (b"[2a00:1450::]/32", "2a00:1450::/32"),
        (b"IPv6:2a00:1450::1", "2a00:1450::1"),
        (b"2a00:1450:1:2::*", "2a00:1450:1:2::/64"),
        (b"2a00:1450:", "2a00:1450::/32"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"127.0.0.1:25", "127.0.0.1"),
        (b"[::1::]", ""),
    ],
)
def test_a_refused_line_is_reported_with_the_right_form(address: bytes, form: str) -> None:
    actual = warnings(address + b":deny\n")
    assert len(actual) == 1
    assert actual[0].partition(": write ")[2] == form


def test_a_crlf_file_gets_a_clear_warning() -> None:
    assert warnings(b"1.2.3.4:allow\r\n") == ["line 1, column 14: a line must end with LF, not CRLF"]


def test_twenty_warnings_are_listed_and_the_others_are_counted() -> None:
    actual = warnings(b"10.0 deny\n" * 57 + b":deny\n")
    assert len(actual) == 21
    assert actual[19].startswith("line 20, ")
    assert actual[20] == "file: and 37 more"


def test_the_fatal_line_is_listed_even_after_twenty_warnings() -> None:
    actual = warnings(b"10.0 deny\n" * 57 + b"1.2.3.4:alow\n")
    assert actual[20].startswith("line 58, column 9: ")
    assert actual[21] == "file: and 37 more"
