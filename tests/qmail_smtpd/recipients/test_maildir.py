"""rcptcheck-maildir: Maildirs by a pattern, homes from the users file, as a program and in the session's process."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from qmail_smtpd import child
from qmail_smtpd.recipients import maildir, rcptcheck
from tcpserver import registry
from tcpserver.child.script import Script
from tests.kit.mailhome import make_home
from tests.kit.server import Server
from tests.kit.support import script

YES, NO, LATER = 0, 100, 111
# Root without the capabilities that let it look into every directory.
AS_ANY_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
USERS = "# comment\njoe@example.com:{PLAIN}x::::%s/joe:\nann@example.com:{PLAIN}x\nbob@example.com:::::%s/none:\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    for path in ("joe/Maildir", "example.com/ann", "example.com/list"):
        (tmp_path / "mail" / path).mkdir(parents=True)
    (tmp_path / "mail/example.com/file").write_text("")
    (home / "control/users").write_text(USERS % (tmp_path / "mail", tmp_path / "mail"))
    return home


def check(home: Path, recipient: str | bytes | None, before: Sequence[str] = (), **environ: str) -> tuple[int, bytes]:
    """Run the program, by another one if `before` names it. Return its exit code and its standard error."""
    whole: dict[bytes, bytes] = {os.fsencode(k): os.fsencode(v) for k, v in environ.items()}
    whole |= {b"PATH": b"/usr/bin:/bin", b"QMAILHOME": bytes(home)}
    if recipient is not None:
        whole[b"RECIPIENT"] = os.fsencode(recipient)
    done = subprocess.run([*before, script("rcptcheck-maildir")], env=whole, capture_output=True, check=False)
    assert done.stdout == b""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        ("ann@example.com", YES),
        ("Ann@EXAMPLE.com", YES),
        ("list-request@example.com", YES),
        ("ann-@example.com", YES),
        ("-ann@example.com", NO),
        ("nobody@example.com", NO),
        ("file@example.com", NO),
        ("ann@elsewhere.test", NO),
        ("ann", NO),
        ("", NO),
        ("postmaster", YES),
        ("postmaster@example.com", NO),
        ("@example.com", NO),
        ("..@example.com", NO),
        (".@example.com", NO),
        ("../example.com/ann@example.com", NO),
        ("ann@..", NO),
        ("example.com/ann@.", NO),
        ("%n@example.com", NO),
        ("x" * 800 + "@example.com", NO),
        (b"\xff@example.com", NO),
    ],
)
def test_a_recipient_exists_if_its_maildir_does(home: Path, recipient: str, code: int) -> None:
    pattern = f"{home.parent}/mail/%d/%n"
    assert check(home, recipient, RCPTCHECK_MAILDIR=pattern, RCPTCHECK_DELIMITER="-") == (code, b"")


@pytest.mark.parametrize("pattern", [None, "%h", "%h/Maildir"])
def test_homes_are_those_of_the_users_file(home: Path, pattern: str | None) -> None:
    environ = {} if pattern is None else {"RCPTCHECK_MAILDIR": pattern}
    codes = [check(home, f"{name}@example.com", **environ)[0] for name in ("joe", "JOE", "ann", "bob", "eve", "joe-x")]
    assert codes == [YES, YES, NO, NO, NO, NO]
    assert check(home, "joe-x@example.com", RCPTCHECK_DELIMITER="-", **environ)[0] == YES


@pytest.mark.parametrize("made", ["ü.test", "xn--tda.test"])
def test_where_smtputf8_is_offered_each_spelling_of_the_domain_is_tried(home: Path, made: str) -> None:
    pattern = f"{home.parent}/mail/%d/%n"
    (home.parent / "mail" / made / "joe").mkdir(parents=True)
    (home / "control/users").write_text(f"joe@{made}:x::::{home.parent}/mail/{made}/joe:\n")
    other = "xn--tda.test" if made == "ü.test" else "ü.test"
    assert check(home, f"joe@{other}", RCPTCHECK_MAILDIR=pattern)[0] == NO
    (home / "control/smtputf8").touch()
    for domain in (made, other):
        asked = [check(home, f"{name}@{domain}", RCPTCHECK_MAILDIR=pattern)[0] for name in ("joe", "nobody")]
        assert asked == [YES, NO]
        assert check(home, f"joe-x@{domain}", RCPTCHECK_DELIMITER="-", RCPTCHECK_MAILDIR="%h")[0] == YES


def test_a_percent_sign_is_written_twice(home: Path) -> None:
    (home.parent / "mail/100%").mkdir()
    (home.parent / "mail/100%/u%d").mkdir()
    pattern = f"{home.parent}/mail/100%%/%n"
    assert check(home, "u%d@example.com", RCPTCHECK_MAILDIR=pattern)[0] == YES
    assert check(home, "u@example.com", RCPTCHECK_MAILDIR=pattern)[0] == NO


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("/mail/%x", b"has a % that is not followed by u, n, d, h or %"),
        ("/mail/%n%", b"has a % that is not followed by u, n, d, h or %"),
        ("", b"has neither %u, %n nor %h"),
        ("/mail/%d", b"has neither %u, %n nor %h"),
        ("/mail/%%n", b"has neither %u, %n nor %h"),
    ],
)
def test_a_wrong_pattern_is_one_line_and_accepts_nobody(home: Path, pattern: str, text: bytes) -> None:
    line = b"rcptcheck-maildir: fatal: $RCPTCHECK_MAILDIR " + text + b"\n"
    assert check(home, "ann@example.com", RCPTCHECK_MAILDIR=pattern) == (LATER, line)


def test_without_a_recipient_or_a_users_file_it_cannot_tell(home: Path) -> None:
    assert check(home, None) == (LATER, b"rcptcheck-maildir: fatal: $RECIPIENT is not set\n")
    (home / "control/users").unlink()
    text = b"rcptcheck-maildir: fatal: unable to read %b/control/users: file does not exist\n" % bytes(home)
    assert check(home, "joe@example.com") == (LATER, text)


def test_a_directory_that_may_not_be_looked_into_is_no_refusal(home: Path) -> None:
    (home.parent / "mail/example.com").chmod(0)
    try:
        pattern = f"{home.parent}/mail/%d/%n"
        assert check(home, "ann@example.com", AS_ANY_USER, RCPTCHECK_MAILDIR=pattern)[0] == LATER
    finally:
        (home.parent / "mail/example.com").chmod(0o700)


def test_a_loop_of_links_is_no_refusal(home: Path) -> None:
    (home.parent / "mail/example.com/loop").symlink_to("loop")
    code, stderr = check(home, "loop@example.com", RCPTCHECK_MAILDIR=f"{home.parent}/mail/%d/%n")
    assert (code, stderr) == (LATER, b"rcptcheck-maildir: fatal: unable to look for a Maildir: symbolic link loop\n")


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"], []], ids=["executed", "called", "reused"])
def test_a_session_runs_the_program(home: Path, options: list[str]) -> None:
    environ = {"QMAILHOME": str(home), "RCPTCHECK": script("rcptcheck-maildir")}
    environ["RCPTCHECK_MAILDIR"] = f"{home.parent}/mail/%d/%n"
    data = b"MAIL FROM:<s@s.test>\r\n" + b"".join(
        b"RCPT TO:<%b@example.com>\r\n" % name for name in (b"ann", b"nobody", b"new")
    )
    with Server(["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as server:
        replies = server.ask(data + b"QUIT\r\n").split(b"\r\n")[2:5]
        assert [reply[:3] for reply in replies] == [b"250", b"550", b"550"]
        (home.parent / "mail/example.com/new").mkdir()
        assert server.ask(data + b"QUIT\r\n").split(b"\r\n")[4] == b"250 ok"
        (home / "control/users").unlink()
        assert server.log().count(b"reason=unknown\n") == 3


def test_a_loaded_program_is_called_in_the_process_of_the_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "start", None)  # no process can be started
    program = os.fsencode(script("rcptcheck-maildir"))
    identity = registry.identity_of(os.stat(program))
    monkeypatch.setitem(registry.programs, identity, Script(maildir.main, vars(maildir)))
    environ = {b"QMAILHOME": bytes(home), b"RCPTCHECK_MAILDIR": bytes(home.parent / "mail/%d/%n")}
    ask = [rcptcheck.ask(program, environ, b"s@s.test", name + b"@example.com", b"h", None) for name in (b"ann", b"no")]
    assert ask == [None, rcptcheck.REFUSED]
    environ[b"RCPTCHECK_MAILDIR"] = b"%x"
    assert rcptcheck.ask(program, environ, b"s@s.test", b"ann@example.com", b"h", None) == b"exit-111"
