"""The program in $RCPTCHECK: its answers and failures, what it finds, and how long it may take."""

import os
from pathlib import Path

import pytest

from qmail_smtpd.recipients import rcptcheck
from tcprules.compile import write_cdb
from tests.kit.mailhome import CLIENT, CONTROL, Result, make_home, talk
from tests.kit.server import Server
from tests.kit.support import script

YES, UNKNOWN = b"250 ok", b"550 sorry, no mailbox here by that name (#5.1.1)"
LATER, FAILED = b"451 unable to verify recipient (#4.3.0)", b"451 unable to execute recipient check (#4.3.0)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


def program(home: Path, text: str) -> str:
    path = home / "bin/check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def ask(home: Path, check: str, *recipients: str, **environ: str) -> Result:
    """Run a session with these recipients, one for user@example.com without them."""
    commands = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients or ("user@example.com",))
    environ = {**CLIENT, "RCPTCHECK": check, **environ}
    return talk(home, f"MAIL FROM:<s@sender.test>\r\n{commands}QUIT\r\n", environ)


def replies(done: Result) -> list[bytes]:
    """Return the replies to the recipients."""
    return done.stdout.split(b"\r\n")[2:-2]


@pytest.mark.parametrize(
    ("text", "reply", "reason"),
    [
        ("exit 0", YES, b""),
        ("exit 100", UNKNOWN, b"unknown"),
        ("exit 111", LATER, b"rcptcheck:exit-111"),
        ("exit 1", FAILED, b"rcptcheck:exit-1"),
        ("exit 99", FAILED, b"rcptcheck:exit-99"),
        ("exit 120", FAILED, b"rcptcheck:exit-120"),
        ("exit 255", FAILED, b"rcptcheck:exit-255"),
        ("kill -9 $$", FAILED, b"rcptcheck:signal-9"),
        ("kill -PIPE $$", FAILED, b"rcptcheck:signal-13"),
    ],
)
def test_only_0_accepts_and_only_100_refuses(home: Path, text: str, reply: bytes, reason: bytes) -> None:
    done = ask(home, program(home, text))
    assert replies(done) == [reply]
    lines = done.stderr.splitlines()
    assert len(lines) == bool(reason)
    assert all(line.endswith(b" recipient=user@example.com reason=" + reason) for line in lines)


@pytest.mark.parametrize("check", ["/nonexistent", "bin", "", "true", "bin/not-executable"])
def test_a_program_that_cannot_be_run_accepts_nobody(home: Path, check: str) -> None:
    (home / "bin/not-executable").write_text("#!/bin/sh\n")
    done = ask(home, check)
    assert replies(done) == [FAILED]
    assert b" reason=rcptcheck:start:" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_relative_path_is_that_of_the_home(home: Path) -> None:
    program(home, "exit 100")
    assert replies(ask(home, "bin/check")) == [UNKNOWN]


def test_the_program_gets_sender_recipient_and_the_client_and_no_file_of_the_session(home: Path) -> None:
    write_cdb(bytes(home / "control/validrcptto.cdb"), bytes(home / "tmp"), [(b"@example.com", b"")])
    check = program(home, 'echo "$SENDER $RECIPIENT $TCPREMOTEIP"; cat; readlink /proc/$$/fd/*; true')
    done = ask(home, check, "User@Example.com")
    assert replies(done) == [YES]
    lines = done.stderr.decode().splitlines()
    assert lines[:2] == ["s@sender.test User@Example.com 192.0.2.1", "/dev/null"]
    assert lines[2].startswith("pipe:")
    assert not [path for path in lines[2:] if path.startswith(str(home / "control"))]


def test_the_program_gets_the_name_from_helo_and_before_it_that_of_the_client_s_address(home: Path) -> None:
    check = program(home, 'echo "helo=$HELO"')
    mail = "MAIL FROM:<>\r\nRCPT TO:<u@example.com>\r\n"
    text = f"{mail}EHLO Me $(id)\r\n{mail}HELO\r\n{mail}EHLO client.example.net\r\n{mail}QUIT\r\n"
    done = talk(home, text, {**CLIENT, "RCPTCHECK": check, "HELO": "of the server"})
    assert done.stderr.splitlines() == [
        b"helo=client.example.net", b"helo=Me $(id)", b"helo=", b"helo=client.example.net"
    ]  # fmt: skip
    assert talk(home, f"{mail}QUIT\r\n", {"RCPTCHECK": check}).stderr == b"helo=unknown\n"


