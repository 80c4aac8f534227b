"""The same connection through Debian's tcpserver and ours: environment and its order, descriptors, signals, log."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.server import PATIENCE, Server, compiled, masked, read_all
from tests.kit.support import peer, script

pytestmark = pytest.mark.peer
C = "/usr/bin/tcpserver"
LOOK = ["cat", "/proc/self/environ", "/proc/self/status", "/proc/self/cmdline"]
RULES = r"""
127.0.0.1:allow,A="1",B="2",A="3"
127.0.0.2:deny
127.0.0.3:allow,TCPREMOTEIP="6.6.6.6",PROTO="X",TCPREMOTEHOST="h.example",TCPREMOTEPORT="no"
127.0.0.4:allow,PATH="/nowhere",TCPLOCALHOST=""
127.0.0.5:deny,A="b"
127.0.0.6:allow,KEPT="by the rule",SPACE="a b",EQUALS="a=b"
127.0.:allow,NET="yes"
:deny
"""
SOURCES = [f"127.0.0.{last}" for last in range(1, 9)]
GIVEN = {  # inherited, among them names that tcpserver or a rule sets
    "FIRST": "1",
    "TCPREMOTEHOST": "inherited.example",
    "SECOND": "2",
    "TCPREMOTEINFO": "inherited",
    "PROTO": "UDP",
    "TCPLOCALHOST": "inherited",
    "KEPT": "as it was",
    "THIRD": "3",
    "LC_ALL": "C",
}
WAYS = {"nothing asked": ["-RHl0"], "a banner": ["-RHl0", "-Bhello\n"], "no name of ours": ["-RHl", ""]}
SAME_STATUS = rb"(?m)^(?:Umask|Groups|SigPnd|ShdPnd|SigBlk|SigCgt|Seccomp|NoNewPrivs):.*$"
SIGNALS = 0x7FFFFFFF  # 1 to 31: glibc's posix_spawn leaves its own two, 32 and 33, ignored


class Pair(NamedTuple):
    ours: Server
    c: Server


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("rules") / "cdb", RULES)


@pytest.fixture(scope="module", params=WAYS)
def pair(request: pytest.FixtureRequest, rules: Path) -> Iterator[Pair]:
    words = ["-v", *WAYS[request.param], "-x", str(rules), "127.0.0.1", "0", *LOOK]
    with Server(words, environ=GIVEN) as ours, Server(words, peer(C), environ=GIVEN) as c:
        yield Pair(ours, c)


def seen(answer: bytes) -> list[bytes]:
    """What a program saw, without ports and pids: environment in its order, signals, umask, argv."""
    environ, _, rest = answer.partition(b"Name:\t")
    ignored = int(re.findall(rb"SigIgn:\t([0-9a-f]+)|$", rest)[0] or "0", 16) & SIGNALS
    found = [b"ignored %x" % ignored] + [
        re.sub(rb"^(TCP(?:LOCAL|REMOTE)PORT)=\d+$", rb"\1=PORT", entry) for entry in environ.split(b"\0")
    ]
    return found + re.findall(SAME_STATUS, rest) + [rest.rpartition(b"\n")[2]]


SOCKET = (  # what a program finds its connection to be
    "import socket; s = socket.socket(fileno=0); "
    "print(s.getsockopt(6, 1), s.getsockopt(0, 4, 40).hex(), s.getsockopt(1, 9), s.getblocking(), s.type, s.family)"
)
RECORD_ROUTE = bytes([7, 7, 4, 0, 0, 0, 0, 0])  # RFC 791, and an end of options


def connection_seen(program: str, options: list[str], ip_options: bytes) -> bytes:
    words = ["-RHl0", *options, "127.0.0.1", "0", sys.executable, "-I", "-c", SOCKET]
    with Server(words, program) as server, socket.socket() as client:
        if ip_options:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, ip_options)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", server.port))
        return read_all(client)


@pytest.mark.parametrize("options", [["-d"], ["-D"], ["-Dd"], ["-dD"], []], ids=str)
def test_nodelay_is_what_the_last_option_says(options: list[str]) -> None:
    ours = connection_seen(script("tcpserver"), options, b"")
    assert ours == connection_seen(peer(C), options, b"")
    assert (ours[:1] == b"1") == (options in (["-D"], ["-dD"]))


@pytest.mark.parametrize(("options", "kept"), [([], False), (["-O"], False), (["-o"], True), (["-oO"], False)], ids=str)
def test_ip_options_of_a_client_are_cleared(options: list[str], kept: bool) -> None:
    """0.88 intends to clear them, but sets the type of service instead."""
    assert (b" 07" in connection_seen(script("tcpserver"), options, RECORD_ROUTE)) == kept
    assert b" 07" in connection_seen(peer(C), options, RECORD_ROUTE)


@pytest.mark.parametrize("source", SOURCES)
def test_a_program_sees_the_same(pair: Pair, source: str) -> None:
    ours, c = seen(pair.ours.ask(source=source)), seen(pair.c.ask(source=source))
    assert ours == c
    assert len(ours) > 10 or source in ("127.0.0.2", "127.0.0.5")  # the two that are denied


def test_no_signal_is_blocked_or_ignored(pair: Pair) -> None:
    found = seen(pair.ours.ask())
    assert b"SigBlk:\t0000000000000000" in found
    assert b"ignored 0" in found


def test_the_log_is_the_same_line_by_line(rules: Path) -> None:
    words = ["-v", "-RHl0", "-x", str(rules), "127.0.0.1", "0", "true"]
    logs = []
    for program in (script("tcpserver"), peer(C)):
        with Server(words, program) as server:
            for times in (1, 2, 3):
                server.ask(source="127.0.0.3")
                server.wait_for_log(rb"^tcpserver: status: 0/40$", times + 1)
            logs.append(masked(server.log()))
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") == 16


def test_the_log_with_a_banner_and_a_refusal_is_the_same_line_by_line(rules: Path) -> None:
    words = ["-v", "-RHl0", "-Bhello", "-x", str(rules), "127.0.0.1", "0", "true"]
    logs = []
    for program in (script("tcpserver"), peer(C)):
        with Server(words, program) as server:
            for times, source in enumerate(("127.0.0.2", "127.0.0.1"), 2):
                assert server.ask(source=source) == b"hello"
                server.wait_for_log(rb"^tcpserver: status: 0/40$", times)
            logs.append(masked(server.log()))
    assert logs[0] == logs[1]
    assert b"tcpserver: deny PID" in logs[0]
    assert b"tcpserver: end PID status 25600\n" in logs[0]


ENDS = {  # what a program does -> its wait status
    "exit 0": 0,
    "exit 3": 768,
    "exit 100": 25600,
    "exit 255": 65280,
    "kill -9 $$": 9,
    "kill -TERM $$": 15,
    "kill -SEGV $$": 11,
    "kill -PIPE $$": 13,
    "kill -XFSZ $$": 25,
}


def test_wait_statuses_are_logged_raw() -> None:
    words = ["-v", "-RHl0", "127.0.0.1", "0", "sh", "-c", 'read -r command && eval "$command"']
    with Server(words) as ours, Server(words, peer(C)) as c:
        for times, command in enumerate(ENDS, 2):
            for server in (ours, c):
                server.ask(command.encode() + b"\n")
                server.wait_for_log(rb"^tcpserver: status: 0/40$", times)
        expected = [b"%d" % status for status in ENDS.values()]
        assert re.findall(rb"(?m)^tcpserver: end \d+ status (\d+)$", c.log()) == expected
        assert re.findall(rb"(?m)^tcpserver: end \d+ status (\d+)$", ours.log()) == expected


@pytest.mark.parametrize("options", [["-RHl0"], ["-RHl0", "-Bx"]], ids=["spawn", "fork"])
@pytest.mark.parametrize(
    "program", ["nosuch", "/nosuch/program", "/etc/passwd", "/etc", "/etc/passwd/x", "text"], ids=str
)
def test_a_program_that_cannot_be_run_is_logged_in_the_same_words(
    options: list[str], program: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("echo no interpreter line\n")
    (tmp_path / "text").chmod(0o755)
    words = [*options, "127.0.0.1", "0", program]
    environ = {"PATH": f"/etc:/nosuch:{tmp_path}:/etc/passwd:/bin"}
    logs = []
    for tcpserver in (script("tcpserver"), peer(C)):
        with Server(words, tcpserver, environ=environ) as server:
            server.ask()
            logs.append(server.wait_for_log(rb"\n"))
    assert logs[0] == logs[1]
    assert logs[0].startswith(b"tcpserver: warning: dropping connection, unable to run " + program.encode() + b": ")


@pytest.mark.parametrize("options", [["-RHl0"], ["-RHl0", "-Bx"]], ids=["spawn", "fork"])
def test_a_program_without_a_name_is_told_in_the_same_words(options: list[str]) -> None:
    said = []
    for tcpserver in (script("tcpserver"), peer(C)):
        with Server([*options, "127.0.0.1", "0", ""], tcpserver) as server:
            server.ask()
            said.append(server.wait_for_log(rb"\n"))
    assert said[0] == said[1]


def test_a_rule_that_sets_path_does_not_change_which_program_is_run(rules: Path, tmp_path: Path) -> None:
    for name, text in (("rule", "wrong"), ("server", "right")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "program").write_text(f"#!/bin/sh\necho {text}\n")
        (tmp_path / name / "program").chmod(0o755)
    cdb = compiled(tmp_path / "cdb", f':allow,PATH="{tmp_path}/rule"\n')
    for options in (["-RHl0"], ["-RHl0", "-B", ""], ["-RHl0", "-Bx"]):
        words = [*options, "-x", str(cdb), "127.0.0.1", "0", "program"]
        environ = {"PATH": f"{tmp_path}/server:/bin"}
        with Server(words, environ=environ) as ours, Server(words, peer(C), environ=environ) as c:
            assert ours.ask() == c.ask() == (b"x" if "-Bx" in options else b"") + b"right\n"


@pytest.mark.parametrize("start", [{"PATH": ""}, {"PATH": ":/bin"}, {"PATH": "/nosuch:"}], ids=str)
def test_an_empty_component_of_path_is_the_directory_it_was_started_in(start: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "here").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "here").chmod(0o755)
    words = ["-RHl0", "127.0.0.1", "0", "here"]
    with Server(words, environ=start, cwd=tmp_path) as ours, Server(words, peer(C), environ=start, cwd=tmp_path) as c:
        assert ours.ask() == c.ask() == os.fsencode(tmp_path) + b"\n"


def test_descriptors_are_the_connection_standard_error_and_what_was_inherited(tmp_path: Path) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY)
    look = f"for number in 0 1 2 {inherited}; do readlink /proc/$$/fd/$number; done; echo /proc/$$/fd/*"
    words = ["-RHl0", "127.0.0.1", "0", "sh", "-c", look]
    try:
        for options in ([], ["-Bx"]):
            found = []
            for program in (script("tcpserver"), peer(C)):
                with Server(options + words, program, pass_fds=[inherited]) as server:
                    found.append(server.ask().decode().removeprefix("x").splitlines())
            ours, c = found
            assert ours[0] == ours[1]
            assert ours[3] == c[3] == str(tmp_path)
            numbers = [os.path.basename(path) for path in ours[4].split()]
            assert numbers == [os.path.basename(path) for path in c[4].split()]
            assert set(numbers) == {"0", "1", "2", "3", str(inherited)}  # 3: the directory that the glob reads
    finally:
        os.close(inherited)
