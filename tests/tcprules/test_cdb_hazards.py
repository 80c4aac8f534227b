"""Keys that cdblib would lose, tables on which its search never ends, and files broken at any position."""

import errno
import io
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import cdblib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcprules import compile as compiling
from tcprules.cli import tcprules, tcprulescheck
from tcprules.compile import write_cdb
from tcprules.lookup import Rules, judge
from tests.kit import cdbfile, forked
from tests.kit.cdbfile import error_of

HASH_0 = b"39.160.226.88"  # the one IPv4 address whose hash is 0
CLIENT = b"1.2.3.4"


def compiled(directory: Path, records: list[tuple[bytes, bytes]]) -> bytes:
    path = directory / "rules.cdb"
    write_cdb(bytes(path), bytes(directory / "rules.tmp"), records)
    return path.read_bytes()


def colliding_keys(count: int) -> list[bytes]:
    """Return IPv4 addresses that use the same slot as HASH_0 in a table of 2 * (count + 1) slots."""
    found = []
    for n in range(1 << 24):
        key = b"1.%d.%d.%d" % (n >> 16, n >> 8 & 255, n & 255)
        h = cdblib.djb_hash(key)
        if not h & 255 and not (h >> 8) % (2 * count + 2):
            found.append(key)
            if len(found) == count:
                break
    return found


def test_the_address_whose_hash_is_0_has_hash_0() -> None:
    assert cdbfile.djb_hash(HASH_0) == cdblib.djb_hash(HASH_0) == 0


