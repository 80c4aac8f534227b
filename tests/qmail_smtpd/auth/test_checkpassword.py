"""qmail-smtpd with a checker: the checker's input, its verdict, the replies and the log."""

import errno
import hmac
import os
import signal
import time
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qmail_smtpd.auth import checkpassword
from qmail_smtpd.auth.authenticator import configure
from tests.kit.checker import Checker
from tests.kit.login import FAILED, JOE, OK, TROUBLE, answers, plain
from tests.kit.mailhome import CLIENT, CONTROL, Result, make_home, start, talk

NOT_STARTED = b"454 oops, child won't start and I can't auth (#4.3.0)"
QUICK = {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "maxauth": "0\n"})


@pytest.fixture
def checker(tmp_path: Path) -> Checker:
    return Checker(tmp_path / "checker")


def shell_checker(tmp_path: Path, text: str, name: str = "checker.sh") -> str:
    """Write a checker in shell, and return its path."""
    file = tmp_path / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def login(home: Path, words: list[str], text: str, env: dict[str, str] | None = None, hold: float = 0) -> Result:
    return talk(home, text + "QUIT\r\n", {**QUICK, **(env or {})}, hold, words)


@pytest.mark.parametrize(
    ("user", "reply", "reason"),
    [
        (JOE, OK, None),
        ("nobody", FAILED, "password"),
        ("exit3", FAILED, "password"),
        ("exit99", FAILED, "password"),
        ("misuse", TROUBLE, "exit-2"),
        ("exit100", TROUBLE, "exit-100"),
        ("temp", TROUBLE, "exit-111"),
        ("crash", TROUBLE, "signal-9"),
    ],
)
def test_the_exit_status_is_the_verdict(
    home: Path, checker: Checker, user: str, reply: bytes, reason: str | None
) -> None:
    result = login(home, [checker.path, "true"], plain(user))
    assert answers(result) == [reply]
    verdict = f"result=no reason={reason}" if reason else "result=yes"
    assert f" ip=192.0.2.1 {verdict} mechanism=PLAIN user={user}\n".encode() in result.stderr


@pytest.mark.parametrize(
    ("words", "env", "text", "fields"),
    [
        (["{CP}", "true"], {"SMTPAUTH": ""}, plain(JOE), b"joe@example.com\0secret\0"),
        (["{CP}", "true"], {"SMTPAUTH": "+cram"}, plain(JOE), b"joe@example.com\0secret\0\0"),
        (["mx.test", "{CP}", "true"], {"SMTPAUTH": ""}, plain(JOE), b"joe@example.com\0secret\0\0"),
        (["{CP}", "true", "{CP}", "true"], {"SMTPAUTH": ""}, plain(JOE), b"joe@example.com\0secret\0\0"),
    ],
)
def test_the_password_is_on_descriptor_3(
    home: Path, checker: Checker, words: list[str], env: dict[str, str], text: str, fields: bytes
) -> None:
    result = login(home, [word.replace("{CP}", checker.path) for word in words], text, env)
    assert answers(result) == [OK]
    assert checker.calls == [(fields, ["true"])]


RESPONSE_FIRST, CHALLENGE_FIRST = (1, 2), (2, 1)  # the positions of response and challenge; the user is 0


@pytest.mark.parametrize(
    ("words", "env", "order", "host"),
    [
        (["{CP}", "true"], {"SMTPAUTH": "cram"}, RESPONSE_FIRST, "mx.example.org"),
        (["here.test", "{CP}", "true"], {}, CHALLENGE_FIRST, "here.test"),
        (["{CP}", "true", "{CP}", "true"], {}, CHALLENGE_FIRST, "mx.example.org"),
        (["{CP}", "true"], {"SMTPAUTH": "cram", "CRAMORDER": "challenge-first"}, CHALLENGE_FIRST, "mx.example.org"),
        (["here.test", "{CP}", "true"], {"CRAMORDER": "response-first"}, RESPONSE_FIRST, "here.test"),
        (["{CP}", "true"], {"SMTPAUTH": "cram", "CRAMORDER": "x"}, RESPONSE_FIRST, "mx.example.org"),
    ],
)
def test_the_form_of_the_arguments_decides_the_order_of_the_cram_md5_fields(
    home: Path, checker: Checker, words: list[str], env: dict[str, str], order: tuple[int, int], host: str
) -> None:
    unset = {key: value for key, value in QUICK.items() if key != "SMTPAUTH"}
    process = start(home, {**unset, **env}, [word.replace("{CP}", checker.path) for word in words])
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"AUTH CRAM-MD5\r\n")
    process.stdin.flush()
    process.stdout.readline()
    challenge = b64decode(process.stdout.readline()[4:])
    digest = hmac.new(b"secret", challenge, "md5").hexdigest().encode()
    stdout, stderr = process.communicate(b64encode(JOE.encode() + b" " + digest) + b"\r\nQUIT\r\n")
    assert stdout.startswith(OK)
    fields = checker.calls[0][0].split(b"\0")
    assert (fields[0], fields[order[0]], fields[order[1]]) == (JOE.encode(), digest, challenge)
    assert (b"warning: CRAMORDER" in stderr) == (env.get("CRAMORDER") == "x")
    left, _, right = challenge.strip(b"<>").partition(b"@")
    assert right == host.encode()
    assert len(bytes.fromhex(left.partition(b".")[0].decode())) * 8 == 128


