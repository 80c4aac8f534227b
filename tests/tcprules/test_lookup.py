"""Lookups: the order of the keys, the meaning of a record's data, what an open rules file costs and raises."""

import errno
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcprules import strerr
from tcprules.lookup import Rules, Verdict, judge, keys, open_rules
from tcprules.report import format_keys
from tests.kit import cdbfile
from tests.kit.cdbfile import error_of

TEXT = st.lists(st.sampled_from([b"a", b"1", b".", b"..", b"@", b"=", b":", b"\0"]), max_size=8).map(b"".join)


@pytest.mark.parametrize(
    ("ip", "host", "info", "expected"),
    [
        (b"1.2.3.4", None, None, [b"1.2.3.4", b"1.2.3.", b"1.2.", b"1.", b""]),
        (
            b"1.2.3.4",
            b"h.ex.com",
            b"joe",
            [b"joe@1.2.3.4", b"joe@=h.ex.com", b"1.2.3.4", b"=h.ex.com", b"1.2.3.", b"1.2.", b"1."]
            + [b"=.ex.com", b"=.com", b"=", b""],
        ),
        (b"1.2.3.4", b"", b"", [b"@1.2.3.4", b"@=", b"1.2.3.4", b"=", b"1.2.3.", b"1.2.", b"1.", b"=", b""]),
        (b"1.2.3.4", None, b"joe", [b"joe@1.2.3.4", b"1.2.3.4", b"1.2.3.", b"1.2.", b"1.", b""]),
        (b"", None, None, [b"", b""]),
        (
            b".1.2",
            b".a.b.c.d",
            None,
            [b".1.2", b"=.a.b.c.d", b".1.", b".", b"=.a.b.c.d", b"=.b.c.d", b"=.c.d", b"=.d", b"=", b""],
        ),
        (b"::ffff:1.2.3.4", None, None, [b"::ffff:1.2.3.", b"::ffff:1.2.", b"::ffff:1.", b""]),
    ],
)
def test_the_order_of_the_keys(ip: bytes, host: bytes | None, info: bytes | None, expected: list[bytes]) -> None:
    assert [key for key in keys(ip, host, info) if not key.endswith(b"/")][-len(expected) :] == expected


def test_networks_of_an_ipv6_client_take_the_place_of_the_dotted_prefixes() -> None:
    tried = list(keys(b"2001:db8:4fff::1", b"h.com", b"joe"))
    assert tried[:4] == [b"joe@2001:db8:4fff::1", b"joe@=h.com", b"2001:db8:4fff::1", b"=h.com"]
    assert tried[-3:] == [b"=.com", b"=", b""]
    networks = tried[4:-3]
    assert networks[0] == b"2001:0db8:4fff:0000:0000:0000:0000:000/"
    assert networks[-10:-7] == [b"2001:0db8:4f/", b"2001:0db8:4/", b"2001:0db8:/"]
    assert networks[-1] == b"2/"
    assert len(networks) == 31


@pytest.mark.parametrize("ip", [b"2001:db8::1::", b"1:2", b":", b"fe80::1%eth0", b"a:b"])
def test_an_invalid_ipv6_address_is_in_no_network(ip: bytes) -> None:
    assert list(keys(ip, None, None)) == [ip, b""]


@given(st.dictionaries(TEXT, st.binary(max_size=4), max_size=12), TEXT, st.none() | TEXT, st.none() | TEXT)
def test_the_first_key_with_a_record_wins(
    records: dict[bytes, bytes], ip: bytes, host: bytes | None, info: bytes | None
) -> None:
    verdict = judge(Rules.from_bytes(cdbfile.make(list(records.items()))), ip, host, info)
    tried = list(keys(ip, host, info))
    expected = next((key for key in tried if key in records), None)
    assert verdict.key == expected
    assert verdict.data == records.get(expected, b"") if expected is not None else not verdict.data
    missed = tried if expected is None else tried[: tried.index(expected)]
    found = [b"try %b: yes\n" % key for key in tried if key == expected][:1]
    assert format_keys(verdict, tried) == b"".join([b"try %b: no\n" % key for key in missed] + found)


@pytest.mark.parametrize(
    ("data", "deny", "environment"),
    [
        (b"", False, []),
        (b"D\0", True, []),
        (b"D", False, []),
        (b"Dxx\0", True, []),
        (b"+A=b\0+C=d e\0", False, [(b"A", b"b"), (b"C", b"d e")]),
        (b"+A=b\0+A=c\0", False, [(b"A", b"b"), (b"A", b"c")]),
        (b"+A=b", False, []),
        (b"+A\0X=y\0\0+B=\0", False, [(b"B", b"")]),
        (b"+A=b\0D\0+C=d\0", True, [(b"A", b"b"), (b"C", b"d")]),
        (b"+A=b=c\0", False, [(b"A", b"b=c")]),
    ],
)
def test_the_meaning_of_a_records_data(data: bytes, deny: bool, environment: list[tuple[bytes, bytes]]) -> None:
    verdict = Verdict(b"", data)
    assert (verdict.deny, verdict.environment, verdict.unusable) == (deny, environment, [])


