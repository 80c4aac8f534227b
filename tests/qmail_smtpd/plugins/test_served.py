"""Plugins of real sessions: environment, descriptors, failures, and that the next client gets nothing of them."""

import os
import re
from pathlib import Path

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, Result, make_home, start, talk
from tests.kit.server import Server, has_ended
from tests.kit.support import script

HELLO = "EHLO c.test\r\n"
QUIT = "QUIT\r\n"


def home_with(tmp_path: Path, smtpplugins: str, **plugins: str) -> Path:
    """Make a home with these plugins, which are shell scripts."""
    home = make_home(tmp_path / "home", {**CONTROL, "smtpplugins": smtpplugins})
    (home / "plugins").mkdir()
    for name, text in plugins.items():
        path = home / "plugins" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return home


def variables(home: Path) -> list[dict[str, str]]:
    """Return the environments that were shown, without those of the shell."""
    shown = re.split(r"^--\n", (home / "shown").read_text(), flags=re.MULTILINE)
    return [dict(line.split("=", 1) for line in text.splitlines()) for text in shown if text]


def test_a_plugin_has_the_environment_of_the_session_and_qmail_spps_variables(tmp_path: Path) -> None:
    home = home_with(tmp_path, "[rcpt]\nplugins/show\n", show="{ env; echo --; } >>shown")
    talk(home, HELLO + "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@example.com>\r\nRCPT TO:<v@evil.test>\r\n" + QUIT)
    first, second = variables(home)
    assert CLIENT.items() <= first.items()
    assert (first["SMTPHELOHOST"], first["SMTPMAILFROM"]) == ("c.test", "s@s.test")
    names = ("SMTPRCPTTO", "SMTPRCPTCOUNT", "SMTPRCPTCOUNTALL", "SMTPRCPTHOSTSOK")
    assert [first[name] for name in names] == ["u@example.com", "0", "1", "1"]
    assert [second[name] for name in names] == ["v@evil.test", "1", "2", "0"]
    assert "RELAYCLIENT" not in first


def test_the_plugins_of_a_section_run_in_order_until_one_ends_the_chain(tmp_path: Path) -> None:
    lines = "[helo]\nplugins/one\n# plugins/three\n:echo SX=$X-shell\nplugins/two\nplugins/three\n"
    home = home_with(tmp_path, lines, one="echo SX=one", two='echo "P250-$X"; echo N', three="echo E550 no")
    assert b"\r\n250-one-shell\r\n250-mx.example.org\r\n" in talk(home, HELLO + QUIT).stdout


def test_what_a_plugin_says_reaches_the_client_the_queue_and_the_log(tmp_path: Path) -> None:
    lines = "[connection]\nplugins/greet\n[rcpt]\nplugins/rcpt\n[data]\nplugins/data\n"
    home = home_with(
        tmp_path,
        lines,
        greet="echo P220-hello; echo SRELAYCLIENT=; echo STCPREMOTEIP=127.0.0.1",
        rcpt='echo "Cv@example.com"; echo "HX-Recipient: $SMTPRCPTTO"; echo seen >&2',
        data='test "$SMTPRCPTTO" = v@example.com || echo E451 no',
    )
    result = talk(home, HELLO + MESSAGE + "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@evil.test>\r\n" + QUIT)
    assert result.stdout.startswith(b"220-hello\r\n220 mx.example.org ESMTP\r\n")
    ((message, envelope),) = result.queue
    assert envelope == b"Fs@sender.test\0Tv@example.com\0\0"
    assert b"\nX-Recipient: u@example.com\nSubject: t\n" in message
    assert b"seen\n" in result.stderr
    for name in (b"RELAYCLIENT", b"TCPREMOTEIP"):
        text = b"qmail-smtpd: warning: plugin plugins/greet: it may not change %b: ignored\n"
        assert text % name in result.stderr


def test_a_foreign_recipient_that_a_plugin_names_is_refused(tmp_path: Path) -> None:
    home = home_with(tmp_path, "[rcpt]\nplugins/bad\n", bad="echo Cu@evil.test; echo O")
    result = talk(home, HELLO + MESSAGE + QUIT)
    assert b"\r\n553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n" in result.stdout
    assert result.queue == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo E550 no; kill -9 $$", "child crashed"),
        ("echo E550 no; exit 120", "can't execute"),
        ("head -c 1000000 /dev/zero; sleep 100", "too much output"),
        ("yes P250-x", "too much output"),
    ],
)
def test_a_plugin_that_fails_refuses_for_now(text: str, why: str, tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, "[rcpt]\nplugins/bad\n", bad=text), HELLO + MESSAGE + QUIT)
    assert f"\r\n451 qmail-spp failure: plugins/bad: {why} (#4.3.0)\r\n503 " in result.stdout.decode()
    assert f"section=rcpt reason=plugin plugin=plugins/bad why={why.replace(' ', '_')}".encode() in result.stderr


