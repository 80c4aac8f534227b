"""checkusers --set, --delete, --list: terminal, pipe, replacing the file, simultaneous changes."""

import fcntl
import os
import select
import subprocess
import termios
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.auth.checkusers import main
from qmail_smtpd.auth.edit import is_name, with_secret, without_user
from qmail_smtpd.auth.users import verify
from tests.kit.checkerrun import ask, fields
from tests.kit.server import PATIENCE, needs_root, until
from tests.kit.support import script

pytestmark = pytest.mark.slow

LEAST_WORK = ("--rounds", "4096")
OTHER_LINES = b"# users of example.com\n\nann:{PLAIN}x:1000:1000::/home/ann\r\n:\nbob:{MD5}y::::\xff\n  odd line\n"


class UsersHome:
    """A qmail home, and checkusers run in it."""

    def __init__(self, home: Path) -> None:
        (home / "control").mkdir(parents=True)
        self.home = home
        self.path = home / "control/users"
        self.environ = {"PATH": "/usr/bin:/bin", "QMAILHOME": str(home), "LC_ALL": "C.UTF-8"}

    def write(self, content: bytes, mode: int = 0o640) -> None:
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def run(
        self, *words: str | bytes, stdin: bytes = b"secret\n", **options: object
    ) -> "subprocess.CompletedProcess[bytes]":
        command = [script("checkusers"), *words]
        return subprocess.run(command, input=stdin, env=self.environ, capture_output=True, check=False, **options)  # type: ignore[call-overload, no-any-return]

    def check(self, user: bytes, password: bytes) -> int:
        """Run the checker and return its exit code."""
        return ask(main, fields(user, password, b""), environ={b"QMAILHOME": bytes(self.home)}).exit


@pytest.fixture
def home(tmp_path: Path) -> UsersHome:
    return UsersHome(tmp_path / "home")


