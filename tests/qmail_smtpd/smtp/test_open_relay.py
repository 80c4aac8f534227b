"""nmap's open relay probes, against qmail-smtpd under the C tcpserver."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.support import peer, script

HOST = "mx.example.org"
pytestmark = pytest.mark.peer


@pytest.fixture
def port(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Start a server with these control files, and return its port."""
    home = make_home(tmp_path / "home", {"me": HOST + "\n", **request.param})
    command = [peer("/usr/bin/tcpserver"), "-1HRl", HOST, "127.0.0.1", "0", script("qmail-smtpd")]
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "SMTPD_LOG": "none"}
    server = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    yield server.stdout.readline().strip()
    server.terminate()
    server.wait()
    server.stdout.close()


def nmap_result(port: str) -> str:
    """Return the result line of nmap's script."""
    command = [peer("/usr/bin/nmap"), "-Pn", "-n", "-p", port, "--script", "+smtp-open-relay", "127.0.0.1"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in report.splitlines() if "smtp-open-relay" in line]
    return line.partition(": ")[2]


LISTED = {"rcpthosts": HOST + "\nexample.com\n"}
NOT_LISTED = {"rcpthosts": "example.com\n"}
STRICT = {"relaystrict": ""}


@pytest.mark.parametrize("port", [{**LISTED, **STRICT}, {**NOT_LISTED, **STRICT}, STRICT], indirect=True)
def test_a_strict_server_accepts_none_of_16_probes(port: str) -> None:
    assert nmap_result(port) == "Server doesn't seem to be an open relay, all tests failed"


@pytest.mark.parametrize(
    ("port", "number"), [(LISTED, 9), (NOT_LISTED, 2)], indirect=["port"], ids=["me listed", "me not listed"]
)
def test_other_servers_accept_the_same_probes_as_the_original(port: str, number: int) -> None:
    assert nmap_result(port) == f"Server is an open relay ({number}/16 tests)"
