"""With PEERS=1 a peer test that skips, for whatever reason, is a failure: a green run has compared with every peer."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("PEERS") == "1" and item.get_closest_marker("peer"):
        report.outcome = "failed"
        report.longrepr = f"PEERS=1, but this peer test was skipped: {report.longrepr}"
    return report