def test_neither_the_queue_program_nor_the_next_client_gets_the_name_from_helo(home: Path) -> None:
    queue = home / "bin/queue"
    queue.write_text('#!/bin/sh\necho "queue=${HELO-unset}" >&2; cat >/dev/null; cat <&1 >/dev/null\n')
    queue.chmod(0o755)
    environ = {"QMAILHOME": str(home), "RCPTCHECK": program(home, 'echo "helo=$HELO"'), "QMAILQUEUE": str(queue)}
    mail = b"MAIL FROM:<>\r\nRCPT TO:<u@example.com>\r\nDATA\r\n.\r\nQUIT\r\n"
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as server:
        assert b"\r\n250 ok " in server.ask(b"EHLO me\r\n" + mail)
        assert b"\r\n250 ok " in server.ask(mail)
        assert server.log().splitlines() == [b"helo=me", b"queue=unset", b"helo=unknown", b"queue=unset"]


def test_a_recipient_cannot_become_a_variable_or_a_word_of_the_shell(home: Path) -> None:
    done = ask(home, program(home, 'echo "<$RECIPIENT>"'), '"$(id) ;`id`|=\\"\tPATH=/"@example.com')
    assert done.stderr == b'<$(id) ;`id`|="\tPATH=/@example.com>\n'


def test_the_program_is_not_run_for_a_recipient_that_is_refused_anyway(home: Path) -> None:
    check = program(home, "echo asked")
    (home / "control/validrcptto").write_text("joe@example.com\n")
    done = ask(home, check, "joe@example.com", "nobody@example.com", "u@elsewhere.test", "u@a.wild.example")
    assert [reply[:3] for reply in replies(done)] == [b"250", b"550", b"553", b"250"]
    assert done.stderr.count(b"asked\n") == 2


def test_for_a_client_that_may_relay_the_program_is_run_for_the_domains_of_rcpthosts(home: Path) -> None:
    check = program(home, "exit 100")
    done = ask(home, check, "u@example.com", "u@elsewhere.test", RELAYCLIENT="")
    assert replies(done) == [UNKNOWN, YES]
    (home / "control/rcpthosts").unlink()
    assert replies(ask(home, check, "u@example.com", RELAYCLIENT="")) == [YES]


@pytest.mark.parametrize("text", ["exec sleep 1000", "trap '' TERM HUP INT; while :; do :; done"])
def test_a_program_that_does_not_end_is_killed(home: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcptcheck, "TIME_LIMIT", 0.2)
    check = program(home, text).encode()
    assert rcptcheck.ask(check, dict(os.environb), b"s@s.test", b"u@ok.test", b"h", None) == b"timeout"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left, not even a zombie


def test_the_time_of_the_session_limits_the_program(home: Path) -> None:
    (home / "control/timeoutsession").write_text("1\n")
    done = ask(home, program(home, "exec sleep 1000"))
    assert replies(done) == [FAILED]
    assert b" reason=rcptcheck:timeout\n" in done.stderr


def test_a_status_that_is_collected_elsewhere_accepts_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_in_time = rcptcheck.child.ends_in_time

    def collect(pid: int, seconds: float, deadline: float | None) -> bool:
        ends_in_time(pid, seconds, deadline)
        os.waitpid(pid, 0)
        return True

    monkeypatch.setattr(rcptcheck.child, "ends_in_time", collect)
    check = program(home, "exit 0").encode()
    assert rcptcheck.ask(check, dict(os.environb), b"s@s.test", b"u@ok.test", b"h", None) == b"no-status"


def test_brtlimit_ends_a_session_that_asks_for_unknown_recipients(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "brtlimit": "2\n", "validrcptto": "joe@example.com\n"})
    check = program(home, "case $RECIPIENT in no@*) exit 100;; esac")
    done = ask(home, check, "no@a.wild.example", "joe@example.com", "x@example.com", "joe@example.com", "x@example.com")
    assert done.stdout.split(b"\r\n")[2:] == [
        UNKNOWN, YES, UNKNOWN, b"421 too many invalid addresses, goodbye (#4.3.0)", b""
    ]  # fmt: skip
    assert done.status == 1
    assert done.stderr.splitlines()[-1].endswith(b" ip=192.0.2.1 reason=brtlimit")
