"""Rules files compiled, and clients judged, by tcprules and tcprulescheck 0.88: ours give the same bytes."""

import base64
import json
import zlib
from pathlib import Path

import pytest

from tcprules.cli import tcprules, tcprulescheck
from tests.kit import forked
from tests.kit.support import ROOT


def load(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "tests/data" / name).read_text().splitlines()]


RULES = load("tcprules.jsonl")
CHECKS = load("tcprulescheck.jsonl")


def latin(text: str) -> bytes:
    return text.encode("latin-1")


@pytest.mark.parametrize("case", RULES, ids=[case["name"] for case in RULES])
def test_rules_file_is_compiled_as_the_original_compiled_it(case: dict, tmp_path: Path) -> None:
    result = forked.run(tcprules, ["tcprules", "rules.cdb", "rules.tmp"], latin(case["rules"]), cwd=tmp_path)
    assert (forked.without_warnings(result.stderr), result.exit) == (latin(case["stderr"]), case["exit"])
    assert result.stdout == b""
    if case["cdb"] is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["rules.cdb"]
        assert (tmp_path / "rules.cdb").read_bytes() == zlib.decompress(base64.b64decode(case["cdb"]))


@pytest.mark.parametrize("case", CHECKS, ids=[case["name"] for case in CHECKS])
def test_client_is_judged_as_the_original_judged_it(case: dict, tmp_path: Path) -> None:
    if case.get("rules") is not None:
        forked.run(tcprules, ["tcprules", "r.cdb", "r.tmp"], latin(case["rules"]), cwd=tmp_path)
    elif case.get("cdb_hex") is not None:
        (tmp_path / "r.cdb").write_bytes(bytes.fromhex(case["cdb_hex"]))
    environ = {latin(name): latin(value) for name, value in case["env"].items()}
    result = forked.run(tcprulescheck, case["argv"], environ=environ, cwd=tmp_path)
    assert result == (latin(case["stdout"]), latin(case["stderr"]), case["exit"])


def test_all_captured_cases_are_present() -> None:
    assert (len(RULES), len(CHECKS)) == (108, 87)
