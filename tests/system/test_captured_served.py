"""The captured SMTP sessions once more, through tcpserver: exec'd and preloaded programs give the same answers.

One server of each kind serves all cases. Every case has a client address of its own, and a rule for it sets what the
case wants in the environment, its qmail home included.
"""

import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cdblib
import pytest

from tests.kit.captured import CASES, DATE, QUEUE_ORDERS, latin, without_size
from tests.kit.mailhome import make_home
from tests.kit.server import PATIENCE, Server, read_all, until
from tests.kit.support import script

WAYS = {
    "exec": ["--exec"],
    "plain": [],
    "preload": ["--preload", "qmail-smtpd", "--preload", "maildir-queue", "--reuse", "1"],
}
UNKNOWN = {"TCPREMOTEIP": "unknown", "TCPLOCALHOST": "unknown"}  # what qmail-smtpd takes for the unset ones


def address(number: int) -> str:
    return f"127.7.{number // 250}.{number % 250 + 1}"


def record(number: int, case: dict, home: Path) -> tuple[bytes, bytes]:
    """Key and data of the rule for a case. Written straight into the cdb: a line of rules could hold no line end."""
    orders = {QUEUE_ORDERS[key]: str(value) for key, value in case.get("qq", {}).items()}
    environ = {**UNKNOWN, "QMAILHOME": str(home), "SMTPD_LOG": "none", **case["env"], **orders}
    if "TCPLOCALIP" in case["env"] and "TCPLOCALHOST" not in case["env"]:
        environ["TCPLOCALHOST"] = case["env"]["TCPLOCALIP"]
    return address(number).encode(), b"".join(latin(f"+{name}={value}\0") for name, value in environ.items())


@pytest.fixture(scope="module", params=[pytest.param("exec", marks=pytest.mark.slow), "plain", "preload"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    root = tmp_path_factory.mktemp(f"served-{request.param}")
    with open(root / "rules.cdb", "wb") as file, cdblib.Writer(file) as rules:
        for number, case in enumerate(CASES):
            home = make_home(root / str(number), case["control"])
            (home / "bin/stub-queue").symlink_to("qmail-queue")
            rules.put(*record(number, case, home))
    words = [*WAYS[request.param], "-HR", "-l0", "-x", str(root / "rules.cdb"), "127.0.0.1", "0", script("qmail-smtpd")]
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with Server(["-v", *words], environ=environ) as server:
        yield server, root


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_a_served_session_is_answered_as_the_original_answered_it(number: int, served: tuple[Server, Path]) -> None:
    server, root = served
    case, ip = CASES[number], address(number)
    with server.connect(source=ip) as client:
        try:
            client.sendall(latin(case["stdin"]))
            if not case.get("stdin_hold"):  # with it, the server must end the session
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # a session that cannot begin has ended before it could read anything
        stdout = read_all(client)
    stdout = re.sub(rb"250 ok \d+ qp \d+\r\n", b"250 ok {TIME} qp {PID}\r\n", stdout)
    assert without_size(stdout) == latin(case["stdout"])
    assert exit_status(server, ip) == case["exit"]
    assert queued(root / str(number) / "dump") == [
        (latin(entry["message"]), latin(entry["envelope"])) for entry in case["queue"] if entry["complete"]
    ]


def exit_status(server: Server, ip: str) -> int:
    """Return the exit status of this client's session from the server's log."""
    started = re.search(rb"tcpserver: pid (\d+) from " + re.escape(ip.encode()) + rb"\n", wait_for_log(server, ip))
    assert started
    ended = re.compile(rb"tcpserver: end " + started[1] + rb" status (\d+)\n")  # the first one from here on
    until(lambda: ended.search(server.log(), started.start()))
    found = ended.search(server.log(), started.start())
    assert found
    return int(found[1]) // 256


def wait_for_log(server: Server, ip: str) -> bytes:
    until(lambda: f"from {ip}\n".encode() in server.log())
    return server.log()


def queued(dump: Path) -> list[tuple[bytes, bytes]]:
    """The complete messages that the queue program was given; one that is still being written is waited for."""
    deadline = time.monotonic() + PATIENCE
    while any(not file.with_suffix(".e").exists() for file in dump.glob("*.m")) and time.monotonic() < deadline:
        time.sleep(0.01)
    pairs = [(file.read_bytes(), file.with_suffix(".e").read_bytes()) for file in sorted(dump.glob("*.m"))]
    return [(DATE.sub(b"; {DATE}\n", m, count=1), e) for m, e in pairs if e.endswith(b"\0\0")]
