"""Installing a file: mode and owner are kept, links and foreign files are refused, and a kill leaves it complete."""

import collections
import fcntl
import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tcprules.cli import tcprules
from tcprules.install import Unable, install
from tests.kit import forked
from tests.kit.support import peer, script

NOBODY = 65534
OLD = b":deny\n"
NEW = b":allow\n" + b"".join(b"10.0.%d.%d:deny\n" % (n >> 8, n & 255) for n in range(3000))


def compile_rules(directory: Path, rules: bytes, *words: str) -> forked.Result:
    return forked.run(tcprules, ["tcprules", *(words or ("r.cdb", "r.tmp"))], rules, cwd=directory)


def compiled(directory: Path, rules: bytes) -> bytes:
    assert compile_rules(directory, rules, "--quiet", "made", "made.tmp").exit == 0
    content = (directory / "made").read_bytes()
    (directory / "made").unlink()
    return content


def as_user(user: int, main: Callable[[], object]) -> Callable[[], object]:
    def change() -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        main()

    return change


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_mode_of_the_replaced_cdb_is_kept(tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    assert stat.S_IMODE((tmp_path / "r.cdb").stat().st_mode) == 0o644 & ~_umask()
    for mode in (0o600, 0o640, 0o664):
        (tmp_path / "r.cdb").chmod(mode)
        assert compile_rules(tmp_path, OLD).exit == 0
        assert stat.S_IMODE((tmp_path / "r.cdb").stat().st_mode) == mode


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


@needs_root
def test_owner_and_group_of_the_replaced_cdb_are_kept(tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    (tmp_path / "r.cdb").chmod(0o640)
    os.chown(tmp_path / "r.cdb", NOBODY, 12345)
    assert compile_rules(tmp_path, OLD) == (b"", b"", 0)
    found = (tmp_path / "r.cdb").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, 12345, 0o640)


@needs_root
def test_if_the_owner_cannot_be_kept_there_is_one_warning(tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    os.chown(tmp_path, NOBODY, NOBODY)
    for words in ([], ["--quiet"]):
        result = forked.run(
            as_user(NOBODY, tcprules), ["tcprules", *words, "r.cdb", "r.tmp"], b":allow\n", cwd=tmp_path
        )
        warning = b"tcprules: warning: file: unable to keep the owner of r.cdb: permission denied\n"
        assert result == (b"", b"" if words else warning, 0)
        assert (tmp_path / "r.cdb").stat().st_uid == NOBODY
        os.chown(tmp_path / "r.cdb", 0, 0)


@pytest.mark.peer
@needs_root
def test_an_invalid_owner_is_a_warning_too(tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    os.chown(tmp_path / "r.cdb", NOBODY, NOBODY)
    strace = [peer("/usr/bin/strace"), "-o/dev/null", "-einject=fchown:error=EINVAL"]
    process = start(tmp_path, under=strace)
    warning = b"tcprules: warning: file: unable to keep the owner of r.cdb: invalid argument\n"
    assert process.communicate(b":allow\n", timeout=20) == (b"", warning)
    assert process.returncode == 0
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, b":allow\n")


@needs_root
def test_strict_keeps_the_old_cdb_if_its_owner_cannot_be_kept(tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    os.chown(tmp_path, NOBODY, NOBODY)
    words = ["tcprules", "--strict", "r.cdb", "r.tmp"]
    assert forked.run(as_user(NOBODY, tcprules), words, b":allow\n", cwd=tmp_path) == (
        b"",
        b"tcprules: warning: file: unable to keep the owner of r.cdb: permission denied\n"
        b"tcprules: fatal: warnings, and --strict: r.cdb is unchanged\n",
        100,
    )
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert (tmp_path / "r.cdb").stat().st_uid == 0
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, OLD)


@needs_root
def test_a_tmp_of_another_user_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "r.tmp").write_bytes(b"theirs")
    os.chown(tmp_path / "r.tmp", NOBODY, NOBODY)
    result = compile_rules(tmp_path, OLD)
    assert result == (b"", b"tcprules: fatal: unable to create r.tmp: it belongs to another user\n", 111)
    assert (tmp_path / "r.tmp").read_bytes() == b"theirs"
    assert not (tmp_path / "r.cdb").exists()


@needs_root
def test_a_tmp_left_by_root_with_the_owner_of_the_cdb_is_used(tmp_path: Path) -> None:
    for name in ("r.cdb", "r.tmp"):
        (tmp_path / name).write_bytes(b"")
        os.chown(tmp_path / name, NOBODY, NOBODY)
    assert compile_rules(tmp_path, OLD).exit == 0
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, OLD)


