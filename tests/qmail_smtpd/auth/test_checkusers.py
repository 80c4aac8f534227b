"""checkusers: djb's interface, the process of PROG, failures, the modules it loads, and preloading."""

import base64
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qmail_smtpd.auth.checkusers import main
from qmail_smtpd.auth.secret import cram_md5, make
from tests.kit import forked
from tests.kit.checkerrun import ask, fields, run, start
from tests.kit.imports import FORBIDDEN
from tests.kit.mailhome import CLIENT, make_home
from tests.kit.server import PATIENCE, Server, needs_root
from tests.kit.support import script
from tests.kit.tracer import traced

ACCEPTED, REFUSED, MISUSED, UNSUITABLE, FAILED = 0, 1, 2, 79, 111
CHALLENGE = b"<1.2@host>"
HOME_OF_ANN = b"ann:{PLAIN}secret:::Ann:%b:/bin/zsh\n"
SECRETS = {
    b"scram": make(b"SCRAM-SHA-256", b"secret", 4096),
    b"argon2id": make(b"ARGON2ID", b"secret", 1),
    b"bcrypt": make(b"BLF-CRYPT", b"secret", 4),
    b"plain": make(b"PLAIN", b"secret"),
}
USERS = b"".join(b"%b:%b\n" % item for item in SECRETS.items()) + b"broken:{X}y\nempty:\n"
RIGHT = fields(b"plain", b"secret", b"")


class Users:
    """A qmail home with a users file in control/."""

    def __init__(self, home: Path) -> None:
        (home / "control").mkdir(parents=True)
        self.home = home
        self.path = home / "control" / "users"
        self.write(USERS)

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.path.chmod(0o640)

    def check(self, given: bytes, *program: str, **options: object) -> forked.Result:
        environ = {b"QMAILHOME": bytes(self.home), **options.pop("environ", {})}  # type: ignore[dict-item]
        return ask(main, given, program or ("true",), environ, **options)  # type: ignore[arg-type]


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path / "home")


@pytest.mark.parametrize("user", SECRETS)
def test_only_the_right_password_runs_the_program(user: bytes, users: Users) -> None:
    done = users.check(fields(user, b"secret", b""), "echo", "in")
    assert (done.exit, done.stdout, done.stderr) == (ACCEPTED, b"in\n", b"")
    for wrong in (b"Secret", b"", b"secret2", SECRETS[user], cram_md5(b"secret", CHALLENGE)):
        done = users.check(fields(user, wrong, b""), "echo", "in")
        assert (done.exit, done.stdout, done.stderr) == (REFUSED, b"", b"")


@pytest.mark.parametrize("user", SECRETS)
@pytest.mark.parametrize("digest_first", [True, False])
def test_digests_match_only_plain_secrets(user: bytes, digest_first: bool, users: Users) -> None:
    pair = [cram_md5(b"secret", CHALLENGE), CHALLENGE]
    done = users.check(fields(user, *(pair if digest_first else pair[::-1])))
    assert done.exit == (ACCEPTED if user == b"plain" else UNSUITABLE)
    assert done.stderr == b""
    pair[0] = cram_md5(b"wrong", CHALLENGE)
    assert users.check(fields(user, *pair)).exit == (REFUSED if user == b"plain" else UNSUITABLE)


@pytest.mark.parametrize("user", [b"nobody", b"empty", b"Scram"])
def test_a_digest_of_an_unknown_user_is_refused_like_a_wrong_password(user: bytes, users: Users) -> None:
    assert users.check(fields(user, cram_md5(b"secret", CHALLENGE), CHALLENGE)).exit == REFUSED


@pytest.mark.parametrize("user", SECRETS)
def test_a_wrong_password_that_looks_like_a_digest_is_refused(user: bytes, users: Users) -> None:
    for third in (b"", b"timestamp", b"<1@x"):
        assert users.check(fields(user, cram_md5(b"secret", CHALLENGE), third)).exit == REFUSED


def test_unknown_users_and_users_without_password_are_refused(users: Users) -> None:
    for user in (b"nobody", b"empty", b"", b"Plain", b"plain:{PLAIN}secret", b"# comment"):
        for password in (b"", b"secret", b"-"):
            assert users.check(fields(user, password, b"")).exit == REFUSED