@pytest.mark.parametrize("name", ["plugins/none", "plugins", "plugins/text"])
def test_a_plugin_that_cannot_be_run_refuses_for_now(name: str, tmp_path: Path) -> None:
    home = home_with(tmp_path, f"[helo]\n{name}\n", text="")
    (home / "plugins/text").chmod(0o644)
    assert f"\r\n451 qmail-spp failure: {name}: can't execute (#4.3.0)\r\n" in talk(home, HELLO + QUIT).stdout.decode()


@pytest.mark.parametrize("status", [0, 1, 99, 100, 111])
def test_other_exit_codes_do_not_matter(status: int, tmp_path: Path) -> None:
    home = home_with(tmp_path, "[rcpt]\nplugins/p\n", p=f"exit {status}")
    assert len(talk(home, HELLO + MESSAGE + QUIT).queue) == 1


def test_a_plugin_that_hangs_is_killed_at_the_end_of_the_session_at_the_latest(tmp_path: Path) -> None:
    home = home_with(tmp_path, "[helo]\nplugins/hang\n", hang="echo $$ >pid; exec sleep 1000")
    (home / "control/timeoutsession").write_text("1\n")
    result = talk(home, HELLO + QUIT)
    assert b"\r\n451 qmail-spp failure: plugins/hang: timeout (#4.3.0)\r\n221 " in result.stdout
    assert has_ended(int((home / "pid").read_text()))


def test_a_process_that_a_plugin_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    home = home_with(tmp_path, "[helo]\nplugins/p\n", p="sleep 1000 & echo $! >pid; echo E550 no")
    process = start(home)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write((HELLO + QUIT).encode())
        process.stdin.flush()
        assert [process.stdout.readline()[:4] for _ in range(3)] == [b"220 ", b"550 ", b"221 "]
    finally:
        process.kill()
        os.kill(int((home / "pid").read_text()), 9)
        process.communicate()


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"], []], ids=["exec", "call", "reuse"])
def test_a_plugin_has_three_descriptors(options: list[str], tmp_path: Path) -> None:
    home = home_with(
        tmp_path, "[helo]\nplugins/p\n", p="wc -c >>shown; readlink /proc/$$/fd/0 >>shown; ls /proc/self/fd >>shown"
    )
    (home / "control/policyservice").write_text("unix:nowhere\n")
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        server.ask((HELLO + QUIT).encode())
    assert (home / "shown").read_text().split() == ["0", "/dev/null", "0", "1", "2", "3"]  # 3 is that of ls


def test_nospp_switches_plugins_off_and_sppconffile_names_another_file(tmp_path: Path) -> None:
    home = home_with(tmp_path, "[helo]\nplugins/no\n", no="echo E550 no", other="echo E551 no")
    (home / "control/others").write_text("[helo]\nplugins/other\n")
    assert talk(home, HELLO + QUIT).codes[1] == "550"
    assert talk(home, HELLO + QUIT, {**CLIENT, "NOSPP": ""}).codes[1] == "250-"
    assert talk(home, HELLO + QUIT, {**CLIENT, "SPPCONFFILE": "control/others"}).codes[1] == "551"
    assert talk(home, HELLO + QUIT, {**CLIENT, "SPPCONFFILE": ""}).codes[1] == "550"
    for name in ("control/none", "/etc/passwd", "control/../control/others"):
        assert talk(home, HELLO + QUIT, {**CLIENT, "SPPCONFFILE": name}).codes == ["421"]


def test_an_unreadable_file_ends_the_session(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "smtpplugins": {"dir": True}})
    assert talk(home, HELLO).codes == ["421"]


def test_the_next_client_of_a_process_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    lines = "[helo]\nplugins/show\n[mail]\nplugins/set\n"
    home = home_with(
        tmp_path,
        lines,
        show="{ env; echo --; } >>shown",
        set="echo SMARK=1; echo UTOKEN; echo HX-A: b; echo LD450 later; echo A",
    )
    words = ["-v", "-RHl0", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home), "TOKEN": "1"}) as server:
        for number in range(3):
            answer = server.ask((HELLO + MESSAGE.replace("DATA", "RSET\r\nEHLO again") + QUIT).encode())
            assert Result(answer, b"", 0, home).codes[0] == "220"
            log = server.wait_for_log(rb"^tcpserver: end ", number + 1)
        assert len(set(re.findall(rb"tcpserver: pid (\d+) ", log))) == 1
    shown = variables(home)
    assert len(shown) == 3  # A has ended the plugins of each session
    assert all("MARK" not in environ and environ["TOKEN"] == "1" for environ in shown)
    assert all("SMTPMAILFROM" not in environ for environ in shown)
