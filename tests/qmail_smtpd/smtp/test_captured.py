"""Sessions captured from notqmail's qmail-smtpd (1.09), replayed with ours: replies, exit status, queued messages.

A second file of the same format adds cases whose results were derived by hand from qmail-smtpd.c, control.c,
rcpthosts.c, cdb_seek.c, received.c and qmail.c. Each has a note with the reason.
"""

from pathlib import Path

import pytest

from tests.kit.captured import CASES, DATE, QUEUE_ORDERS, cases, latin, without_size
from tests.kit.mailhome import make_home, talk

DERIVED = cases("smtpd-derived.jsonl")


def check(case: dict, home: Path) -> None:
    """Run the session of a case, and compare replies, exit status and queue."""
    make_home(home, case["control"])
    queue_environ = {QUEUE_ORDERS[key]: str(value) for key, value in case.get("qq", {}).items()}
    (home / "bin/stub-queue").symlink_to("qmail-queue")
    result = talk(home, latin(case["stdin"]), {**case["env"], **queue_environ}, case.get("stdin_hold", 0))
    assert without_size(result.stdout) == latin(case["stdout"])
    assert result.status == case["exit"]
    complete = [(DATE.sub(b"; {DATE}\n", m, count=1), e) for m, e in result.queue if e.endswith(b"\0\0")]
    assert complete == [(latin(q["message"]), latin(q["envelope"])) for q in case["queue"] if q["complete"]]
    assert len(result.queue) == len(case["queue"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_captured_session_has_the_original_replies(case: dict, tmp_path: Path) -> None:
    check(case, tmp_path / "home")


@pytest.mark.parametrize("case", DERIVED, ids=[case["name"] for case in DERIVED])
def test_a_derived_session_has_the_replies_of_the_original_source(case: dict, tmp_path: Path) -> None:
    check(case, tmp_path / "home")


def test_all_captured_sessions_are_present() -> None:
    assert len(CASES) == 269
