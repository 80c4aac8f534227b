"""A rule that sets PATH: tcpserver's program is searched in tcpserver's PATH, what that program starts in the rule's.

So it is in each way to run a program, as with exec (pathexec_run.c).
"""

from pathlib import Path

import pytest

from tests.kit.login import FAILED, OK, plain
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, compiled
from tests.kit.support import script

WAYS = {"exec": ["--exec"], "one after the other": [], "a process for each": ["--reuse", "1"]}
PLAIN, RULED = "127.0.0.1", "127.0.0.2"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> list[str]:
    return WAYS[request.param]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def serving(directory: Path, way: list[str], *program: str, **environ: str) -> Server:
    """A server with `one` in its PATH; a rule puts `two` into that of one client."""
    compiled(directory / "cdb", f'{RULED}:allow,PATH="{directory}/two:/bin"\n:allow\n')
    words = [*way, "-RHl0", "-x", str(directory / "cdb"), "127.0.0.1", "0", *program]
    return Server(words, environ={"PATH": f"{directory}/one:/bin", **environ})


def asked_in_turn(server: Server, data: bytes = b"QUIT\r\n") -> list[bytes]:
    """The answers to a client without the rule and one with it, twice: a process may serve both."""
    return [server.ask(data, source) for source in (PLAIN, RULED, PLAIN, RULED)]


def test_the_next_program_of_a_chain_is_searched_in_the_path_of_its_predecessor(way: list[str], tmp_path: Path) -> None:
    write(tmp_path / "one/next", "echo one")
    write(tmp_path / "two/next", "echo two")
    with serving(tmp_path, way, script("rblsmtpd"), "next") as server:
        assert asked_in_turn(server) == [b"one\n", b"two\n"] * 2


def test_a_loaded_next_program_is_searched_there_too(way: list[str], tmp_path: Path) -> None:
    write(tmp_path / "one/next", "echo one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/next").symlink_to(script("qmail-smtpd"))
    home = make_home(tmp_path / "home", CONTROL)
    environ = {"QMAILHOME": str(home), "LOADED": script("qmail-smtpd")}
    with serving(tmp_path, way, script("rblsmtpd"), "next", **environ) as server:
        assert [answer[:4] for answer in asked_in_turn(server)] == [b"one\n", b"220 "] * 2


def test_the_first_program_is_searched_in_the_path_of_the_server(way: list[str], tmp_path: Path) -> None:
    write(tmp_path / "one/rblsmtpd", f'exec {script("rblsmtpd")} "$@"')
    write(tmp_path / "two/rblsmtpd", "echo wrong")
    write(tmp_path / "one/next", "echo one")
    write(tmp_path / "two/next", "echo two")
    with serving(tmp_path, way, "rblsmtpd", "next") as server:
        assert asked_in_turn(server) == [b"one\n", b"two\n"] * 2


def test_a_checker_is_searched_in_the_path_of_the_session(way: list[str], tmp_path: Path) -> None:
    write(tmp_path / "one/check", "cat <&3 >/dev/null; exit 1")
    write(tmp_path / "two/check", "cat <&3 >/dev/null; exit 0")
    home = make_home(tmp_path / "home", CONTROL)
    environ = {"QMAILHOME": str(home), "SMTPAUTH": "", "AUTHSLEEP": "0"}
    with serving(tmp_path, way, script("qmail-smtpd"), "check", "true", **environ) as server:
        answers = asked_in_turn(server, plain("joe").encode() + b"QUIT\r\n")
    assert [answer.split(b"\r\n")[1] for answer in answers] == [FAILED, OK] * 2


def test_whether_an_argument_is_a_program_depends_on_the_path_of_the_session(way: list[str], tmp_path: Path) -> None:
    """A host or a checker? If it may be a program, nothing is offered (auth/arguments.py)."""
    write(tmp_path / "two/mail", "exit 0")
    (tmp_path / "one").mkdir()
    environ = {"QMAILHOME": str(make_home(tmp_path / "home", CONTROL)), "SMTPAUTH": ""}
    with serving(tmp_path, way, script("qmail-smtpd"), "mail", "/bin/checker", "true", **environ) as server:
        answers = asked_in_turn(server, b"EHLO x\r\nQUIT\r\n")
    assert [b"AUTH" in answer for answer in answers] == [True, False] * 2
