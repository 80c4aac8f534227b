"""What a run says of itself: with PEERS=1 a peer test that skips has failed, and Pythons that were tried are named."""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.kit.support import NOT_PACKAGED

# No test measures time: a machine that is busy makes the examples come slowly, and the functions take long.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_peer_test = os.environ.get("PEERS") == "1" and item.get_closest_marker("peer")
    if report.skipped and is_peer_test and NOT_PACKAGED not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"PEERS=1, but this peer test was skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    properties = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    pythons = sorted(value for name, value in properties if name == "python")
    if pythons:
        terminalreporter.write_line(f"the wheel works on Python {', '.join(pythons)}")