def test_a_tmp_that_is_a_symbolic_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(b"precious")
    for target in ("passwd", "missing"):
        (tmp_path / "r.tmp").symlink_to(target)
        result = compile_rules(tmp_path, OLD)
        assert result == (b"", b"tcprules: fatal: unable to create r.tmp: symbolic link loop\n", 111)
        assert (tmp_path / "r.tmp").is_symlink()
        (tmp_path / "r.tmp").unlink()
    assert (tmp_path / "passwd").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["passwd"]


def test_a_tmp_that_is_a_hard_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(b"precious")
    (tmp_path / "r.tmp").hardlink_to(tmp_path / "passwd")
    result = compile_rules(tmp_path, OLD)
    assert result == (b"", b"tcprules: fatal: unable to create r.tmp: it is a link to another file\n", 111)
    assert (tmp_path / "passwd").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "rules", "why"),
    [
        (["r.cdb", "no/r.tmp"], OLD, "unable to create no/r.tmp: file does not exist"),
        (["r.cdb", "."], OLD, "unable to create .: is a directory"),
        (["r.cdb", ""], OLD, "unable to create : file does not exist"),
        (["r.cdb", "r.tmp/x"], OLD, "unable to create r.tmp/x: file does not exist"),
        ([".", "r.tmp"], OLD, "unable to move r.tmp to .: device busy"),
        (["", "r.tmp"], OLD, "unable to move r.tmp to : file does not exist"),
        (["no/r.cdb", "r.tmp"], OLD, "unable to move r.tmp to no/r.cdb: file does not exist"),
        (
            ["/dev/shm/nothing/r.cdb", "r.tmp"],
            OLD,
            "unable to move r.tmp to /dev/shm/nothing/r.cdb: file does not exist",
        ),
        (["r.cdb", "/dev/full"], OLD, "unable to write to /dev/full: out of disk space"),
        (["r.cdb", "/dev/full"], NEW, "unable to write to /dev/full: out of disk space"),
        (["r.cdb", "/dev/null"], OLD, "unable to write to /dev/null: invalid argument"),
    ],
)
def test_an_error_is_reported_as_by_the_original_and_leaves_nothing(
    words: list[str], rules: bytes, why: str, tmp_path: Path
) -> None:
    result = compile_rules(tmp_path, rules, *words)
    assert result == (b"", f"tcprules: fatal: {why}\n".encode(), 111)
    assert os.listdir(tmp_path) == []


def test_devices_named_as_tmp_survive(tmp_path: Path) -> None:
    for device in ("/dev/full", "/dev/null"):
        before = os.stat(device)
        compile_rules(tmp_path, OLD, "r.cdb", device)
        assert os.stat(device).st_rdev == before.st_rdev
        assert os.stat(device).st_mode == before.st_mode


def test_a_fifo_as_tmp_fails_before_any_input_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.tmp")
    assert compile_rules(tmp_path, OLD).stderr == b"tcprules: fatal: unable to create r.tmp: device not configured\n"
    reader = os.open(tmp_path / "r.tmp", os.O_RDONLY | os.O_NONBLOCK)
    result = compile_rules(tmp_path, b"nonsense:\n")
    os.close(reader)
    assert result.stderr == b"tcprules: fatal: unable to write to r.tmp: unseekable descriptor\n"