def test_the_first_user_creates_the_file(home: UsersHome) -> None:
    done = home.run("--set", "joe")
    message = b"checkusers: %b is new: give it the group that the checker runs as\n" % bytes(home.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", message)
    assert home.path.read_bytes().startswith(b"joe:{SCRAM-SHA-256}65536,")
    assert home.path.stat().st_mode & 0o777 == 0o640
    assert (home.check(b"joe", b"secret"), home.check(b"joe", b"wrong")) == (0, 1)
    assert sorted(os.listdir(home.path.parent)) == ["users"]


@pytest.mark.parametrize("umask", [0o077, 0])
def test_the_mode_of_a_new_file_does_not_depend_on_the_umask(umask: int, home: UsersHome) -> None:
    home.run("--set", "joe", *LEAST_WORK, umask=umask)
    assert home.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("scheme", ["SCRAM-SHA-256", "ARGON2ID", "BLF-CRYPT", "PLAIN", "blf-crypt"])
def test_a_password_can_be_set_in_every_scheme(scheme: str, home: UsersHome) -> None:
    assert home.run("--scheme", scheme, "--set", "joe").returncode == 0
    assert home.path.read_bytes().startswith(b"joe:{%b}" % scheme.upper().encode())
    assert (home.check(b"joe", b"secret"), home.check(b"joe", b"wrong")) == (0, 1)


@pytest.mark.parametrize(
    ("scheme", "rounds", "text"),
    [("SCRAM-SHA-256", "5000", b"}5000,"), ("BLF-CRYPT", "5", b"$05$"), ("ARGON2ID", "2", b",t=2,")],
)
def test_rounds_sets_the_work_factor(scheme: str, rounds: str, text: bytes, home: UsersHome) -> None:
    assert home.run("--set", "joe", "--scheme", scheme, "--rounds", rounds).returncode == 0
    assert text in home.path.read_bytes()
    assert home.check(b"joe", b"secret") == 0


def test_other_lines_are_not_changed(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    home.run("--set", "joe", *LEAST_WORK)
    first, _, added = home.path.read_bytes().partition(b"joe:")
    assert (first, added[-1:]) == (OTHER_LINES, b"\n")
    home.run("--set", "joe", *LEAST_WORK, stdin=b"other\n")
    first, _, again = home.path.read_bytes().partition(b"joe:")
    assert first == OTHER_LINES
    assert again != added
    assert (home.check(b"joe", b"secret"), home.check(b"joe", b"other")) == (1, 0)
    assert home.run("--delete", "joe").returncode == 0
    assert home.path.read_bytes() == OTHER_LINES


def test_other_fields_of_the_user_are_not_changed(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    home.run("--set", "ann", "--scheme", "plain")
    assert home.path.read_bytes() == OTHER_LINES.replace(b"{PLAIN}x", b"{PLAIN}secret")


def test_mode_and_owner_are_not_changed(home: UsersHome) -> None:
    home.write(b"ann:{PLAIN}x\n", 0o460)
    if os.geteuid() == 0:
        os.chown(home.path, 12, 34)
    before = home.path.stat()
    assert home.run("--set", "joe", *LEAST_WORK).returncode == 0
    after = home.path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_symbolic_link_is_kept(home: UsersHome, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"ann:{PLAIN}x\n")
    real.chmod(0o600)
    home.path.symlink_to(real)
    assert home.run("--set", "joe", *LEAST_WORK).returncode == 0
    assert home.path.is_symlink()
    assert real.read_bytes().startswith(b"ann:{PLAIN}x\njoe:")


def test_an_open_file_keeps_its_old_content(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    with home.path.open("rb") as file:
        home.run("--set", "ann", *LEAST_WORK)
        assert file.read() == OTHER_LINES


def test_simultaneous_changes_lose_no_user(home: UsersHome) -> None:
    home.write(b"")
    names = [f"user{number}" for number in range(12)]
    threads = [threading.Thread(target=home.run, args=("--set", name, *LEAST_WORK)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = home.run("--list").stdout.decode().splitlines()
    assert sorted(listed) == sorted(f"{name}\tSCRAM-SHA-256" for name in names)
    assert os.listdir(home.path.parent) == ["users"]


def test_it_waits_for_another_change_of_the_file(home: UsersHome) -> None:
    home.write(b"ann:{PLAIN}x\n")
    tmp = home.path.with_name("users.tmp")
    with tmp.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [script("checkusers"), "--set", "joe", *LEAST_WORK], env=home.environ, stdin=subprocess.PIPE
        )
        assert process.stdin
        process.stdin.write(b"secret\n")
        process.stdin.close()
        until(lambda: "flock" in Path(f"/proc/{process.pid}/wchan").read_text() or "lock" in waiting_lock(process.pid))
        held.write(b"ann:{PLAIN}changed\n")
        held.flush()
        os.chmod(tmp, 0o640)
        os.rename(tmp, home.path)
    assert process.wait(PATIENCE) == 0
    assert home.path.read_bytes().startswith(b"ann:{PLAIN}changed\njoe:")


def waiting_lock(pid: int) -> str:
    """Return `lock` if the process waits for a lock: in proc(5), a waiter's line begins with an arrow."""
    lines = Path("/proc/locks").read_text().splitlines()
    return "lock" if any("->" in line and f" {pid} " in line for line in lines) else ""


def test_a_temporary_file_left_by_a_killed_process_does_not_matter(home: UsersHome) -> None:
    home.write(b"ann:{PLAIN}x\n")
    home.path.with_name("users.tmp").write_bytes(b"half a li")
    assert home.run("--set", "joe", *LEAST_WORK).returncode == 0
    assert home.path.read_bytes().startswith(b"ann:{PLAIN}x\njoe:")
    assert os.listdir(home.path.parent) == ["users"]


def test_deleting_a_user_deletes_all_entries(home: UsersHome) -> None:
    home.write(b"joe:{PLAIN}a\nann:{PLAIN}x\njoe:{PLAIN}b\r\njoe\njoey:{PLAIN}c\n")
    assert home.run("--delete", "joe").returncode == 0
    assert home.path.read_bytes() == b"ann:{PLAIN}x\njoey:{PLAIN}c\n"


def test_setting_a_password_deletes_further_entries(home: UsersHome) -> None:
    home.write(b"joe:{PLAIN}a:1:2\nann:{PLAIN}x\njoe:{PLAIN}b\r\njoe\njoey:{PLAIN}c\n")
    assert home.run("--set", "joe", "--scheme", "plain").returncode == 0
    assert home.path.read_bytes() == b"joe:{PLAIN}secret:1:2\nann:{PLAIN}x\njoey:{PLAIN}c\n"


def test_deleting_an_unknown_user_is_an_error(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    done = home.run("--delete", "joe")
    assert (done.returncode, done.stderr) == (100, b"checkusers: fatal: no such user in %b\n" % bytes(home.path))
    assert home.path.read_bytes() == OTHER_LINES
    assert os.listdir(home.path.parent) == ["users"]


def test_list_shows_names_and_schemes_but_no_secrets(home: UsersHome) -> None:
    home.write(OTHER_LINES + b"joe\nempty:\nplain:hidden\n")
    done = home.run("--list")
    expected = b"ann\tPLAIN\nbob\tMD5\n  odd line\t-\njoe\t-\nempty\t-\nplain\t-\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


@pytest.mark.parametrize("name", ["", "#joe", "a:b", "a\nb", "a\tb", "a\x7f", ":"])
@pytest.mark.parametrize("option", ["--set", "--delete"])
def test_names_that_would_break_the_file_are_refused(name: str, option: str, home: UsersHome) -> None:
    home.write(OTHER_LINES)
    done = home.run(option, name)
    assert done.returncode == 100
    assert done.stderr.startswith(b"checkusers: fatal: a name cannot be empty")
    assert home.path.read_bytes() == OTHER_LINES


@pytest.mark.parametrize("name", [b"joe@example.com", "jö".encode(), b"j\xf6", b"two words", b"--odd", b"joe#1"])
def test_other_names_are_stored_byte_for_byte(name: bytes, home: UsersHome) -> None:
    assert home.run(b"--set=" + name, *LEAST_WORK).returncode == 0
    assert home.path.read_bytes().startswith(name + b":{")
    assert home.check(name, b"secret") == 0


PASSWORDS = {  # standard input -> the error message, or None if the password is accepted
    b"secret": None,
    b"two words \n": None,
    b" leading and trailing \t\n": None,
    b"p\xe4ss\n": None,
    b"\n": b"a password cannot be empty or contain a NUL\n",
    b"": b"a password cannot be empty or contain a NUL\n",
    b"a\0b\n": b"a password cannot be empty or contain a NUL\n",
    b"x" * 506 + b"\n": None,
    b"x" * 507 + b"\n": b"name and password are too long for a checker: at most 509 bytes together\n",
    b"x" * 50000 + b"\n": b"name and password are too long for a checker: at most 509 bytes together\n",
}


@pytest.mark.parametrize("line", PASSWORDS, ids=range(len(PASSWORDS)))
def test_the_password_from_a_pipe_is_its_first_line(line: bytes, home: UsersHome) -> None:
    home.write(b"")
    done = home.run("--set", "joe", *LEAST_WORK, stdin=line)
    message = PASSWORDS[line]
    assert (done.returncode, done.stderr) == ((0, b"") if message is None else (100, b"checkusers: fatal: " + message))
    if message is None:
        assert home.check(b"joe", line.removesuffix(b"\n")) == 0
    else:
        assert home.path.read_bytes() == b""


@pytest.mark.parametrize(("words", "line", "message"), [
    (["--scheme", "plain"], b"se:cret\n", b"a PLAIN password cannot contain a colon or end with a CR\n"),
    (["--scheme", "blf-crypt"], b"x" * 73 + b"\n", b"bcrypt takes passwords of at most 72 bytes\n"),
    (["--rounds", "4095"], b"secret\n", b"SCRAM-SHA-256 takes 4096 to 10000000 iterations\n"),
    (["--scheme", "blf-crypt", "--rounds", "3"], b"secret\n", b"BLF-CRYPT takes a cost of 4 to 31\n"),
    (["--scheme", "blf-crypt", "--rounds", "65536"], b"secret\n", b"BLF-CRYPT takes a cost of 4 to 31\n"),
    (["--scheme", "argon2id", "--rounds", "1001"], b"secret\n", b"ARGON2ID takes 1 to 1000 passes\n"),
    (["--scheme", "argon2id", "--rounds", "4294967296"], b"secret\n", b"ARGON2ID takes 1 to 1000 passes\n"),
])  # fmt: skip
def test_passwords_and_rounds_that_a_scheme_does_not_support_are_refused(
    words: list[str], line: bytes, message: bytes, home: UsersHome
) -> None:
    home.write(OTHER_LINES)
    done = home.run("--set", "joe", *words, stdin=line)
    assert (done.returncode, done.stderr) == (100, b"checkusers: fatal: " + message)
    assert home.path.read_bytes() == OTHER_LINES


class Terminal:
    """checkusers --set at a pseudo-terminal. `shown`: the output since the last prompt."""

    def __init__(self, home: UsersHome, *words: str) -> None:
        self.descriptor, slave = os.openpty()

        def take() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        environ = {**home.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(
            [script("checkusers"), *words], env=environ, preexec_fn=take, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.shown = b""

    def type(self, prompt: bytes, text: bytes) -> None:
        """Wait for the prompt, and for echo to be off, then type."""
        while prompt not in self.shown:
            self.read()
        until(lambda: not termios.tcgetattr(self.descriptor)[3] & termios.ECHO)
        self.shown = self.shown.partition(prompt)[2]
        os.write(self.descriptor, text)

    def read(self) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], PATIENCE)
        assert ready, self.shown
        try:
            part = os.read(self.descriptor, 1000)
        except OSError:  # EIO: the other side is closed
            return False
        self.shown += part
        return bool(part)

    def end(self) -> int:
        while self.read():
            pass
        os.close(self.descriptor)
        return self.process.wait(PATIENCE)


def test_at_a_terminal_it_prompts_twice_without_echo(home: UsersHome) -> None:
    home.write(b"")
    terminal = Terminal(home, "--set", "joe", *LEAST_WORK)
    terminal.type(b"Password for joe:", b"secret\n")
    terminal.type(b"Again:", b"secret\n")
    assert terminal.end() == 0
    assert b"secret" not in terminal.shown
    assert (home.check(b"joe", b"secret"), home.check(b"joe", b"wrong")) == (0, 1)


def test_at_a_terminal_it_prompts_again_after_a_mismatch(home: UsersHome) -> None:
    home.write(b"")
    terminal = Terminal(home, "--set", "joe", *LEAST_WORK)
    for first, second in ((b"secret\n", b"secrte\n"), (b"secret\n", b"secret\n")):
        terminal.type(b"Password for joe:", first)
        terminal.type(b"Again:", second)
    assert terminal.end() == 0
    assert home.check(b"joe", b"secret") == 0


def test_at_a_terminal_invalid_utf_8_is_refused(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    terminal = Terminal(home, "--set", "joe", *LEAST_WORK)
    terminal.type(b"Password for joe:", b"p\xe4ss\n")
    assert terminal.end() == 100
    assert b"checkusers: fatal: the password is not in the terminal's encoding\r\n" in terminal.shown
    assert home.path.read_bytes() == OTHER_LINES


def test_an_interrupt_changes_nothing_and_restores_echo(home: UsersHome) -> None:
    home.write(OTHER_LINES)
    terminal = Terminal(home, "--set", "joe", *LEAST_WORK)
    terminal.type(b"Password for joe:", b"\x03")
    assert terminal.process.wait(PATIENCE) == 1
    assert termios.tcgetattr(terminal.descriptor)[3] & termios.ECHO
    os.close(terminal.descriptor)
    assert home.path.read_bytes() == OTHER_LINES


def test_a_world_readable_file_is_not_changed(home: UsersHome) -> None:
    home.write(OTHER_LINES, 0o644)
    for words in (("--set", "joe", *LEAST_WORK), ("--delete", "ann"), ("--list",)):
        done = home.run(*words)
        text = b"checkusers: fatal: %b is world-readable or world-writable: chmod o-rw\n" % bytes(home.path)
        assert (done.returncode, done.stderr) == (111, text)
    assert home.path.read_bytes() == OTHER_LINES
    assert os.listdir(home.path.parent) == ["users"]


def test_a_missing_directory_is_an_error(home: UsersHome) -> None:
    home.path.parent.rmdir()
    done = home.run("--set", "joe", *LEAST_WORK)
    text = b"checkusers: fatal: unable to create %b.tmp: file does not exist\n" % bytes(home.path)
    assert (done.returncode, done.stderr) == (111, text)
    assert home.run("--list").returncode == 111


@needs_root
def test_a_full_disk_leaves_the_old_file(home: UsersHome, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    shell = (
        'mount -t tmpfs -o size=4k none "$1" && cat >"$1/users" && chmod 640 "$1/users" || exit 99;'
        '"$2" --set joe --rounds 4096 <"$3"; status=$?; cat "$1/users"; exit $status'
    )
    password = tmp_path / "password"
    password.write_bytes(b"secret\n")
    command = ["unshare", "-m", "sh", "-c", shell, "sh", str(small), script("checkusers"), str(password)]
    environ = {**home.environ, "CHECKUSERS_FILE": str(small / "users")}
    content = OTHER_LINES + b"#" * (4096 - len(OTHER_LINES))
    done = subprocess.run(command, input=content, env=environ, capture_output=True, check=False)
    assert done.returncode == 111
    assert b"out of disk space" in done.stderr
    assert done.stdout == content


USAGE = [
    "--set joe --delete joe",
    "--list --set joe",
    "--set",
    "--rounds 5",
    "--nonsense",
    "--list x",
    "--set joe --scheme md5",
    "--set joe --rounds 0",
    "--set joe --rounds x",
]


@pytest.mark.parametrize("line", USAGE)
def test_other_command_lines_are_misuse(line: str, home: UsersHome) -> None:
    home.write(OTHER_LINES)
    done = home.run(*line.split())
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"\nError: " in b"\n" + done.stderr
    assert home.path.read_bytes() == OTHER_LINES


def test_help_names_the_file_and_the_options(home: UsersHome) -> None:
    done = home.run("--help")
    assert done.returncode == 0
    for word in (b"$CHECKUSERS_FILE", b"--set USER", b"--delete USER", b"--list", b"--scheme", b"--rounds"):
        assert word in done.stdout


@pytest.mark.parametrize("words", ["--list", "--help"])
@pytest.mark.parametrize(("where", "why"), [(">&-", "file descriptor not open"), (">/dev/full", "out of disk space")])
def test_output_that_cannot_be_written_is_a_clear_line(words: str, where: str, why: str, home: UsersHome) -> None:
    home.write(OTHER_LINES)
    command = ["sh", "-c", f'"$0" {words} {where}', script("checkusers")]
    done = subprocess.run(command, env=home.environ, capture_output=True)
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr == f"checkusers: fatal: unable to write output: {why}\n".encode()


@pytest.mark.parametrize(
    ("where", "why"), [("<&-", "file descriptor not open"), ("</proc/self/mem", "input/output error")]
)
def test_a_password_that_cannot_be_read_is_a_clear_line(where: str, why: str, home: UsersHome) -> None:
    home.write(OTHER_LINES)
    command = ["sh", "-c", f'"$0" --set joe {where}', script("checkusers")]
    done = subprocess.run(command, env=home.environ, capture_output=True)
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr == f"checkusers: fatal: unable to read input: {why}\n".encode()
    assert home.path.read_bytes() == OTHER_LINES


def test_nothing_is_imported_from_the_current_directory(home: UsersHome, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit(99)\n")
    assert home.run("--list", cwd=tmp_path).returncode == 111  # there is no file yet
    assert b"unable to read" in home.run("--list", cwd=tmp_path).stderr


def test_options_of_the_program_do_not_start_the_editor(home: UsersHome) -> None:
    home.write(b"joe:{PLAIN}secret\n")
    done = ask(main, fields(b"joe", b"secret"), ("echo", "--list"), {b"QMAILHOME": bytes(home.home)})
    assert (done.exit, done.stdout) == (0, b"--list\n")


FRAGMENTS = [b"joe", b"ann", b":", b"\n", b"\r\n", b"#", b"{PLAIN}x", b" ", b"\xff"]
CONTENT = st.lists(st.sampled_from(FRAGMENTS), max_size=15).map(b"".join)


@given(CONTENT)
def test_setting_changes_one_line_of_any_content(content: bytes) -> None:
    changed = with_secret(content, b"joe", b"{PLAIN}new")
    assert without_user(changed, b"joe") in (content, content + b"\n", without_user(content, b"joe"))
    again = with_secret(changed, b"joe", b"{PLAIN}new")
    assert again == changed
    assert changed.count(b"{PLAIN}new") == 1


@given(CONTENT, st.sampled_from([b"joe", b"ann"]) | st.binary(min_size=1, max_size=8).filter(is_name))
def test_a_user_is_found_after_set_and_not_after_delete(content: bytes, user: bytes) -> None:
    from qmail_smtpd.auth.users import Users

    users_file = Users.__new__(Users)
    users_file.path, users_file.content = b"users", with_secret(content, user, b"{PLAIN}new")
    entries = [entry for entry in users_file.entries() if entry.fields[0] == user]
    assert [entry.secret for entry in entries] == [b"{PLAIN}new"]
    users_file.content = without_user(users_file.content, user) or b""
    assert not [entry for entry in users_file.entries() if entry.fields[0] == user]


def test_a_new_user_is_found_by_a_session_with_the_file(home: UsersHome) -> None:
    home.run("--set", "joe", *LEAST_WORK)
    assert verify(bytes(home.path), b"joe", b"secret")
