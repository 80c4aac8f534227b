"""Settings of a whole run: signals, hypothesis, PEERS=1 (a skipped peer test fails), the Pythons named at its end."""

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.kit.support import NOT_PACKAGED, times

# No test measures time: on a busy machine examples are generated slowly, and the functions take long.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=times(50)
)
settings.load_profile("untimed")

# A shell starts background jobs with INT and QUIT ignored, nohup ignores HUP. Programs of the tests would inherit that.
for _number, _action in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _action)


# Fixtures of these files install the project. They come first: a worker takes tests from the end of another's list.
FIRST = ("test_quickstart.py", "test_install.py", "test_wheel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not ("system" in item.path.parts and item.path.name in FIRST))


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