OLD = "250-mx.example.org|250-AUTH LOGIN CRAM-MD5 PLAIN|250-AUTH=LOGIN CRAM-MD5 PLAIN|250-PIPELINING|250 8BITMIME"
NEW = "250-mx.example.org|250-PIPELINING|250-8BITMIME|250 AUTH LOGIN PLAIN"
NONE = "250-mx.example.org|250-PIPELINING|250 8BITMIME"


@pytest.mark.parametrize(
    ("words", "env", "ehlo", "cram"),
    [
        ("here.test {CP} true", {}, OLD, "334"),
        ("{CP} true {CP} true", {}, OLD, "334"),
        ("{CP} true", {}, NONE, "503"),
        ("here.test {CP} true", {"SMTPAUTH": ""}, NEW, "504"),
        ("{CP} true {CP} true", {"SMTPAUTH": ""}, NEW, "504"),
        ("{CP} true", {"SMTPAUTH": ""}, NEW, "504"),
        ("here.test {CP} true", {"SMTPAUTH": "-"}, NONE, "503"),
        ("here.test {CP} true", {"SMTPAUTH": "!cram"}, NEW.replace("LOGIN PLAIN", "CRAM-MD5"), "334"),
    ],
)
def test_what_each_form_offers(
    home: Path, checker: Checker, words: str, env: dict[str, str], ehlo: str, cram: str
) -> None:
    unset = {key: value for key, value in QUICK.items() if key != "SMTPAUTH"}
    text = "EHLO x\r\nAUTH CRAM-MD5\r\n*\r\nQUIT\r\n"
    result = talk(home, text, {**unset, **env}, words=words.replace("{CP}", checker.path).split())
    *lines, answer, _ = answers(result)
    assert b"|".join(lines).decode() == ehlo
    assert answer[:3].decode() == cram
    assert b"warning: AUTH is not offered" not in result.stderr


def test_challenges_are_never_the_same(home: Path, checker: Checker) -> None:
    text = "AUTH CRAM-MD5\r\n*\r\n" * 20
    challenges = answers(login(home, [checker.path, "true"], text, {"SMTPAUTH": "cram"}))[::2]
    assert len(set(challenges)) == 20


def test_512_bytes_are_passed_to_the_checker_and_513_are_refused_without_it(home: Path, checker: Checker) -> None:
    user = "u" * (512 - len("\0secret\0"))
    result = login(home, [checker.path, "true"], plain(user) + plain(user + "u"))
    assert answers(result) == [FAILED, FAILED]
    assert [len(fields) for fields, _ in checker.calls] == [512]
    assert b"reason=too-long" in result.stderr
    (home / "control/maxauth").write_text("1\n")
    result = login(home, [checker.path, "true"], plain(user + "u") + plain(JOE))
    assert answers(result)[0] == FAILED
    assert result.stdout.endswith(b"\r\n421 too many failed logins (#4.7.0)\r\n")  # the refusal has counted
    assert len(checker.calls) == 1


def test_output_of_the_checker_does_not_reach_the_client(home: Path, checker: Checker) -> None:
    result = login(home, [checker.path, "true"], plain("loud"))
    assert answers(result) == [OK]
    assert b"250 LEAK" in result.stderr
    assert b"stdin True" in result.stderr  # its stdin is /dev/null, not the client's next command