def test_a_variable_without_a_name_is_kept_out_of_the_environment() -> None:
    verdict = Verdict(b"", b"+=x\0+A=b\0+=\0")
    assert (verdict.environment, verdict.unusable) == ([(b"A", b"b")], [b"=x", b"="])


def test_a_verdict_keeps_nothing_of_the_search() -> None:
    """tcpserver keeps 10,000 of them (parent/rulesfile.py), and an IPv6 client has 33 keys, which take 2 kB."""
    rules = Rules.from_bytes(cdbfile.make([(b"", b"+A=b\0")]))
    judge(rules, b"2001:db8::1", None, None)
    tracemalloc.start()
    try:
        kept = [judge(rules, b"2001:db8::%x" % number, None, None) for number in range(100)]
        assert tracemalloc.get_traced_memory()[0] < 1000 * len(kept)
    finally:
        tracemalloc.stop()


def test_without_a_rule_a_client_is_allowed() -> None:
    verdict = judge(Rules.from_bytes(cdbfile.make([])), b"1.2.3.4", None, None)
    assert (verdict.key, verdict.deny, verdict.environment) == (None, False, [])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "file does not exist"),
        (lambda path: path.write_bytes(b""), "protocol error"),
        (lambda path: path.write_bytes(b"x" * 5000), "protocol error"),
        (lambda path: path.write_bytes(b"\0" * 5000), "protocol error"),
        (lambda path: (path.touch(), os.truncate(path, 1 << 40)), "protocol error"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: os.mkfifo(path), "unseekable descriptor"),
        (lambda path: path.symlink_to(path), "symbolic link loop"),
        (lambda path: path.symlink_to("/dev/null"), "protocol error"),
        (lambda path: path.symlink_to("/dev/zero"), "protocol error"),
        (lambda path: (path.parent / "file").touch() or path.symlink_to("file/x"), "not a directory"),
    ],
    ids=[
        "missing",
        "empty",
        "garbage",
        "zeros",
        "a huge hole",
        "directory",
        "fifo",
        "loop",
        "null",
        "zero",
        "under-a-file",
    ],
)
def test_an_unusable_rules_file_is_refused_when_it_is_opened(make, why: str, tmp_path: Path) -> None:
    make(tmp_path / "rules.cdb")
    before = os.listdir("/proc/self/fd")
    error = error_of(lambda: open_rules(bytes(tmp_path / "rules.cdb")))
    assert error is not None
    assert strerr.WORDS[error] == why
    assert os.listdir("/proc/self/fd") == before


def test_a_replaced_file_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.cdb"
    path.write_bytes(cdbfile.make([(b"", b"D\0")]))
    rules = open_rules(str(path))
    path.unlink()
    assert rules.get(b"") == b"D\0"
    rules.close()


def test_a_truncated_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "rules.cdb"
    path.write_bytes(cdbfile.make([(b"", b"D\0")]))
    rules = open_rules(str(path))
    os.truncate(path, 2050)
    assert error_of(lambda: rules.get(b"")) == errno.EPROTO
    rules.close()


def test_a_closed_file_is_not_read_even_if_its_descriptor_is_in_use_again(tmp_path: Path) -> None:
    path = tmp_path / "rules.cdb"
    path.write_bytes(cdbfile.make([(b"", b"D\0")]))
    rules = open_rules(str(path))
    rules.close()
    rules.close()
    with path.open("rb"):
        assert error_of(lambda: rules.get(b"")) == errno.EBADF


def test_a_search_among_many_rules_reads_a_few_hundred_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rules.cdb"
    path.write_bytes(cdbfile.make([(b"10.0.%d.%d" % (i >> 8, i & 255), b"") for i in range(20_000)]))

    class Counting:
        def __init__(self) -> None:
            self.size = path.stat().st_size
            self.bytes = 0
            self.descriptor = os.open(path, os.O_RDONLY)

        def read(self, position: int, length: int) -> bytes:
            self.bytes += length
            return os.pread(self.descriptor, length, position)

    source = Counting()
    rules = Rules(source)  # type: ignore[arg-type]
    assert source.bytes == 2048
    judge(rules, b"10.0.7.7", None, None)
    judge(rules, b"10.9.7.7", None, None)
    assert source.bytes < 2048 + 512
    os.close(source.descriptor)


def test_records_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    records = [(b"b", b"1"), (b"a", b""), (b"b", b"2"), (b"", b"D\0")]
    assert list(Rules.from_bytes(cdbfile.make(records)).records()) == records
