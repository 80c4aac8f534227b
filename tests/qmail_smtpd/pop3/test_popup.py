"""qmail-popup as a process: the dialogue, what a checker is told, what its end means, who may speak in clear."""

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
IN_CLEAR = b"-ERR no plaintext login without TLS\r\n"
JOE = b"USER joe@example.com\r\nPASS secret\r\n"
CLIENT = {"TCPREMOTEIP": "192.0.2.1"}


@pytest.fixture
def checker(tmp_path: Path) -> Checker:
    return Checker(tmp_path / "checker")


def popup(
    said: bytes,
    words: Sequence[str],
    environ: Mapping[str, str] | None = None,
    **options: object,
) -> tuple[bytes, Result]:
    """Say all at once to `qmail-popup mail.example.org WORDS...`; the challenge, and what came after it."""
    found = ENVIRON | CLIENT | {"QMAILHOME": "/nonexistent"} | dict(environ or {})
    done = subprocess.run(
        [script("qmail-popup"), HOST, *words],
        input=said,
        capture_output=True,
        env=found,
        **options,  # type: ignore[call-overload]
    )
    greeting = re.match(GREETING, done.stdout)
    assert greeting, done
    return greeting[1], Result(done.stdout[greeting.end() :], done.stderr, done.returncode)


def sh(code: str) -> list[str]:
    """Words for a checker that is a line of shell."""
    return ["/bin/sh", "-c", code]


# -- the dialogue


DIALOGUE = {
    "nothing": (b"NOOP\r\n", OK),
    "the end": (b"QUIT\r\nNOOP\r\n", OK),
    "nobody says anything": (b"", b""),
    "a user, whoever it is": (b"USER x y\r\n", OK),
    "any case, LF alone": (b"user x\nnOOp\n", OK * 2),
    "USER without one": (b"USER\r\nUSER  \r\n", b"-ERR syntax error\r\n" * 2),
    "PASS without one": (b"USER x\r\nPASS\r\nPASS \r\n", OK + b"-ERR syntax error\r\n" * 2),
    "PASS first": (b"PASS x\r\nPASS\r\n", b"-ERR USER first\r\n" * 2),
    "APOP without a digest": (b"APOP\r\nAPOP joe\r\n", b"-ERR syntax error\r\n" * 2),
    "what is for those within": (b"STAT\r\nAUTH\r\nSTLS\r\n\r\n", b"-ERR authorization first\r\n" * 4),
    "capabilities": (b"CAPA\r\n", b"+OK \r\nUSER\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\n.\r\n"),
    "a line without end": (b"USER " + b"x" * 9000 + b"\r\nPASS x\r\n", b"-ERR line too long\r\n-ERR USER first\r\n"),
    "garbage": (b"\0\xff\r\n\x80 \n", b"-ERR authorization first\r\n" * 2),
}


@pytest.mark.parametrize("case", DIALOGUE)
def test_the_answers_are_the_originals(case: str, checker: Checker) -> None:
    said, answers = DIALOGUE[case]
    assert popup(said, [checker.path, "true"])[1] == (answers, b"", 1)
    assert checker.asked == []