def test_an_unusable_entry_or_file_is_reported_in_one_line(users: Users) -> None:
    done = users.check(fields(b"broken", b"y", b""))
    text = b"the scheme of the password is not one of SCRAM-SHA-256 ARGON2ID BLF-CRYPT PLAIN\n"
    assert (done.exit, done.stderr) == (FAILED, b"checkusers: fatal: %b, line 5: %b" % (bytes(users.path), text))
    users.path.chmod(0o644)
    done = users.check(RIGHT)
    text = b"checkusers: fatal: %b is world-readable or world-writable: chmod o-rw\n" % bytes(users.path)
    assert (done.exit, done.stderr) == (FAILED, text)
    users.path.unlink()
    done = users.check(RIGHT)
    text = b"checkusers: fatal: unable to read %b: file does not exist\n" % bytes(users.path)
    assert (done.exit, done.stderr) == (FAILED, text)


def test_the_file_is_checkusers_file_or_in_the_qmail_home(users: Users, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"plain:{PLAIN}other\n")
    other.chmod(0o600)
    named = {b"CHECKUSERS_FILE": bytes(other)}
    assert users.check(fields(b"plain", b"other"), environ=named).exit == ACCEPTED
    assert users.check(RIGHT, environ=named).exit == REFUSED
    done = ask(main, RIGHT, environ={b"QMAILHOME": b"/nonexistent"})
    assert b"/nonexistent/control/users" in done.stderr
    assert b" control/users" in users.check(RIGHT, environ={b"CHECKUSERS_FILE": b"control/users"}, cwd=tmp_path).stderr


@pytest.mark.parametrize("given", [b"", b"plain", b"plain\0", b"plain\0secret", b"x" * 512])
def test_fewer_than_two_fields_are_misuse(given: bytes, users: Users) -> None:
    done = users.check(given)
    assert (done.exit, done.stderr) == (MISUSED, b"checkusers: fatal: no login and password on descriptor 3\n")


def test_two_fields_are_enough(users: Users) -> None:
    assert users.check(b"plain\0secret\0").exit == ACCEPTED
    assert users.check(b"plain\0secret\0x").exit == ACCEPTED


def test_512_bytes_are_accepted_and_513_refused(users: Users) -> None:
    assert users.check(RIGHT + b"x" * (512 - len(RIGHT))).exit == ACCEPTED
    done = users.check(RIGHT + b"x" * (513 - len(RIGHT)))
    assert (done.exit, done.stderr) == (REFUSED, b"")
    assert users.check(RIGHT + b"x" * 60000).exit == REFUSED


def test_a_missing_program_is_misuse(users: Users) -> None:
    done = ask(main, RIGHT, ())
    text = b"checkusers: usage: checkusers prog | --set user | --delete user | --list\n"
    assert (done.exit, done.stderr) == (MISUSED, text)


def test_an_unreadable_descriptor_3_is_a_failure(users: Users, tmp_path: Path) -> None:
    def directory() -> None:
        os.dup2(os.open(tmp_path, os.O_RDONLY), 3)

    done = users.check(RIGHT, before=lambda: os.close(3))
    assert done.exit == FAILED
    assert done.stderr == b"checkusers: fatal: unable to read descriptor 3: file descriptor not open\n"
    done = users.check(RIGHT, before=directory)
    assert (done.exit, done.stderr[-15:]) == (FAILED, b"is a directory\n")


def environ_of(users: Users) -> dict[str, str]:
    """Return the environment for a real process."""
    return {"PATH": "/usr/bin:/bin", "QMAILHOME": str(users.home)}


def test_it_waits_for_the_end_of_slow_input(users: Users) -> None:
    """It decides only at the end of file. A caller that does not close the pipe must have its own time limit."""
    process, writer = start([script("checkusers"), "echo", "in"], environ_of(users))
    for byte in RIGHT:
        os.write(writer, bytes([byte]))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    os.close(writer)
    assert process.communicate(timeout=PATIENCE) == (b"in\n", b"")
    assert process.returncode == ACCEPTED


def test_it_waits_for_the_end_after_512_bytes(users: Users) -> None:
    for more, status in ((b"x", REFUSED), (b"", ACCEPTED)):
        process, writer = start([script("checkusers"), "echo", "in"], environ_of(users))
        os.write(writer, RIGHT + b"x" * (512 - len(RIGHT)))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        os.write(writer, more)
        os.close(writer)
        assert process.wait(PATIENCE) == status
        process.communicate()


def test_it_does_not_wait_for_the_end_after_513_bytes(users: Users) -> None:
    process, writer = start([script("checkusers"), "echo", "in"], environ_of(users))
    os.write(writer, RIGHT + b"x" * (513 - len(RIGHT)))
    assert process.communicate(timeout=PATIENCE) == (b"", b"")
    assert process.returncode == REFUSED
    os.close(writer)


