"""Sessions captured from notqmail's qmail-smtpd (1.09), replayed against ours: replies, exit status, what is queued.

What they do not show is in a second file of the same form: answers derived by hand from qmail-smtpd.c, control.c,
rcpthosts.c, cdb_seek.c, received.c and qmail.c. Each has a note that says why.
"""

from pathlib import Path

import pytest

from tests.kit.captured import CASES, DATE, QUEUE_ORDERS, cases, latin, without_size
from tests.kit.mailhome import lay_home, talk

DERIVED = cases("smtpd-derived.jsonl")


def replay(case: dict, home: Path) -> None:
    """Run one session, and look at everything that it left."""
    lay_home(home, case["control"])
    orders = {QUEUE_ORDERS[key]: str(value) for key, value in case.get("qq", {}).items()}
    (home / "bin/stub-queue").symlink_to("qmail-queue")
    result = talk(home, latin(case["stdin"]), {**case["env"], **orders}, case.get("stdin_hold", 0))
    assert without_size(result.stdout) == latin(case["stdout"])
    assert result.status == case["exit"]
    complete = [(DATE.sub(b"; {DATE}\n", m, count=1), e) for m, e in result.queue if e.endswith(b"\0\0")]
    assert complete == [(latin(q["message"]), latin(q["envelope"])) for q in case["queue"] if q["complete"]]
    assert len(result.queue) == len(case["queue"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_session_is_answered_as_the_original_answered_it(case: dict, tmp_path: Path) -> None:
    replay(case, tmp_path / "home")


@pytest.mark.parametrize("case", DERIVED, ids=[case["name"] for case in DERIVED])
def test_session_is_answered_as_the_source_of_the_original_says(case: dict, tmp_path: Path) -> None:
    replay(case, tmp_path / "home")


def test_all_captured_sessions_are_here() -> None:
    assert len(CASES) == 269