@pytest.mark.parametrize("words", [(), ("mail",)])
def test_without_a_checker_the_client_reads_the_usage(words: tuple[str, ...]) -> None:
    done = subprocess.run([script("qmail-popup"), *words], input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout == b"-ERR usage: popup hostname subprogram\r\n"
    assert done.returncode == 1


def test_the_challenge_is_another_one_each_time_and_holds_the_time(checker: Checker) -> None:
    challenges = [popup(b"", [checker.path, "true"])[0] for _ in range(3)]
    numbers, times = zip(*(found.strip(b"<").partition(b"@")[0].split(b".") for found in challenges), strict=True)
    assert len({number for number in numbers if len(number) > 30}) == 3
    assert len(set(times)) <= 2


def test_a_greeting_without_a_challenge_is_for_checkers_that_know_no_apop(checker: Checker) -> None:
    words = [script("qmail-popup"), HOST, checker.path, "cat"]
    for said, answers in ((b"APOP x y\r\n", b"-ERR authorization first\r\n"), (JOE + b"behind", OK + b"behind")):
        done = subprocess.run(words, input=said, capture_output=True, env=ENVIRON | CLIENT | {"POPNOAPOP": "1"})
        assert done.stdout == b"+OK mail.example.org\r\n" + answers
    (fields, _), *more = checker.asked
    assert re.fullmatch(rb"joe@example\.com\0secret\0<\d+\.\d+@mail\.example\.org>\0", fields)
    assert not more


def test_an_empty_variable_asks_for_no_other_greeting(checker: Checker) -> None:
    assert popup(b"APOP x y\r\n", [checker.path, "true"], {"POPNOAPOP": ""})[1].stdout == WRONG


def test_a_silent_client_is_left_after_a_while_without_a_word() -> None:
    hasty = "from qmail_smtpd.pop3 import popup; popup.TIMEOUT = 0.01; popup.main()"
    with Dialogue([sys.executable, "-c", hasty, "h", "true"], ROOT) as client:
        assert client.greeting.startswith(b"+OK <")
        assert client.line() == b""
        assert client.end() == 1


# -- what the checker gets


def test_the_checker_gets_user_password_and_challenge_and_the_rest_of_the_chain(checker: Checker) -> None:
    challenge, done = popup(b"USER x\r\n" + JOE, [checker.path, "true", "more"])
    assert done == (OK * 2, b"", 1)
    assert checker.asked == [(b"joe@example.com\0secret\0%b\0" % challenge, ["true", "more"])]


def test_a_password_may_have_blanks_and_a_user_any_bytes(checker: Checker) -> None:
    popup(b"USER j\xf6 e \r\nPASS  two words \r\n", [checker.path, "true"])
    assert checker.asked[0][0].startswith(b"j\xf6 e \0two words \0<")


def test_apop_hands_over_the_digest(checker: Checker) -> None:
    challenge, done = popup(b"APOP joe c4c9334bac560ecc979e58001b3e22fb\r\n", [checker.path, "true"])
    assert checker.asked == [(b"joe\0c4c9334bac560ecc979e58001b3e22fb\0%b\0" % challenge, ["true"])]
    assert done.stdout == WRONG


def test_apop_with_a_blank_for_a_digest_is_for_the_checker_to_refuse(checker: Checker) -> None:
    challenge, done = popup(b"APOP joe \r\n", [checker.path, "true"])
    assert checker.asked == [(b"joe\0\0%b\0" % challenge, ["true"])]
    assert done.stdout == WRONG


def test_more_than_a_checker_takes_is_a_wrong_password(checker: Checker) -> None:
    _, done = popup(b"USER " + b"x" * 400 + b"\r\nPASS " + b"y" * 100 + b"\r\n", [checker.path, "true"])
    assert done.stdout == OK + WRONG
    assert b"reason=too-long" in done.stderr
    assert checker.asked == []


def test_the_last_byte_that_a_checker_takes_is_not_too_much(tmp_path: Path) -> None:
    words = sh(f"wc -c <&3 >{shlex.quote(str(tmp_path))}/size")
    challenge, _ = popup(b"USER " + b"x" * 400 + b"\r\n", words)
    room = 512 - 400 - 3 - len(challenge)
    for spare, reason in ((6, b""), (-6, b"too-long")):  # a challenge may be some digits shorter than another
        said = b"USER " + b"x" * 400 + b"\r\nPASS " + b"y" * (room - spare) + b"\r\n"
        assert reason in popup(said, words)[1].stderr
    assert 495 < int((tmp_path / "size").read_text()) <= 512


def test_the_client_is_the_chains_with_all_that_it_says_behind_the_password(checker: Checker) -> None:
    _, done = popup(JOE + b"one\r\ntwo\r\nno end", [checker.path, "cat"])
    assert done.stdout == OK + b"one\r\ntwo\r\nno end"


def test_the_chain_has_the_environment_and_the_directory_and_no_descriptor_more(
    checker: Checker, tmp_path: Path
) -> None:
    code = "echo $TCPREMOTEIP $X $QMAILHOME; pwd; ls /proc/self/fd"
    _, done = popup(JOE, [checker.path, "sh", "-c", code], {"X": "y", "QMAILHOME": "q"}, cwd=tmp_path)
    descriptors = b"".join(b"%d\n" % number for number in range(5))
    assert done.stdout.startswith(OK + b"192.0.2.1 y q\n%b\n0\n1\n2\n" % bytes(tmp_path))
    # 3 is what Checker leaves of the fields; 4 is the directory that ls has opened
    assert done.stdout.endswith(b"\n" + descriptors)


def test_the_checker_starts_with_the_default_signals() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    _, done = popup(JOE, sh("grep SigIgn /proc/self/status; exit 1"), preexec_fn=ignore, restore_signals=True)
    ignored = re.fullmatch(OK.replace(b"+", rb"\+") + rb"SigIgn:\t(\w+)\n" + WRONG, done.stdout)
    assert ignored
    assert int(ignored[1], 16) & 0x7FFFFFFF == 0  # glibc leaves its own two ignored, from 32 on, where it spawns


def test_a_checker_that_reads_nothing_is_no_trouble() -> None:
    assert popup(JOE, ["false"])[1].stdout == OK + WRONG
    assert popup(JOE, ["true"])[1].stdout == OK  # the chain has ended well, whatever it was


# -- what its end means


ENDS = {  # user -> the answer, the reason in the log
    b"nobody": (WRONG, b"password"),
    b"misuse": (WRONG, b"exit-2"),
    b"exit3": (WRONG, b"password"),
    b"exit99": (WRONG, b"password"),
    b"exit100": (NOT_CHECKED, b"exit-100"),
    b"temp": (NOT_CHECKED, b"exit-111"),
    b"crash": (b"-ERR [SYS/TEMP] aack, child crashed\r\n", b"signal-9"),
}


@pytest.mark.parametrize("user", ENDS)
def test_a_failure_to_check_is_not_a_wrong_password(user: bytes, checker: Checker) -> None:
    answer, reason = ENDS[user]
    _, done = popup(b"USER " + user + b"\r\nPASS x\r\nNOOP\r\n", [checker.path, "true"])
    assert (done.stdout, done.exit) == (OK + answer, 1)
    wanted = rb"qmail-popup: event=login pid=\d+ ip=192\.0\.2\.1 result=no reason=%b user=%b\n" % (reason, user)
    assert re.fullmatch(wanted, done.stderr), done.stderr


@pytest.mark.parametrize(("code", "answer"), [(0, b""), (1, WRONG), (111, NOT_CHECKED)])
def test_what_the_chain_ends_with_is_what_counts(code: int, answer: bytes, checker: Checker) -> None:
    _, done = popup(JOE, [checker.path, "sh", "-c", f"echo +OK; exit {code}"])
    assert (done.stdout, done.exit) == (OK + b"+OK\n" + answer, 1)


@pytest.mark.parametrize("program", ["/nonexistent/checker", "no-such-checker", "/etc/passwd", "/tmp", ""])
def test_a_checker_that_cannot_be_run_is_not_a_wrong_password(program: str) -> None:
    _, done = popup(JOE, [program, "true"])
    assert (done.stdout, done.exit) == (OK + NOT_CHECKED, 1)
    assert b" reason=start:" in done.stderr


def test_without_descriptors_the_answer_is_the_originals_with_a_code() -> None:
    code = "import resource; from qmail_smtpd.pop3 import login, popup; "
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); popup.main()"
    done = subprocess.run([sys.executable, "-c", code, HOST, "true"], input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + b"-ERR [SYS/TEMP] unable to open pipe\r\n")