def test_the_program_has_user_home_and_shell_of_the_entry(users: Users, tmp_path: Path) -> None:
    home = tmp_path / "ann"
    home.mkdir()
    users.write(USERS + HOME_OF_ANN % bytes(home))
    supervisor = {b"HOME": b"/root", b"USER": b"root", b"SHELL": b"/bin/false", b"X": b"1"}
    done = users.check(fields(b"ann", b"secret"), "sh", "-c", "env; pwd; id -u", environ=supervisor)
    found = done.stdout.splitlines()
    assert {b"USER=ann", b"HOME=" + bytes(home), b"SHELL=/bin/zsh", b"X=1"} <= set(found)
    assert found[-2:] == [bytes(home), b"%d" % os.getuid()]


def test_without_a_home_field_the_directory_is_kept_and_home_unset(users: Users, tmp_path: Path) -> None:
    supervisor = {b"HOME": b"/root", b"SHELL": b"/bin/false"}
    done = users.check(RIGHT, "sh", "-c", 'echo "$USER ${HOME-unset} $SHELL"; pwd', environ=supervisor, cwd=tmp_path)
    assert done.stdout == b"plain unset /bin/sh\n%b\n" % bytes(tmp_path)


def test_a_missing_home_directory_is_a_failure(users: Users, tmp_path: Path) -> None:
    users.write(HOME_OF_ANN % b"/nonexistent/ann")
    done = users.check(fields(b"ann", b"secret"), "echo", "in")
    text = b"checkusers: fatal: unable to chdir to /nonexistent/ann: file does not exist\n"
    assert (done.exit, done.stdout, done.stderr) == (FAILED, b"", text)
    assert users.check(fields(b"ann", b"wrong")).exit == REFUSED


@needs_root
def test_an_entry_with_a_uid_is_refused_as_root(users: Users) -> None:
    users.write(b"ann:{PLAIN}secret:1000:1000\nzero:{PLAIN}secret:0:0\nbob:{PLAIN}secret::1000\n")
    for user, line in ((b"ann", 1), (b"zero", 2)):
        done = users.check(fields(user, b"secret"), "echo", "in")
        text = b"checkusers: fatal: %b, line %d: it has a uid, so checkusers must not run as root\n"
        assert (done.exit, done.stdout, done.stderr) == (FAILED, b"", text % (bytes(users.path), line))
        assert users.check(fields(user, b"wrong")).exit == REFUSED
    assert users.check(fields(b"bob", b"secret")).exit == ACCEPTED


@needs_root
def test_without_root_the_uid_is_not_changed(users: Users, tmp_path: Path) -> None:
    def nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    users.write(b"ann:{PLAIN}secret:1000:1000\n")
    os.chown(users.path, 0, 65534)
    named = {b"CHECKUSERS_FILE": b"users"}  # relative: the account `nobody` may not search the directories above
    program = ("sh", "-c", "id -u; id -g")
    done = users.check(fields(b"ann", b"secret"), *program, environ=named, cwd=users.path.parent, before=nobody)
    assert (done.stdout, done.exit) == (b"65534\n65534\n", ACCEPTED)


