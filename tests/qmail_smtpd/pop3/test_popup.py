"""qmail-popup as a process: the replies, what the checker gets, its exit codes, and logins without TLS."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.kit.checker import Checker
from tests.kit.imports import check, imported
from tests.kit.maildrop import ENVIRON, Dialogue, Maildir, Result, command
from tests.kit.support import ROOT, peer, script

HOST = "mail.example.org"
GREETING = rb"\+OK (<\d+\.\d+@mail\.example\.org>)\r\n"
OK = b"+OK \r\n"
WRONG = b"-ERR authorization failed\r\n"
NOT_CHECKED = b"-ERR [SYS/TEMP] unable to check the password\r\n"
NO_PLAINTEXT = b"-ERR no plaintext login without TLS\r\n"
JOE = b"USER joe@example.com\r\nPASS secret\r\n"
CLIENT = {"TCPREMOTEIP": "192.0.2.1"}


@pytest.fixture
def checker(tmp_path: Path) -> Checker:
    return Checker(tmp_path / "checker")


def popup(
    sent: bytes,
    words: Sequence[str],
    environ: Mapping[str, str] | None = None,
    **options: object,
) -> tuple[bytes, Result]:
    """Send everything at once to `qmail-popup mail.example.org WORDS...`. Return the challenge, and the rest."""
    whole_environ = ENVIRON | CLIENT | dict(environ or {})
    done = subprocess.run(
        [script("qmail-popup"), HOST, *words],
        input=sent,
        capture_output=True,
        env=whole_environ,
        **options,  # type: ignore[call-overload]
    )
    greeting = re.match(GREETING, done.stdout)
    assert greeting, done
    return greeting[1], Result(done.stdout[greeting.end() :], done.stderr, done.returncode)


def sh(code: str) -> list[str]:
    """Return the words that run a line of shell as the checker."""
    return ["/bin/sh", "-c", code]


# -- the dialogue


DIALOGUE = {
    "NOOP": (b"NOOP\r\n", OK),
    "QUIT": (b"QUIT\r\nNOOP\r\n", OK),
    "no input": (b"", b""),
    "any user": (b"USER x y\r\n", OK),
    "any case, LF alone": (b"user x\nnOOp\n", OK * 2),
    "USER without an argument": (b"USER\r\nUSER  \r\n", b"-ERR syntax error\r\n" * 2),
    "PASS without an argument": (b"USER x\r\nPASS\r\nPASS \r\n", OK + b"-ERR syntax error\r\n" * 2),
    "PASS first": (b"PASS x\r\nPASS\r\n", b"-ERR USER first\r\n" * 2),
    "APOP without a digest": (b"APOP\r\nAPOP joe\r\n", b"-ERR syntax error\r\n" * 2),
    "commands of other states": (b"STAT\r\nAUTH\r\nSTLS\r\n\r\n", b"-ERR authorization first\r\n" * 4),
    "capabilities": (b"CAPA\r\n", b"+OK \r\nUSER\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\n.\r\n"),
    "a line too long": (
        b"USER " + b"x" * 9000 + b"\r\nPASS x\r\n",
        b"-ERR line too long\r\n-ERR USER first\r\n",
    ),
    "garbage": (b"\0\xff\r\n\x80 \n", b"-ERR authorization first\r\n" * 2),
}


@pytest.mark.parametrize("case", DIALOGUE)
def test_the_replies_are_the_originals(case: str, checker: Checker) -> None:
    sent, replies = DIALOGUE[case]
    assert popup(sent, [checker.path, "true"])[1] == (replies, b"", 1)
    assert checker.calls == []


@pytest.mark.parametrize("words", [(), ("mail",)])
def test_without_a_checker_the_reply_is_the_usage(words: tuple[str, ...]) -> None:
    done = subprocess.run([script("qmail-popup"), *words], input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout == b"-ERR usage: popup hostname subprogram\r\n"
    assert done.returncode == 1


def test_each_challenge_is_different_and_contains_the_time(checker: Checker) -> None:
    challenges = [popup(b"", [checker.path, "true"])[0] for _ in range(3)]
    numbers, times = zip(*(found.strip(b"<").partition(b"@")[0].split(b".") for found in challenges), strict=True)
    assert len({number for number in numbers if len(number) > 30}) == 3
    assert len(set(times)) <= 2


def test_popnoapop_sends_a_greeting_without_a_challenge(checker: Checker) -> None:
    words = [script("qmail-popup"), HOST, checker.path, "cat"]
    for sent, replies in ((b"APOP x y\r\n", b"-ERR authorization first\r\n"), (JOE + b"behind", OK + b"behind")):
        done = subprocess.run(words, input=sent, capture_output=True, env=ENVIRON | CLIENT | {"POPNOAPOP": "1"})
        assert done.stdout == b"+OK mail.example.org\r\n" + replies
    (fields, _), *more = checker.calls
    assert re.fullmatch(rb"joe@example\.com\0secret\0<\d+\.\d+@mail\.example\.org>\0", fields)
    assert not more


def test_an_empty_popnoapop_is_like_none(checker: Checker) -> None:
    assert popup(b"APOP x y\r\n", [checker.path, "true"], {"POPNOAPOP": ""})[1].stdout == WRONG


def test_a_silent_client_is_disconnected_without_a_reply() -> None:
    impatient = "from qmail_smtpd.pop3 import popup; popup.TIMEOUT = 0.01; popup.main()"
    with Dialogue([sys.executable, "-c", impatient, "h", "true"], ROOT) as client:
        assert client.greeting.startswith(b"+OK <")
        assert client.line() == b""
        assert client.end() == 1


# -- what the checker gets


def test_the_checker_gets_user_password_and_challenge_and_the_rest_of_the_chain(checker: Checker) -> None:
    challenge, done = popup(b"USER x\r\n" + JOE, [checker.path, "true", "more"])
    assert done == (OK * 2, b"", 1)
    assert checker.calls == [(b"joe@example.com\0secret\0%b\0" % challenge, ["true", "more"])]


def test_a_password_may_contain_blanks_and_a_user_any_bytes(checker: Checker) -> None:
    popup(b"USER j\xf6 e \r\nPASS  two words \r\n", [checker.path, "true"])
    assert checker.calls[0][0].startswith(b"j\xf6 e \0two words \0<")


def test_apop_passes_the_digest(checker: Checker) -> None:
    challenge, done = popup(b"APOP joe c4c9334bac560ecc979e58001b3e22fb\r\n", [checker.path, "true"])
    assert checker.calls == [(b"joe\0c4c9334bac560ecc979e58001b3e22fb\0%b\0" % challenge, ["true"])]
    assert done.stdout == WRONG


def test_apop_with_an_empty_digest_is_passed_to_the_checker(checker: Checker) -> None:
    challenge, done = popup(b"APOP joe \r\n", [checker.path, "true"])
    assert checker.calls == [(b"joe\0\0%b\0" % challenge, ["true"])]
    assert done.stdout == WRONG


def test_a_login_beyond_the_limit_of_the_interface_is_a_wrong_password(checker: Checker) -> None:
    _, done = popup(b"USER " + b"x" * 400 + b"\r\nPASS " + b"y" * 100 + b"\r\n", [checker.path, "true"])
    assert done.stdout == OK + WRONG
    assert b"reason=too-long" in done.stderr
    assert checker.calls == []


def test_a_login_up_to_the_limit_of_the_interface_is_checked(tmp_path: Path) -> None:
    words = sh(f"wc -c <&3 >{shlex.quote(str(tmp_path))}/size")
    challenge, _ = popup(b"USER " + b"x" * 400 + b"\r\n", words)
    space = 512 - 400 - 3 - len(challenge)
    for spare, reason in ((6, b""), (-6, b"too-long")):  # challenges differ in length by some digits
        sent = b"USER " + b"x" * 400 + b"\r\nPASS " + b"y" * (space - spare) + b"\r\n"
        assert reason in popup(sent, words)[1].stderr
    assert 495 < int((tmp_path / "size").read_text()) <= 512


def test_the_chain_reads_everything_that_the_client_sends_after_the_password(checker: Checker) -> None:
    _, done = popup(JOE + b"one\r\ntwo\r\nno end", [checker.path, "cat"])
    assert done.stdout == OK + b"one\r\ntwo\r\nno end"


def test_the_chain_inherits_environment_and_directory_and_no_extra_descriptor(checker: Checker, tmp_path: Path) -> None:
    code = "echo $TCPREMOTEIP $X $QMAILHOME; pwd; ls /proc/self/fd"
    _, done = popup(JOE, [checker.path, "sh", "-c", code], {"X": "y", "QMAILHOME": "q"}, cwd=tmp_path)
    descriptors = b"".join(b"%d\n" % number for number in range(5))
    assert done.stdout.startswith(OK + b"192.0.2.1 y q\n%b\n0\n1\n2\n" % bytes(tmp_path))
    # 3 is the descriptor of the fields; 4 is the directory that ls has opened
    assert done.stdout.endswith(b"\n" + descriptors)


def test_the_checker_starts_with_default_signal_actions() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    _, done = popup(JOE, sh("grep SigIgn /proc/self/status; exit 1"), preexec_fn=ignore, restore_signals=True)
    ignored = re.fullmatch(OK.replace(b"+", rb"\+") + rb"SigIgn:\t(\w+)\n" + WRONG, done.stdout)
    assert ignored
    assert int(ignored[1], 16) & 0x7FFFFFFF == 0  # glibc's spawn ignores its own 32 and 33


def test_a_checker_that_does_not_read_its_fields_is_harmless() -> None:
    assert popup(JOE, ["false"])[1].stdout == OK + WRONG
    assert popup(JOE, ["true"])[1].stdout == OK  # only the exit code of the chain counts


# -- the exit codes of the chain


ENDS = {  # user, whose name says how the checker fails -> the reply, the reason in the log
    b"nobody": (WRONG, b"password"),
    b"misuse": (WRONG, b"exit-2"),
    b"exit3": (WRONG, b"password"),
    b"exit79": (WRONG, b"scheme"),
    b"exit99": (WRONG, b"password"),
    b"exit100": (NOT_CHECKED, b"exit-100"),
    b"temp": (NOT_CHECKED, b"exit-111"),
    b"crash": (b"-ERR [SYS/TEMP] aack, child crashed\r\n", b"signal-9"),
}


@pytest.mark.parametrize("user", ENDS)
def test_a_failure_to_check_is_not_a_wrong_password(user: bytes, checker: Checker) -> None:
    reply, reason = ENDS[user]
    _, done = popup(b"USER " + user + b"\r\nPASS x\r\nNOOP\r\n", [checker.path, "true"])
    assert (done.stdout, done.exit) == (OK + reply, 1)
    expected = rb"qmail-popup: event=login pid=\d+ ip=192\.0\.2\.1 result=no reason=%b user=%b\n" % (reason, user)
    assert re.fullmatch(expected, done.stderr), done.stderr


@pytest.mark.parametrize(("code", "reply"), [(0, b""), (1, WRONG), (111, NOT_CHECKED)])
def test_the_exit_code_of_the_chain_decides(code: int, reply: bytes, checker: Checker) -> None:
    _, done = popup(JOE, [checker.path, "sh", "-c", f"echo +OK; exit {code}"])
    assert (done.stdout, done.exit) == (OK + b"+OK\n" + reply, 1)


@pytest.mark.parametrize("program", ["/nonexistent/checker", "no-such-checker", "/etc/passwd", "/tmp", ""])
def test_a_checker_that_cannot_be_run_is_not_a_wrong_password(program: str) -> None:
    _, done = popup(JOE, [program, "true"])
    assert (done.stdout, done.exit) == (OK + NOT_CHECKED, 1)
    assert b" reason=start:" in done.stderr


def test_without_descriptors_the_reply_is_the_originals_with_a_code() -> None:
    code = "import resource; from qmail_smtpd.pop3 import login, popup; "
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); popup.main()"
    done = subprocess.run([sys.executable, "-c", code, HOST, "true"], input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + b"-ERR [SYS/TEMP] unable to open pipe\r\n")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("4", "3"), HOST, "true"], input=JOE, capture_output=True, env=ENVIRON
    )
    assert done.stdout.endswith(OK + b"-ERR [SYS/TEMP] out of descriptors\r\n")
    assert (done.stderr, done.returncode) == (b"qmail-popup: warning: out of descriptors\n", 1)


@pytest.mark.peer
def test_without_processes_the_reply_is_the_originals_with_a_code() -> None:
    calls = "inject=fork,vfork,clone,clone3:error=EAGAIN"
    words = [peer("/usr/bin/strace"), "-qq", "-o", "/dev/null", "-e", calls, script("qmail-popup"), HOST, "true"]
    done = subprocess.run(words, input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + b"-ERR [SYS/TEMP] unable to fork\r\n")


def test_a_user_name_is_one_word_in_the_log(checker: Checker) -> None:
    _, done = popup(b"USER a result=yes\x1b[2J \xff\r\nPASS hunter2\r\n", [checker.path, "true"])
    assert done.stderr.endswith(rb" reason=password user=a\x20result\x3dyes\x1b[2J\x20\xff" + b"\n")
    assert b"hunter2" not in done.stderr


def test_the_log_does_not_go_to_a_client_on_descriptor_2(checker: Checker) -> None:
    client, server = socket.socketpair()
    with client, server:
        words = [script("qmail-popup"), HOST, checker.path, "true"]
        client.sendall(b"USER x\r\nPASS y\r\n")
        subprocess.run(words, stdin=server, stdout=server, stderr=server, env=ENVIRON, timeout=20)
        assert client.recv(1000).partition(b"\r\n")[2] == OK + WRONG


def test_closed_descriptors_end_the_program(checker: Checker) -> None:
    code = 'exec "$0" mail "$1" true <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", code, script("qmail-popup"), checker.path], env=ENVIRON, timeout=20)
    assert done.returncode == 1
    assert checker.calls == []


# -- several attempts


TRIES = {  # $POPAUTHTRIES, input, the replies
    "one": ("1", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "unset": (None, b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "none": ("0", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "nonsense": ("many", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "more digits than Python converts": ("9" * 5000, b"APOP x y\r\n" * 3 + b"QUIT\r\n", WRONG * 3 + OK),
    "two, the second is right": ("2", b"USER x\r\nPASS y\r\n" + JOE + b"behind", OK + WRONG + OK + b"behind"),
    "two, both wrong": ("2", (b"USER x\r\nPASS y\r\n" * 2) + JOE, (OK + WRONG) * 2),
    "each attempt needs its own USER": ("3", b"USER x\r\nPASS y\r\nPASS z\r\n", OK + WRONG + b"-ERR USER first\r\n"),
    "a temporary failure ends the session": ("3", b"USER temp\r\nPASS y\r\n" + JOE, OK + NOT_CHECKED),
    "APOP counts": ("2", b"APOP x y\r\nAPOP x y\r\n" + JOE, WRONG * 2),
    "commands without a login do not count": ("2", b"PASS\r\nUSER\r\nUSER x\r\nPASS y\r\nNOOP\r\n",
                                     b"-ERR USER first\r\n-ERR syntax error\r\n" + OK + WRONG + OK),
}  # fmt: skip


@pytest.mark.parametrize("case", TRIES)
def test_popauthtries_limits_the_login_attempts(case: str, checker: Checker) -> None:
    tries, sent, replies = TRIES[case]
    environ = {} if tries is None else {"POPAUTHTRIES": tries}
    assert popup(sent, [checker.path, "cat"], environ)[1].stdout == replies


# -- passwords without TLS


def home(tmp_path: Path, *files: str) -> dict[str, str]:
    (tmp_path / "control").mkdir()
    for name in files:
        (tmp_path / "control" / name).write_text("")
    return {"QMAILHOME": str(tmp_path)}


CLEAR: dict[str, tuple[tuple[str, ...], str | None, bool]] = {  # control files, client, whether it may log in
    "no certificate": ((), "192.0.2.1", True),
    "a certificate": (("servercert.pem",), "192.0.2.1", False),
    "a certificate and popcleartext": (("servercert.pem", "popcleartext"), "192.0.2.1", True),
    "from this host": (("servercert.pem",), "127.0.0.1", True),
    "from this host by IPv6": (("servercert.pem",), "::1", True),
    "from another host by IPv6": (("servercert.pem",), "2001:db8::1", False),
    "from an unknown address": (("servercert.pem",), None, False),
    "an address that ends in 127": (("servercert.pem",), "192.0.2.127.", False),
}


@pytest.mark.parametrize("case", CLEAR)
def test_where_tls_is_available_a_plaintext_password_is_refused(case: str, checker: Checker, tmp_path: Path) -> None:
    files, client, allowed = CLEAR[case]
    environ = home(tmp_path, *files) | ({"TCPREMOTEIP": client} if client else {"TCPREMOTEIP": ""})
    _, done = popup(b"CAPA\r\n" + JOE, [checker.path, "true"], environ)
    assert (b"\r\nUSER\r\n" in done.stdout) == allowed
    assert done.stdout.endswith(b".\r\n" + (OK if allowed else NO_PLAINTEXT * 2))
    assert len(checker.calls) == allowed


def test_apop_is_allowed_without_tls(checker: Checker, tmp_path: Path) -> None:
    popup(b"APOP x y\r\n", [checker.path, "true"], home(tmp_path, "servercert.pem"))
    assert len(checker.calls) == 1


def test_an_unreadable_control_directory_allows_no_plaintext_password(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "control").write_text("no directory")
    _, done = popup(JOE, [checker.path, "true"], {"QMAILHOME": str(tmp_path)})
    assert done.stdout == NO_PLAINTEXT * 2


@pytest.mark.parametrize("link", ["control", "control/servercert.pem"])
def test_a_dangling_link_allows_no_plaintext_password(checker: Checker, tmp_path: Path, link: str) -> None:
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("nowhere")
    _, done = popup(JOE, [checker.path, "true"], {"QMAILHOME": str(tmp_path)})
    assert done.stdout == NO_PLAINTEXT * 2


# -- the whole chain


def test_a_whole_session_with_qmail_pop3d(checker: Checker, tmp_path: Path) -> None:
    Maildir(tmp_path / "Maildir").put("new/1.host", b"Subject: t\n\nbody\n")
    sent = JOE + b"STAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n"
    _, done = popup(sent, [checker.path, *command()], cwd=tmp_path)
    expected = OK * 2 + b"+OK 1 20\r\n" + OK + b"Subject: t\r\n\r\nbody\r\n.\r\n" + OK * 2
    assert done == (expected, b"", 1)
    assert list((tmp_path / "Maildir/new").iterdir()) == []


def test_a_pop3d_that_refuses_root_looks_like_a_wrong_password(checker: Checker) -> None:
    before = ["unshare", "--user", "--map-root-user"]
    words = [*before, script("qmail-popup"), HOST, checker.path, script("qmail-pop3d"), "Maildir"]
    done = subprocess.run(words, input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + WRONG)
    assert b"qmail-pop3d invoked as uid 0, terminating\n" in done.stderr


@pytest.mark.peer
def test_fail2ban_finds_each_wrong_password_and_nothing_else(checker: Checker, tmp_path: Path) -> None:
    program = peer("/usr/bin/fail2ban-regex")
    page = (ROOT / "docs/qmail-popup.md").read_text()
    block = re.search(r"^    \[Definition\]\n(?:    .*\n)+", page, re.MULTILINE)
    assert block
    (tmp_path / "filter.conf").write_text(re.sub("^    ", "", block[0], flags=re.MULTILINE))
    framed = b"203.0.113.66"
    lines = b""
    for user in (b"nobody", b"a ip=%b result=no reason=password " % framed, b"temp"):
        lines += popup(b"USER " + user + b"\r\nPASS x\r\n", [checker.path, "true"])[1].stderr
    lines += popup(JOE, [checker.path, "true"])[1].stderr
    (tmp_path / "log").write_bytes(b"".join(b"@40000000674300002f3b2c1c " + line for line in lines.splitlines(True)))
    found = subprocess.run(
        [program, "--out", "<ip>", tmp_path / "log", tmp_path / "filter.conf"], capture_output=True, text=True
    )
    assert found.stdout.split() == ["192.0.2.1"] * 2, (found.stdout, found.stderr)


def test_a_login_loads_few_modules(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['h', 'true']; from qmail_smtpd.pop3.popup import main; main()"
    loaded = imported_by_popup(code, tmp_path)
    check(loaded, 25)  # measured: 23


def imported_by_popup(code: str, tmp_path: Path) -> set[str]:
    """Like `imported`, which requires the exit code 0, while qmail-popup always exits with 1."""
    ended = "import os; os._exit = lambda _, end=os._exit: end(0); "
    return imported(["-c", ended + code], tmp_path, JOE) - imported(["-c", "pass"], tmp_path, b"")


def test_a_checker_without_a_slash_is_searched_in_path(checker: Checker) -> None:
    folder = os.path.dirname(checker.path)
    _, done = popup(JOE + b"x", ["checkpassword", "cat"], {"PATH": f"/nonexistent:{folder}:/usr/bin:/bin"})
    assert done.stdout == OK + b"x"