@pytest.mark.parametrize(("text", "reply"), [("exit 1", FAILED), ("exit 0", OK), ("exit 111", TROUBLE)])
def test_a_checker_may_exit_before_it_has_read(home: Path, tmp_path: Path, text: str, reply: bytes) -> None:
    assert answers(login(home, [shell_checker(tmp_path, text), "true"], plain("u" * 400))) == [reply]


def test_a_checker_found_in_path_must_have_read_the_fields(home: Path, tmp_path: Path, checker: Checker) -> None:
    shell_checker(tmp_path, "exit 0", "mail")
    path = {"PATH": f"{tmp_path}:{checker.folder}:{os.environ['PATH']}"}
    result = login(home, ["mail", "true"], plain(JOE), path)
    assert answers(result) == [TROUBLE]
    assert b"reason=unread" in result.stderr
    assert answers(login(home, ["checkpassword", "true"], plain(JOE), path)) == [OK]


@pytest.mark.parametrize("missing", ["/nonexistent/checkpassword", "nonexistent-checkpassword", "."])
def test_a_checker_that_cannot_be_run_is_reported_at_auth(home: Path, missing: str) -> None:
    result = login(home, [missing, "true"], "EHLO x\r\n" + plain(JOE))
    assert b"250 AUTH LOGIN PLAIN" in result.stdout
    assert answers(result)[-1] == NOT_STARTED
    assert b"reason=start:" in result.stderr