def test_the_program_inherits_no_descriptor_of_the_checker(users: Users) -> None:
    descriptors = {name.encode() for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    before = {name for name in descriptors if os.get_inheritable(int(name))}
    done = users.check(RIGHT, "ls", "/proc/self/fd")
    assert set(done.stdout.split()) <= {b"0", b"1", b"2", b"3", *before}  # 3: the directory that ls has opened
    assert users.check(RIGHT, "sh", "-c", "cat <&3 2>/dev/null || echo closed").stdout == b"closed\n"


def test_the_exit_code_is_that_of_the_program(users: Users) -> None:
    assert users.check(RIGHT, "sh", "-c", "exit 7").exit == 7


def test_a_program_that_cannot_be_run_is_a_failure(users: Users) -> None:
    done = users.check(RIGHT, "/nonexistent/prog")
    text = b"checkusers: fatal: unable to run /nonexistent/prog: file does not exist\n"
    assert (done.exit, done.stderr) == (FAILED, text)


def test_a_relative_program_name_is_resolved_in_the_users_home(users: Users, tmp_path: Path) -> None:
    """As with checkpassword, which changes to that directory. Use an absolute path, or a name in PATH."""
    home = tmp_path / "ann"
    home.mkdir()
    (home / "prog").write_text("#!/bin/sh\necho hers\n")
    (home / "prog").chmod(0o755)
    users.write(HOME_OF_ANN % bytes(home))
    assert users.check(fields(b"ann", b"secret"), "./prog", cwd=tmp_path).stdout == b"hers\n"


def test_a_bug_is_a_failure_and_not_a_wrong_password(users: Users) -> None:
    """Python's own exit code 1 would mean a wrong password."""
    code = "from qmail_smtpd.auth import checker; checker.run('x', 'x', lambda *_: 1 / 0)"
    done = run([sys.executable, "-c", code, "true"], RIGHT, environ_of(users))
    assert done.exit == FAILED
    assert b"ZeroDivisionError" in done.stderr


def test_a_variable_without_a_name_is_not_passed_on(users: Users) -> None:
    words = [f"{name}={value}" for name, value in environ_of(users).items()]
    assert run(["env", "-i", "=x", *words, script("checkusers"), "env"], RIGHT, environ_of(users)).exit == ACCEPTED


MODULES = {b"plain": 25, b"scram": 27}  # measured


@pytest.mark.parametrize("user", MODULES)
def test_a_login_loads_only_what_it_needs(user: bytes, users: Users) -> None:
    bare = imported(["-c", "pass"], b"", users)
    loaded = imported([script("checkusers"), "true"], fields(user, b"secret"), users)
    extra = loaded - bare
    assert {"hmac", "qmail_smtpd.auth.users"} <= extra
    assert not {module for module in extra if module.split(".")[0] in FORBIDDEN - {"hmac"}}
    assert not {"argon2", "bcrypt", "scramp", "unicodedata"} & extra
    assert len(extra) <= MODULES[user], sorted(extra)


def imported(words: list[str], given: bytes, users: Users) -> set[str]:
    done = run([sys.executable, "-X", "importtime", *words], given, environ_of(users))
    assert done.exit == 0
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


PRELOADED = ["--preload", "qmail-smtpd", "--preload", "checkusers"]


def submission(users: Users, options: list[str]) -> Server:
    """Return a server whose sessions use checkusers."""
    make_home(users.home.parent / "mail")
    (users.home.parent / "mail/control/users").write_bytes(users.path.read_bytes())
    (users.home.parent / "mail/control/users").chmod(0o640)
    environ = {**CLIENT, "QMAILHOME": str(users.home.parent / "mail"), "SMTPAUTH": "+cram", "AUTHSLEEP": "0"}
    words = ["-HRl0", *options, "127.0.0.1", "0", script("qmail-smtpd"), script("checkusers"), "true"]
    return Server(words, environ=environ)


def plain(user: bytes, password: bytes) -> bytes:
    return b"AUTH PLAIN " + b64(b"\0%b\0%b" % (user, password)) + b"\r\nQUIT\r\n"


@pytest.mark.parametrize("options", [["--exec"], PRELOADED], ids=["exec'd", "preloaded"])
def test_sessions_use_it_for_every_scheme(options: list[str], users: Users) -> None:
    with submission(users, options) as server:
        for user in SECRETS:
            assert b"\r\n235 " in server.ask(plain(user, b"secret")), server.log()
            assert b"\r\n535 " in server.ask(plain(user, b"wrong"))
        assert b"\r\n535 " in server.ask(plain(b"nobody", b"secret"))
        assert b"\r\n454 " in server.ask(plain(b"broken", b"y"))
        (users.home.parent / "mail/control/users").write_bytes(b"plain:{PLAIN}changed\n")
        assert b"\r\n235 " in server.ask(plain(b"plain", b"changed"))
        assert b"\r\n535 " in server.ask(plain(b"plain", b"secret"))


@pytest.mark.peer
@pytest.mark.parametrize(("options", "execs"), [(["--exec"], True), (PRELOADED, False)], ids=["exec'd", "preloaded"])
def test_if_preloaded_it_is_called_and_not_executed(
    options: list[str], execs: bool, users: Users, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with submission(users, options) as server, traced(server.pid, "-e", "trace=execve", "-o", trace):
        assert b"\r\n235 " in server.ask(plain(b"plain", b"secret"))
    text = trace.read_text()
    assert ("checkusers" in text) == execs
    assert "/true" in text  # PROG is not preloaded, so it is executed


def test_simultaneous_preloaded_logins_are_independent(users: Users) -> None:
    replies: list[tuple[int, bytes]] = []

    def client(number: int) -> None:
        output = server.ask(plain(b"plain", b"secret" if number % 2 else b"wrong"))
        replies.append((number, output.split(b"\r\n")[1][:3]))

    with submission(users, PRELOADED) as server:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(replies) == [(number, b"235" if number % 2 else b"535") for number in range(16)]


@pytest.mark.parametrize("name", ["checkusers", "cmd5checkpw"])
def test_a_preloading_parent_loads_only_cheap_modules(name: str) -> None:
    code = f"import sys; from qmail_smtpd.auth import {name}; {name}.before_fork({{}}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split()
    assert {"hmac", "hashlib"} <= set(modules)
    assert not {"argon2", "bcrypt", "scramp", "click", "typing", "ssl", "enum"} & set(modules)