def test_cdblib_alone_would_lose_that_address() -> None:
    """If this fails, cdblib has been fixed, and compile.py no longer needs its own tables."""
    content = io.BytesIO()
    with cdblib.Writer(content) as writer:
        for key in [HASH_0, *colliding_keys(1)]:
            writer.put(key, b"D\0")
    assert cdblib.Reader(content.getvalue()).get(HASH_0) is None


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_rule_for_a_key_with_hash_0_is_never_lost(count: int, tmp_path: Path) -> None:
    others = colliding_keys(count)
    for place in (0, count // 2, count):
        keys = [*others[:place], HASH_0, *others[place:]]
        records = [(key, b"+A=%b\0" % key) for key in keys]
        content = compiled(tmp_path, records)
        assert content == cdbfile.make(records)
        assert [Rules.from_bytes(content).get(key) for key in keys] == [data for _, data in records]


def test_colliding_keys_get_the_same_slots_as_in_the_original(tmp_path: Path) -> None:
    chance = random.Random(4)
    keys = [HASH_0, *colliding_keys(3), b"10.", *(b"%d" % n for n in range(40))]
    records = [(chance.choice(keys), b"%d" % n) for n in range(999)]
    assert compiled(tmp_path, records) == cdbfile.make(records)


def test_200_000_records_with_one_key_are_compiled_in_linear_time(tmp_path: Path) -> None:
    """Slot by slot this would take 20,000,000,000 steps."""
    content = compiled(tmp_path, [(b"10.", b"D\0")] * 200_000)
    assert len(content) == 2048 + 200_000 * (len(cdbfile.record(b"10.", b"D\0")) + 16)
    rules = Rules.from_bytes(content)
    assert (rules.get(b"10."), rules.get(b"11.")) == (b"D\0", None)


@given(st.binary())
def test_the_hash_without_cdblibs_c_extension_is_the_same(key: bytes) -> None:
    assert compiling._hash(key) == cdbfile.djb_hash(key) == cdblib.djb_hash(key)


def test_without_cdblibs_c_extension_the_same_bytes_are_written(tmp_path: Path) -> None:
    rules = b"".join(b"10.%d.%d.:deny\n=h%d.example:allow\n" % (n, n, n) for n in range(256))
    forked.run(tcprules, ["tcprules", "c.cdb", "r.tmp"], rules, cwd=tmp_path)
    start = "import sys; sys.modules['cdblib._djb_hash'] = None; from tcprules.cli import tcprules; tcprules()"
    subprocess.run([sys.executable, "-c", start, "python.cdb", "r.tmp"], input=rules, cwd=tmp_path, check=True)
    assert (tmp_path / "python.cdb").read_bytes() == (tmp_path / "c.cdb").read_bytes()


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_search_ends_on_a_table_without_an_empty_slot(place: int) -> None:
    h = cdbfile.djb_hash(CLIENT)
    body = cdbfile.record(b"4.3.2.1", b"") + cdbfile.record(CLIENT, b"D\0")
    slots = [(h, 2048)] * 4
    assert Rules.from_bytes(cdbfile.with_table(CLIENT, slots, body)).get(CLIENT) is None
    slots[place] = (h, 2048 + 15)
    assert Rules.from_bytes(cdbfile.with_table(CLIENT, slots, body)).get(CLIENT) == b"D\0"


@pytest.mark.parametrize(
    "slot",
    [(0, 0xFFFFFFFF), (0, 2048), (0, 0xFFFFFFF8), (0, 1), (0, 2050)],
    ids=["beyond", "too-long-a-key", "wraps", "in-the-header", "askew"],
)
def test_an_invalid_position_in_a_slot_is_an_error_or_no_match(slot: tuple[int, int], tmp_path: Path) -> None:
    body = struct.pack("<LL", len(CLIENT), 0xFFFFFFF0) + CLIENT
    content = cdbfile.with_table(CLIENT, [(cdbfile.djb_hash(CLIENT), slot[1]), (0, 0)], body)
    found = []
    assert error_of(lambda: found.append(Rules.from_bytes(content).get(CLIENT))) in (None, errno.EPROTO)
    assert found in ([], [None])


RULES = [(b"1.2.3.4", b"+A=b\0"), (b"1.2.", b"D\0"), (b"=host", b""), (b"", b"+RELAYCLIENT=\0")]


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    whole = cdbfile.make(RULES)
    for length in range(len(whole)):
        assert error_of(lambda cut=whole[:length]: Rules.from_bytes(cut)) == errno.EPROTO


@given(st.binary(max_size=64), st.integers(0, 4000))
def test_random_bytes_are_refused_or_searched_but_raise_no_other_error(data: bytes, size: int) -> None:
    content = random.Random(data).randbytes(size)
    assert error_of(lambda: judge(Rules.from_bytes(content), CLIENT, b"host", b"info")) in (None, errno.EPROTO)


@given(st.lists(st.tuples(st.integers(0, 2200), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_file_with_wrong_bytes_is_refused_or_searched_but_raises_no_other_error(
    changes: list[tuple[int, int]],
) -> None:
    content = bytearray(cdbfile.make(RULES))
    for position, byte in changes:
        content[position % len(content)] = byte
    for read in (lambda rules: judge(rules, CLIENT, b"host", b"info"), lambda rules: list(rules.records())):
        assert error_of(lambda read=read: read(Rules.from_bytes(bytes(content)))) in (None, errno.EPROTO)


@pytest.mark.parametrize("length", [0, 1, 2047, 2048, 2100, -1])
def test_tcprulescheck_prints_one_line_for_a_broken_file(length: int, tmp_path: Path) -> None:
    (tmp_path / "r.cdb").write_bytes(cdbfile.make(RULES)[:length])
    for options in ([], ["--explain"], ["--dump"], ["--replay"]):
        result = forked.run(tcprulescheck, ["tcprulescheck", *options, "r.cdb"], b"1.2.3.4\n", {}, tmp_path)
        assert result == (b"", b"tcprulescheck: fatal: unable to read r.cdb: protocol error\n", 111)


def test_a_cdb_over_4_gib_is_refused() -> None:
    class Huge(io.BytesIO):
        """A file that claims a size of 4 GiB."""

        def tell(self) -> int:
            return super().tell() + (1 << 32)

    writer = compiling._Writer(Huge(), strict=True)
    assert error_of(writer.finalize) == errno.ENOMEM


def test_an_empty_variable_name_gets_a_warning_and_is_printed_as_by_the_original(tmp_path: Path) -> None:
    done = forked.run(tcprules, ["tcprules", "r.cdb", "r.tmp"], b':allow,="x",A="b"\n', {}, tmp_path)
    assert done.stderr == b"tcprules: warning: line 1, column 8: a variable without a name is never set\n"
    shown = forked.run(tcprulescheck, ["tcprulescheck", "r.cdb"], environ={}, cwd=tmp_path)
    expected = b"rule :\nset environment variable =x\nset environment variable A=b\nallow connection\n"
    assert shown == (expected, b"", 0)
    assert os.listdir(tmp_path) == ["r.cdb"]