@pytest.mark.peer
def test_without_processes_the_answer_is_the_originals_with_a_code() -> None:
    calls = "inject=fork,vfork,clone,clone3:error=EAGAIN"
    words = [peer("/usr/bin/strace"), "-qq", "-o", "/dev/null", "-e", calls, script("qmail-popup"), HOST, "true"]
    done = subprocess.run(words, input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + b"-ERR [SYS/TEMP] unable to fork\r\n")


def test_what_a_client_calls_itself_stays_one_word_in_the_log(checker: Checker) -> None:
    _, done = popup(b"USER a result=yes\x1b[2J \xff\r\nPASS hunter2\r\n", [checker.path, "true"])
    assert done.stderr.endswith(rb" reason=password user=a\x20result\x3dyes\x1b[2J\x20\xff" + b"\n")
    assert b"hunter2" not in done.stderr


def test_the_log_does_not_go_to_a_client_on_descriptor_2(checker: Checker) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [script("qmail-popup"), HOST, checker.path, "true"]
        ours.sendall(b"USER x\r\nPASS y\r\n")
        subprocess.run(words, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRON, timeout=20)
        assert ours.recv(1000).partition(b"\r\n")[2] == OK + WRONG


def test_closed_descriptors_are_the_end(checker: Checker) -> None:
    code = 'exec "$0" mail "$1" true <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", code, script("qmail-popup"), checker.path], env=ENVIRON, timeout=20)
    assert done.returncode == 1
    assert checker.asked == []