def test_a_missing_interpreter_is_a_454(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "checker"
    file.write_text("#!/nonexistent/python\n")
    file.chmod(0o755)
    assert answers(login(home, [str(file), "true"], plain(JOE))) == [NOT_STARTED]


def test_a_subprogram_that_cannot_be_run_is_a_454(home: Path, tmp_path: Path) -> None:
    checks = shell_checker(tmp_path, 'cat <&3 >/dev/null; exec "$@"')
    assert answers(login(home, [checks, "/nonexistent/true"], plain(JOE))) == [TROUBLE]


@pytest.fixture(params=["pidfd", "no pidfd"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux since 5.3, and systems without pidfd_open: older ones, some sandboxes, FreeBSD's Python."""
    if request.param == "no pidfd":

        def refuse(pid: int) -> int:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(os, "pidfd_open", refuse)


@pytest.mark.usefixtures("kernel")
def test_the_verdict_is_found_on_every_kernel(checker: Checker) -> None:
    words = [checker.path.encode(), b"true"]
    users = {b"joe@example.com": None, b"nobody": b"password", b"temp": b"exit-111", b"crash": b"signal-9"}
    verdicts = {user: checkpassword.check(words, dict(os.environb), user + b"\0secret\0", None) for user in users}
    assert verdicts == users
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("text", ["exec sleep 1000", "kill -STOP $$", "trap '' TERM HUP INT; while :; do :; done"])
def test_a_checker_that_does_not_end_is_killed(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpassword, "TIME_LIMIT", 0.2)
    words = [shell_checker(tmp_path, text).encode(), b"true"]
    assert checkpassword.check(words, dict(os.environb), b"hang\0x\0", None) == b"timeout"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left, not even a zombie


def test_a_verdict_that_comes_before_the_kill_counts(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit passes, and the checker ends before its signal is sent."""

    def ends_too_late(pid: int, deadline: float | None) -> bool:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return False

    monkeypatch.setattr(checkpassword, "ends_in_time", ends_too_late)
    words = [checker.path.encode(), b"true"]
    verdicts = [
        checkpassword.check(words, dict(os.environb), user + b"\0secret\0", None)
        for user in (b"joe@example.com", b"nobody", b"temp")
    ]
    assert verdicts == [None, b"password", b"exit-111"]


def test_the_time_of_the_session_limits_the_checker(home: Path, checker: Checker) -> None:
    (home / "control/timeoutsession").write_text("2\n")
    result = login(home, [checker.path, "true"], plain("hang"))
    assert answers(result)[0] == TROUBLE
    assert b"reason=timeout" in result.stderr


def test_a_refusal_is_not_lost_if_sigchld_was_ignored_at_the_start(home: Path, checker: Checker) -> None:
    """The danger: waitpid finds no child, and the lost status is taken for 0."""
    process = start(
        home, QUICK, [checker.path, "true"], preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    )
    stdout, _ = process.communicate((plain("nobody") + plain(JOE) + "QUIT\r\n").encode())
    assert stdout.split(b"\r\n")[1:3] == [FAILED, OK]


@pytest.mark.usefixtures("kernel")
def test_a_lost_status_does_not_accept_the_login(checker: Checker) -> None:
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        reason = checkpassword.check([checker.path.encode(), b"true"], dict(os.environb), b"joe\0x\0", None)
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert reason == b"no-status"


def test_no_descriptor_is_left_open(checker: Checker) -> None:
    before = len(os.listdir("/proc/self/fd"))
    checkpassword.check([checker.path.encode(), b"true"], dict(os.environb), b"joe\0x\0", None)
    with pytest.raises(FileNotFoundError):
        checkpassword.check([b"/nonexistent"], {}, b"joe\0x\0", None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_checker_has_the_whole_environment_and_descriptors_0_to_3_only(home: Path, tmp_path: Path) -> None:
    reporter = shell_checker(tmp_path, f"cat <&3 >/dev/null; env >{tmp_path}/env; ls /proc/self/fd >{tmp_path}/fds")
    assert answers(login(home, [reporter, "true"], plain(JOE))) == [OK]
    assert "TCPREMOTEIP=192.0.2.1" in (tmp_path / "env").read_text()
    descriptors = (tmp_path / "fds").read_text().split()
    assert {"0", "1", "2", "3"} <= set(descriptors)
    assert len(descriptors) == 6  # one is the directory that ls has opened, one is passed on by the test


def test_the_checker_starts_with_default_sigpipe_and_inherits_other_ignored_signals(home: Path, tmp_path: Path) -> None:
    """authenticate() in qmail-smtpd.c of the patches: sig_pipedefault."""
    reporter = shell_checker(tmp_path, f"cat <&3 >/dev/null; grep SigIgn /proc/self/status >{tmp_path}/ignored; exit 1")
    process = start(home, QUICK, [reporter, "true"], preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.communicate((plain(JOE) + "QUIT\r\n").encode())
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16) & 0x7FFFFFFF  # glibc leaves 32 and 33 ignored
    assert ignored == 1 << signal.SIGHUP - 1


def test_only_a_failed_login_is_delayed_by_authsleep(home: Path, checker: Checker) -> None:
    assert answers(login(home, [checker.path, "true"], plain(JOE), {"AUTHSLEEP": "1000"})) == [OK]

    def delayed(user: str) -> list[bytes]:
        started = time.monotonic()
        result = login(home, [checker.path, "true"], plain(user), {"AUTHSLEEP": "1"})
        assert time.monotonic() - started >= 1
        return answers(result)

    replies = {"nobody": [FAILED], "temp": [TROUBLE], "u" * 512: [FAILED]}
    with ThreadPoolExecutor() as at_once:
        assert dict(zip(replies, at_once.map(delayed, replies), strict=True)) == replies


@pytest.mark.parametrize(
    ("authsleep", "seconds"), [(None, 5), (b"0", 0), (b"17", 17), (b"2s", 2), (b"", 5), (b"-1", 5)]
)
def test_the_default_of_authsleep_is_five_seconds(authsleep: bytes | None, seconds: int) -> None:
    warnings: list[bytes] = []
    environ = {} if authsleep is None else {b"AUTHSLEEP": authsleep}
    _, authenticator = configure([b"/bin/checkpassword", b"true"], environ, warnings)
    assert authenticator is not None
    assert authenticator.pause_seconds == seconds
    assert len(warnings) == (authsleep in (b"", b"-1", b"2s"))


def test_authsleep_without_digits_is_warned_about(home: Path, checker: Checker) -> None:
    result = login(home, [checker.path, "true"], "NOOP\r\n", {"AUTHSLEEP": "none"})
    assert b"warning: AUTHSLEEP does not begin with a digit: using 5\n" in result.stderr
    result = login(home, [checker.path, "true"], "NOOP\r\n", {"AUTHSLEEP": "1m"})
    assert b"warning: AUTHSLEEP has more than digits: using 1\n" in result.stderr


def test_the_session_ends_after_three_failed_logins(home: Path, checker: Checker) -> None:
    (home / "control/maxauth").unlink()
    result = login(home, [checker.path, "true"], plain("nobody") + plain("temp") + plain("nobody") + plain(JOE))
    assert answers(result)[:3] == [FAILED, TROUBLE, FAILED]
    assert result.stdout.endswith(b"421 too many failed logins (#4.7.0)\r\n")
    assert result.status == 1
    assert b"event=refused pid=" in result.stderr
    assert b"reason=maxauth\n" in result.stderr


def test_the_queue_program_gets_the_identity_of_the_user(home: Path, tmp_path: Path, checker: Checker) -> None:
    queue = shell_checker(tmp_path, f"cat >/dev/null; cat <&1 >/dev/null; env >{tmp_path}/env", "queue")
    mail = "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@evil.test>\r\nDATA\r\n.\r\n"
    env = {"QMAILQUEUE": queue, "RELAYCLIENT": "@relay", "TCPREMOTEINFO": "ident"}
    login(home, [checker.path, "true"], mail, env)
    before = (tmp_path / "env").read_text().splitlines()
    assert {"RELAYCLIENT=@relay", "TCPREMOTEINFO=ident"} <= set(before)
    login(home, [checker.path, "true"], plain(JOE) + mail, env)
    assert {"RELAYCLIENT=", f"TCPREMOTEINFO={JOE}"} <= set((tmp_path / "env").read_text().splitlines())


def test_authsenders_is_read_from_the_qmail_home(home: Path, checker: Checker) -> None:
    (home / "control/authsenders").write_text(f"# user: senders\n{JOE}: Joe@ok.test @list.test\nx: *\n")
    mails = "".join(f"MAIL FROM:<{sender}>\r\n" for sender in ("joe@OK.test", "boss@ok.test", "", "a@list.test"))
    refused = b"553 sorry, that sender isn't yours (#5.7.1)"
    result = login(home, [checker.path, "true"], mails + "RSET\r\n" + plain(JOE) + mails)
    assert answers(result)[:6] == [b"250 ok"] * 4 + [b"250 flushed", OK]
    assert answers(result)[6:] == [b"250 ok", refused, b"250 ok", b"250 ok"]
    assert b"sender=boss@ok.test reason=authsenders\n" in result.stderr
    mails = "MAIL FROM:<loud@ok.test>\r\nMAIL FROM:<>\r\n"
    unlisted = answers(login(home, [checker.path, "true"], plain("loud") + mails))
    assert unlisted == [OK, refused, b"250 ok"]


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (["true", "true"], b"AUTH is not offered: the checker may not be true"),
        (["/bin/sh", "true"], b"AUTH is not offered: the checker may not be sh"),
        (["/bin/checkpassword"], b"AUTH is not offered: a checker and a subprogram are needed"),
        ([], b"AUTH is not offered: a checker and a subprogram are needed"),
        (["ls", "/bin/checkpassword", "true"], b"AUTH is not offered: is ls a host or the checker?"),
    ],
)
def test_one_warning_says_why_auth_is_not_offered(home: Path, words: list[str], warning: bytes) -> None:
    result = login(home, words, "EHLO x\r\n" + plain(JOE))
    assert b"AUTH" not in result.stdout.partition(b"503")[0]
    assert answers(result)[-1] == b"503 auth not available (#5.3.3)"
    assert result.stderr.count(warning) == 1
    assert result.stderr.count(b"AUTH is not offered") == 1


def test_required_auth_without_a_checker_refuses_all_mail(home: Path) -> None:
    result = login(home, ["true", "true"], "MAIL FROM:<s@s.test>\r\n", {"SMTPAUTH": "!"})
    assert answers(result) == [b"530 Authorization required (#5.7.1) "]


def test_without_arguments_and_smtpauth_there_is_no_auth_and_no_warning(home: Path) -> None:
    result = talk(home, "EHLO x\r\nAUTH PLAIN\r\nQUIT\r\n")
    assert result.codes == ["220", "250-", "250-", "250", "502", "221"]
    assert b"AUTH" not in result.stderr


def test_the_log_line_of_a_failed_login_cannot_be_forged(home: Path, checker: Checker) -> None:
    hostile = "x ip=198.51.100.7 result=yes\nqmail-smtpd: event=login"
    result = login(home, [checker.path, "true"], f"EHLO a ip=10.0.0.1 b\r\n{plain(hostile)}")
    [line] = [line for line in result.stderr.split(b"\n") if b"event=login" in line]
    assert line.count(b" ip=") == 1
    assert b" ip=192.0.2.1 helo=a\\x20ip\\x3d10.0.0.1\\x20b result=no reason=password mechanism=PLAIN user=x" in line
    assert b"secret" not in result.stderr
