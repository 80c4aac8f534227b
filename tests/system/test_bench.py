"""The benchmarks print a table. What they measure is not tested: a test does not measure time."""

import subprocess
import sys

import pytest

from tests.bench.figures import Row, table
from tests.bench.page import BEGIN, END, insert
from tests.kit.support import ROOT


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/bench/all"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_quick_run_prints_the_machine_and_a_table() -> None:
    done = run("--quick", "--only", "start")
    assert done.returncode == 0, done.stderr
    head, _, rows = done.stdout.partition("\n\n")
    assert [line.partition(":")[0] for line in head.splitlines()] == [
        "- machine",
        "- kernel",
        "- Python",
        "- date",
        "- command",
    ]
    lines = rows.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        *("what", "ours", "theirs", "peer", "ratio", "aim", "holds"),
    ]
    assert lines[2].startswith("| start: ")


def test_quick_figures_are_not_written() -> None:
    done = run("--write", "--quick")
    assert done.returncode == 2
    assert "--write excludes --quick" in done.stderr


@pytest.mark.parametrize(
    ("row", "ratio", "holds"),
    [
        (Row("rate", 30.0, "/s", 10.0, "C", ">= 2.0 x"), 3.0, "yes"),
        (Row("rate", 10.0, "/s", 10.0, "C", ">= 2.0 x"), 1.0, "no"),
        (Row("CPU", 1.0, "ms", 2.0, "C", "<= 0.5 x"), 0.5, "yes"),
        (Row("a third", 0.3, "ms", 0.9, "C", "<= 0.333333 x"), 0.3 / 0.9, "yes"),
        (Row("size", 0.7, "MB", aim="<= 0.6 MB"), None, "no"),
        (Row("lost", 0, "entries", aim="<= 0 entries"), None, "yes"),
        (Row("no aim", 30.0, "/s", 10.0, "C"), 3.0, "-"),
        (Row("no peer", 30.0, "/s", None, "C: missing", ">= 2.0 x"), None, "-"),
        (Row("not ours", None, "/s", 10.0, "C", ">= 2.0 x"), None, "-"),
        (Row("too small", 1.0, "ms", 0.0, "C", "<= 0.5 x"), None, "-"),
    ],
    ids=lambda value: value.name if isinstance(value, Row) else None,
)
def test_an_aim_is_about_the_ratio_or_about_our_figure(row: Row, ratio: float | None, holds: str) -> None:
    assert (row.ratio, row.holds) == (ratio, holds)


def test_columns_of_the_table_are_aligned() -> None:
    text = table([Row("a", 1234.5, "/s", 1.0, "C", ">= 2.0 x"), Row("a longer name", 0.25, "ms")])
    assert text == (
        "| what          |     ours | theirs | peer |     ratio | aim      | holds |\n"
        "| ------------- | -------: | -----: | ---- | --------: | -------- | ----- |\n"
        "| a             |  1,234/s | 1.00/s | C    | 1234.50 x | >= 2.0 x | yes   |\n"
        "| a longer name | 0.250 ms |      - | -    |         - | -        | -     |\n"
    )


def test_a_written_table_replaces_only_the_one_of_the_same_machine() -> None:
    page = insert(insert(f"before\n{BEGIN}{END}after\n", "one", "old"), "two", "other")
    page = insert(page, "one", "new")
    assert page == f"before\n{BEGIN}\n### one\n\nnew\n\n### two\n\nother\n\n{END}after\n"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no lines"):
        insert("a page\n", "one", "new")