# -- more than one try


TRIES = {  # $POPAUTHTRIES, what the client says -> the answers
    "one": ("1", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "unset": (None, b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "none": ("0", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "nonsense": ("many", b"USER x\r\nPASS y\r\n" + JOE, OK + WRONG),
    "more digits than Python takes": ("9" * 5000, b"APOP x y\r\n" * 3 + b"QUIT\r\n", WRONG * 3 + OK),
    "two, right at last": ("2", b"USER x\r\nPASS y\r\n" + JOE + b"behind", OK + WRONG + OK + b"behind"),
    "two, both wrong": ("2", (b"USER x\r\nPASS y\r\n" * 2) + JOE, (OK + WRONG) * 2),
    "a user is asked for one password": ("3", b"USER x\r\nPASS y\r\nPASS z\r\n", OK + WRONG + b"-ERR USER first\r\n"),
    "trouble ends it": ("3", b"USER temp\r\nPASS y\r\n" + JOE, OK + NOT_CHECKED),
    "APOP counts": ("2", b"APOP x y\r\nAPOP x y\r\n" + JOE, WRONG * 2),
    "what is never asked does not": ("2", b"PASS\r\nUSER\r\nUSER x\r\nPASS y\r\nNOOP\r\n",
                                     b"-ERR USER first\r\n-ERR syntax error\r\n" + OK + WRONG + OK),
}  # fmt: skip


@pytest.mark.parametrize("case", TRIES)
def test_a_client_may_be_wrong_as_often_as_it_may(case: str, checker: Checker) -> None:
    tries, said, answers = TRIES[case]
    environ = {} if tries is None else {"POPAUTHTRIES": tries}
    assert popup(said, [checker.path, "cat"], environ)[1].stdout == answers


# -- passwords in clear


def home(tmp_path: Path, *files: str) -> dict[str, str]:
    (tmp_path / "control").mkdir()
    for name in files:
        (tmp_path / "control" / name).write_text("")
    return {"QMAILHOME": str(tmp_path)}


CLEAR: dict[str, tuple[tuple[str, ...], str | None, bool]] = {  # control files, client -> may it
    "no certificate": ((), "192.0.2.1", True),
    "a certificate": (("servercert.pem",), "192.0.2.1", False),
    "a certificate, and the host wants it": (("servercert.pem", "popcleartext"), "192.0.2.1", True),
    "from this host": (("servercert.pem",), "127.0.0.1", True),
    "from this host by IPv6": (("servercert.pem",), "::1", True),
    "from a stranger by IPv6": (("servercert.pem",), "2001:db8::1", False),
    "from nobody knows where": (("servercert.pem",), None, False),
    "127 elsewhere": (("servercert.pem",), "192.0.2.127.", False),
}


@pytest.mark.parametrize("case", CLEAR)
def test_where_tls_could_be_had_a_password_in_clear_is_refused(case: str, checker: Checker, tmp_path: Path) -> None:
    files, client, allowed = CLEAR[case]
    environ = home(tmp_path, *files) | ({"TCPREMOTEIP": client} if client else {"TCPREMOTEIP": ""})
    _, done = popup(b"CAPA\r\n" + JOE, [checker.path, "true"], environ)
    assert (b"\r\nUSER\r\n" in done.stdout) == allowed
    assert done.stdout.endswith(b".\r\n" + (OK * 2 if allowed else IN_CLEAR * 2)[: None if not allowed else len(OK)])
    assert len(checker.asked) == allowed


def test_apop_may_come_in_clear(checker: Checker, tmp_path: Path) -> None:
    popup(b"APOP x y\r\n", [checker.path, "true"], home(tmp_path, "servercert.pem"))
    assert len(checker.asked) == 1


def test_a_control_directory_that_cannot_be_read_allows_nothing_in_clear(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "control").write_text("no directory")
    _, done = popup(JOE, [checker.path, "true"], {"QMAILHOME": str(tmp_path)})
    assert done.stdout == IN_CLEAR * 2


# -- with the rest


def test_a_whole_session_behind_the_password(checker: Checker, tmp_path: Path) -> None:
    Maildir(tmp_path / "Maildir").put("new/1.host", b"Subject: t\n\nbody\n")
    said = JOE + b"STAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n"
    _, done = popup(said, [checker.path, *command()], cwd=tmp_path)
    wanted = OK * 2 + b"+OK 1 20\r\n" + OK + b"Subject: t\r\n\r\nbody\r\n.\r\n" + OK * 2
    assert done == (wanted, b"", 1)
    assert list((tmp_path / "Maildir/new").iterdir()) == []


def test_a_mail_program_that_refuses_root_looks_like_a_wrong_password(checker: Checker) -> None:
    before = ["unshare", "--user", "--map-root-user"]
    words = [*before, script("qmail-popup"), HOST, checker.path, script("qmail-pop3d"), "Maildir"]
    done = subprocess.run(words, input=JOE, capture_output=True, env=ENVIRON)
    assert done.stdout.endswith(OK + WRONG)
    assert b"qmail-pop3d invoked as uid 0, terminating\n" in done.stderr


@pytest.mark.peer
def test_fail2ban_finds_each_guess_and_nothing_else(checker: Checker, tmp_path: Path) -> None:
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
    loaded = imported_of_popup(code, tmp_path)
    check(loaded, 22)  # measured: 20


def imported_of_popup(code: str, tmp_path: Path) -> set[str]:
    """popup ends with 1, which `imported` does not take: so it ends in another way here."""
    ended = "import os; os._exit = lambda _, end=os._exit: end(0); "
    return imported(["-c", ended + code], tmp_path, JOE) - imported(["-c", "pass"], tmp_path, b"")


def test_a_checker_without_a_slash_is_looked_for_in_path(checker: Checker) -> None:
    where = os.path.dirname(checker.path)
    _, done = popup(JOE + b"x", ["checkpassword", "cat"], {"PATH": f"/nonexistent:{where}:/usr/bin:/bin"})
    assert done.stdout == OK + b"x"