@pytest.mark.parametrize("rules", [b"nonsense:\n", OLD * 20_000 + b"nonsense:\n"])
def test_a_bad_line_leaves_the_old_cdb_and_no_tmp(rules: bytes, tmp_path: Path) -> None:
    compile_rules(tmp_path, OLD)
    assert compile_rules(tmp_path, rules, "--quiet", "r.cdb", "r.tmp").exit == 100
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, OLD)


def test_a_full_disk_leaves_the_old_cdb_and_no_tmp(tmp_path: Path) -> None:
    import resource

    compile_rules(tmp_path, OLD)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        tcprules()

    result = forked.run(limited, ["tcprules", "r.cdb", "r.tmp"], NEW, cwd=tmp_path)
    assert result == (b"", b"tcprules: fatal: unable to write to r.tmp: file too big\n", 111)
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, OLD)


@pytest.mark.slow
def test_out_of_memory_is_one_line_and_leaves_the_old_cdb(tmp_path: Path) -> None:
    import resource

    compile_rules(tmp_path, OLD)
    rules = b"".join(b"10.%d.%d.%d:allow\n" % (n >> 16, n >> 8 & 255, n & 255) for n in range(400_000))

    def limited() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (8 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        tcprules()

    result = forked.run(limited, ["tcprules", "r.cdb", "r.tmp"], rules, cwd=tmp_path)
    assert result == (b"", b"tcprules: fatal: out of memory\n", 111)
    assert os.listdir(tmp_path) == ["r.cdb"]


@pytest.mark.parametrize("names", [("r", "r"), ("r", "./r")])
def test_one_name_for_cdb_and_tmp_works_and_a_bad_line_leaves_the_old_one(
    names: tuple[str, str], tmp_path: Path
) -> None:
    assert compile_rules(tmp_path, b"nonsense:\n", *names).exit == 100
    assert os.listdir(tmp_path) == []
    for rules in (OLD, b":allow\n"):
        assert compile_rules(tmp_path, rules, *names) == (b"", b"", 0)
        assert os.listdir(tmp_path) == ["r"]
        assert (tmp_path / "r").read_bytes() == compiled(tmp_path, rules)
    assert compile_rules(tmp_path, b"nonsense:\n", *names).exit == 100
    assert os.listdir(tmp_path) == ["r"]
    assert (tmp_path / "r").read_bytes() == compiled(tmp_path, b":allow\n")


def start(directory: Path, *words: str, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    command = [*under, script("tcprules"), *(words or ("r.cdb", "r.tmp"))]
    return subprocess.Popen(
        command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waits_for_a_lock(process: subprocess.Popen[bytes]) -> bool:
    return any(f" {process.pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


def wait_until_reading(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process reads its input: by then it has opened and locked its tmp."""
    assert process.stdin
    process.stdin.write(b"#\n")
    process.stdin.flush()
    pipe = process.stdin.fileno()
    wait_until(lambda: fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) == bytes(4))


def test_two_processes_with_one_tmp_run_one_after_the_other_and_the_last_one_wins(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_until_reading(first)
    second = start(tmp_path)
    wait_until(lambda: waits_for_a_lock(second))
    assert first.communicate(OLD, timeout=20) == (b"", b"")
    assert second.communicate(b":allow\n", timeout=20) == (b"", b"")
    assert (first.returncode, second.returncode) == (0, 0)
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, b":allow\n")


def test_a_process_that_waited_for_a_failed_one_goes_on(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_until((tmp_path / "r.tmp").exists)
    second = start(tmp_path)
    wait_until(lambda: waits_for_a_lock(second))
    first.communicate(b"nonsense:\n", timeout=20)
    assert second.communicate(OLD, timeout=20) == (b"", b"")
    assert (first.returncode, second.returncode) == (100, 0)
    assert (tmp_path / "r.cdb").read_bytes() == compiled(tmp_path, OLD)


def test_a_tmp_that_was_replaced_meanwhile_is_not_moved(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_until_reading(process)
    (tmp_path / "half").write_bytes(b"half a cdb")
    (tmp_path / "half").rename(tmp_path / "r.tmp")
    fatal = b"tcprules: fatal: unable to move r.tmp to r.cdb: another process has replaced it\n"
    assert process.communicate(OLD, timeout=20) == (b"", fatal)
    assert process.returncode == 111
    assert os.listdir(tmp_path) == ["r.tmp"]
    assert (tmp_path / "r.tmp").read_bytes() == b"half a cdb"


def test_a_tmp_that_was_removed_meanwhile_is_reported_as_by_the_original(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_until_reading(process)
    (tmp_path / "r.tmp").unlink()
    fatal = b"tcprules: fatal: unable to move r.tmp to r.cdb: file does not exist\n"
    assert process.communicate(OLD, timeout=20) == (b"", fatal)
    assert process.returncode == 111
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_many_concurrent_processes_leave_the_complete_cdb_of_one_of_them(tmp_path: Path) -> None:
    rules = [b":allow\n" + b"10.%d.:deny\n" % n * 500 for n in range(8)]
    running = [start(tmp_path, "--quiet", "r.cdb", "r.tmp") for _ in rules]
    for process, text in zip(running, rules, strict=True):
        assert process.stdin
        process.stdin.write(text)
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0] * len(rules)
    assert (tmp_path / "r.cdb").read_bytes() in [compiled(tmp_path, text) for text in rules]
    assert os.listdir(tmp_path) == ["r.cdb"]
    for process in running:
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()


HELD = """
import os
from tcprules.cli import tcprules

def held_open(path, flags, *rest):
    if flags & os.O_CREAT:
        os.open = really_open
        os.write({ready_write}, b"x")
        os.read({resume_read}, 1)
    return really_open(path, flags, *rest)

really_open, os.open = os.open, held_open
tcprules()
"""


def test_a_process_that_waited_for_the_first_cdb_does_not_remove_it_when_it_fails(tmp_path: Path) -> None:
    """The second process looks for r, finds none, and is delayed until the first one has the lock."""
    (ready_read, ready_write), (resume_read, resume_write) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", HELD.format(ready_write=ready_write, resume_read=resume_read), "r", "r"]
    second = subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[ready_write, resume_read]
    )
    os.read(ready_read, 1)
    first = start(tmp_path, "r", "r")
    wait_until_reading(first)
    os.write(resume_write, b"x")
    wait_until(lambda: waits_for_a_lock(second))
    assert first.communicate(OLD, timeout=20) == (b"", b"")
    second.communicate(b"nonsense:\n", timeout=20)
    for descriptor in (ready_read, ready_write, resume_read, resume_write):
        os.close(descriptor)
    assert (first.returncode, second.returncode) == (0, 100)
    assert os.listdir(tmp_path) == ["r"]
    assert (tmp_path / "r").read_bytes() == compiled(tmp_path, OLD)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_terminating_signal_removes_the_tmp_and_is_the_exit_status(number: int, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_until((tmp_path / "r.tmp").exists)
    process.send_signal(number)
    assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == -number
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_two_simultaneous_signals_leave_no_tmp(tmp_path: Path) -> None:
    for _ in range(20):
        process = start(tmp_path)
        wait_until_reading(process)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)
        assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_the_old_cdb_or_the_new_one(tmp_path: Path) -> None:
    whole = {compiled(tmp_path, OLD), compiled(tmp_path, NEW)}
    compile_rules(tmp_path, OLD)
    chance = random.Random(9)
    for _ in range(25):
        process = start(tmp_path)
        assert process.stdin
        half = chance.randrange(len(NEW))
        wait_until((tmp_path / "r.tmp").exists)
        try:
            process.stdin.write(NEW[:half])
            process.stdin.flush()
            time.sleep(chance.random() * 0.02)
            process.stdin.write(NEW[half:])
            process.stdin.close()
            time.sleep(chance.random() * 0.03)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream
                stream.close()
        assert (tmp_path / "r.cdb").read_bytes() in whole
    assert compile_rules(tmp_path, NEW).exit == 0
    assert os.listdir(tmp_path) == ["r.cdb"]


def traced(directory: Path, trace: Path, *inject: str) -> int:
    """Run tcprules under strace, which records in `trace` the calls that touch the tested files."""
    files = [f"{directory}/r.cdb", f"{directory}/r.tmp"]
    paths = [f"-P{path}" for path in (directory, *files)]
    strace = [peer("/usr/bin/strace"), f"-o{trace}", *paths, *inject, script("tcprules"), *files]
    return subprocess.run(strace, input=NEW, capture_output=True, timeout=60).returncode


@pytest.mark.peer
def test_a_terminating_signal_at_every_call_that_touches_the_files_leaves_no_tmp(tmp_path: Path) -> None:
    rules, trace = tmp_path / "rules", tmp_path / "trace"
    rules.mkdir()
    old, new = compiled(rules, OLD), compiled(rules, NEW)
    compile_rules(rules, OLD)
    assert traced(rules, trace) == 0
    calls = collections.Counter(line.partition("(")[0] for line in trace.read_text().splitlines() if "(" in line)
    signals = itertools.cycle(["TERM", "HUP", "INT"])
    for call, number in [(call, number + 1) for call, count in calls.items() for number in range(count)]:
        compile_rules(rules, OLD)
        name = next(signals)
        status = traced(rules, trace, f"-einject={call}:signal={name}:when={number}")
        assert status == -signal.Signals[f"SIG{name}"]
        assert os.listdir(rules) == ["r.cdb"]
        assert (rules / "r.cdb").read_bytes() in (old, new)


@pytest.mark.peer
def test_kill_9_at_every_call_that_touches_the_files_leaves_the_old_cdb_or_the_new_one(tmp_path: Path) -> None:
    rules, trace = tmp_path / "rules", tmp_path / "trace"
    rules.mkdir()
    old, new = compiled(rules, OLD), compiled(rules, NEW)
    compile_rules(rules, OLD)
    assert traced(rules, trace) == 0
    calls = collections.Counter(line.partition("(")[0] for line in trace.read_text().splitlines() if "(" in line)
    assert set(calls) >= {"openat", "flock", "ftruncate", "fchmod", "write", "fsync", "close", "rename"}
    for call, count in calls.items():
        for number in range(1, count + 1):
            compile_rules(rules, OLD)
            assert traced(rules, trace, f"-einject={call}:signal=KILL:when={number}") == -signal.SIGKILL
            assert (rules / "r.cdb").read_bytes() in (old, new)
    assert compile_rules(rules, NEW).exit == 0
    assert (rules / "r.cdb").read_bytes() == new
    assert os.listdir(rules) == ["r.cdb"]


@pytest.mark.peer
def test_file_and_directory_are_synced_in_the_order_that_survives_a_power_failure(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "rules").mkdir()
    strace = [peer("/usr/bin/strace"), f"-o{trace}", "-y", "-etrace=write,fsync,rename,close"]
    files = [f"{tmp_path}/rules/r.cdb", f"{tmp_path}/rules/r.tmp"]
    subprocess.run([*strace, script("tcprules"), *files], input=OLD, check=True, timeout=60)
    calls = [line for line in trace.read_text().splitlines() if f"{tmp_path}/rules" in line]
    names = [line.partition("(")[0] for line in calls]
    assert names[:4] == ["write", "fsync", "close", "rename"]
    assert f"<{tmp_path}/rules/r.tmp>" in calls[1]
    assert f"fsync({calls[4].partition('(')[2].partition('<')[0]}<{tmp_path}/rules>)" in calls[4]


def test_content_is_made_under_the_lock_and_its_errors_are_reported_as_failed_writes(tmp_path: Path) -> None:
    path, tmp = bytes(tmp_path / "r.cdb"), bytes(tmp_path / "r.tmp")

    def fail() -> memoryview:
        assert os.path.getsize(tmp) == 0
        raise OSError(12, "")

    with pytest.raises(Unable, match="out of memory") as caught:
        install(path, tmp, fail, lambda text: None)
    assert caught.value.text == b"unable to write to %b: out of memory" % tmp
    assert os.listdir(tmp_path) == []
