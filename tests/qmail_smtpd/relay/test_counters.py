"""Counters in the directory store: check and count in one step, many writers, kill -9, a process that stops, faults."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qmail_smtpd.relay import window
from qmail_smtpd.relay.counters import ADDRESS, FAILED, LOGIN, Counters, Key
from qmail_smtpd.relay.countfiles import CountFiles
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.settings import Settings
from tests.kit.counting import take_all, together
from tests.kit.relayhome import NOW, Home
from tests.kit.support import times

JOE = Key(LOGIN, b"joe@example.org")
HOUR = ((10, 3600),)

# Takes one after the other, and prints each that is granted.
TAKING = """
import os, sys
from qmail_smtpd.relay.countfiles import CountFiles
from qmail_smtpd.relay.counters import LOGIN, Key
from qmail_smtpd.relay.settings import Settings
counters = CountFiles(Settings(os.environb))
while counters.take(Key(LOGIN, b"joe@example.org"), ((100000, 3600), (200000, 86400)), 1)[0]:
    os.write(1, b".")
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    (home.store / "counts").mkdir()
    return home


def opened(home: Home, now: float | None = NOW) -> CountFiles:
    counters = CountFiles(Settings(home.environ))
    if now is not None:
        counters.clock = lambda: now
    return counters


def used(counters: Counters, key: Key = JOE, seconds: int = 3600) -> int:
    return counters.used([(key, seconds)])[0]


def files(home: Home) -> list[str]:
    return sorted(path.name for path in (home.store / "counts").iterdir())


def test_a_limit_grants_what_is_left_of_it(home: Home) -> None:
    counters = opened(home)
    assert counters.take(JOE, HOUR, 7) == (7, None)
    assert counters.take(JOE, HOUR, 7) == (3, (10, 3600))
    assert counters.take(JOE, HOUR, 1) == (0, (10, 3600))
    assert used(counters) == 10
    assert opened(home, NOW + 3599).take(JOE, HOUR, 1)[0] == 0
    assert opened(home, NOW + 3660).take(JOE, HOUR, 11)[0] == 10


def test_of_several_limits_all_hold_and_the_tightest_is_named(home: Home) -> None:
    limits = ((10, 3600), (15, 86400))
    assert opened(home).take(JOE, limits, 12) == (10, (10, 3600))
    assert opened(home, NOW + 4000).take(JOE, limits, 12) == (5, (15, 86400))
    assert used(opened(home, NOW + 4000)) == 5
    assert used(opened(home, NOW + 4000), seconds=86400) == 15


def test_a_changed_limit_counts_from_its_change_and_the_old_window_stays(home: Home) -> None:
    opened(home).take(JOE, HOUR, 10)
    assert opened(home).take(JOE, ((10, 7200),), 11)[0] == 10
    assert opened(home).take(JOE, ((12, 3600),), 11)[0] == 2


def test_counters_are_separate_by_kind_and_name(home: Home) -> None:
    counters = opened(home)
    names = [b"joe", b"joe@example.org", b"../x", b"a/b", b"joe%40", b"\xff\n", b"x" * 300, b"%" * 300, b""]
    for kind in (LOGIN, ADDRESS, FAILED):
        for number, name in enumerate(names, 1):
            assert counters.take(Key(kind, name), ((100, 60),), number) == (number, None)
    found = {(key.kind, key.name): used(counters, key, 60) for key in counters.counted()}
    assert len(found) == 3 * len(names)
    assert {number for (_, name), number in found.items() if name == b"\xff\n"} == {6}
    assert all(len(name) < 256 for name in files(home))
    assert counters.reset(Key(LOGIN, b"../x"))
    assert not counters.reset(Key(LOGIN, b"../x"))
    assert used(counters, Key(ADDRESS, b"../x"), 60) == 3


def test_expired_counters_are_removed_and_live_ones_stay(home: Home) -> None:
    opened(home).take(JOE, HOUR, 1)
    opened(home).take(Key(LOGIN, b"ann"), ((10, 86400),), 1)
    (home.store / "counts" / "other").write_text("x")
    assert [key.name for key in opened(home, NOW + 4000).counted()] == [b"ann"]
    opened(home, NOW + 4000).expire()
    assert files(home) == ["login=ann", "other"]


def test_clearopensmtp_removes_expired_counters(home: Home) -> None:
    opened(home, NOW - 10**8).take(JOE, HOUR, 1)
    opened(home, None).take(Key(LOGIN, b"ann"), HOUR, 1)
    done = home.clear()
    assert (done.stdout, done.stderr, done.exit) == (b"", b"", 0)
    assert files(home) == ["login=ann"]


def test_what_is_no_file_does_not_keep_clearopensmtp_from_the_other_counters(home: Home) -> None:
    counts = home.store / "counts"
    (counts / "address=192.0.2.1").mkdir()
    (counts / "failed=192.0.2.2").symlink_to("nowhere")
    for number in range(8):
        opened(home, NOW - 10**8).take(Key(LOGIN, b"user%d" % number), HOUR, 1)
    done = home.clear()
    assert (done.stdout, done.exit) == (b"", 111)
    assert done.stderr.startswith(b"clearopensmtp: fatal: unable to read ")
    assert done.stderr.count(b"\n") == 1
    assert files(home) == ["address=192.0.2.1", "failed=192.0.2.2"]


def test_a_store_of_logins_that_fails_does_not_keep_clearopensmtp_from_the_counters(home: Home) -> None:
    opened(home, NOW - 10**8).take(JOE, HOUR, 1)
    done = home.clear(RELAY_STORE=b"open-smtp:/nonexistent")
    assert (done.stdout, done.exit) == (b"", 111)
    assert done.stderr == b"clearopensmtp: fatal: unable to read /nonexistent: file does not exist\n"
    assert files(home) == []


def test_eight_processes_are_granted_exactly_the_limit(home: Home) -> None:
    each = times(60)
    limits = ((each * 3, 3600), (each * 4, 86400))

    def operation() -> int:
        return take_all(lambda: opened(home, None), JOE, limits, each)

    assert sum(together([operation] * 8)) == each * 3
    assert used(opened(home, None)) == used(opened(home, None), seconds=86400) == each * 3


def test_counting_and_clearing_at_once_loses_nothing(home: Home) -> None:
    """The file is removed while others wait for its lock: they count in the new one."""
    each = times(100)

    def take() -> int:
        return sum(opened(home).take(JOE, ((10**6, 3600),), 1)[0] for _ in range(each))

    def clear() -> int:
        for _ in range(each):
            opened(home).expire()  # removes the file only while nothing is in it
        return 0

    assert sum(together([take, take, clear, clear])) == 2 * each
    assert used(opened(home)) == 2 * each


def test_a_killed_process_has_counted_all_that_it_was_granted(home: Home) -> None:
    printed = 0
    for _ in range(times(4)):
        environ = {key.decode(): value.decode() for key, value in home.environ.items()}
        process = subprocess.Popen([sys.executable, "-c", TAKING], stdout=subprocess.PIPE, env=environ)
        assert process.stdout
        output = process.stdout.read(25)  # it is killed in the middle of the next ones
        process.kill()
        printed += len(output + process.stdout.read())
        process.stdout.close()
        process.wait()
        counted = used(opened(home, None))
        assert printed <= counted <= printed + 1
        printed = counted
    assert opened(home, None).take(JOE, ((printed + 3, 3600),), 5)[0] == 3


def test_a_process_that_stops_with_the_lock_holds_up_one_name_for_the_time_out(home: Home) -> None:
    home.environ[b"RELAY_TIMEOUT"] = b"1"
    opened(home).take(JOE, HOUR, 1)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        descriptor = os.open(home.store / "counts" / "login=joe%40example.org".replace("%40", "@"), os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(writer, b"x")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.read(reader, 1)
        with pytest.raises(StoreError, match=r"unable to lock .*joe@example.org: timed out"):
            opened(home).take(JOE, HOUR, 1)
        assert opened(home).take(Key(LOGIN, b"ann"), HOUR, 1) == (1, None)
        assert used(opened(home)) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert opened(home).take(JOE, HOUR, 1) == (1, None)


def test_the_rest_of_a_file_that_was_being_made_counts_nothing(home: Home) -> None:
    (home.store / "counts/login=joe@example.org").write_bytes(b"counts1\n" + bytes(100))
    assert used(opened(home)) == 0
    assert opened(home).take(JOE, HOUR, 1)[0] == 1


@pytest.mark.parametrize("content", [b"1 192.0.2.1 pop3\n" * 100, b"\0" * 2000], ids=["foreign", "zeros"])
def test_a_file_that_is_no_counter_grants_nothing(home: Home, content: bytes) -> None:
    (home.store / "counts/login=joe@example.org").write_bytes(content)
    for operation in (lambda: opened(home).take(JOE, HOUR, 1), lambda: used(opened(home))):
        with pytest.raises(StoreError, match="not a counter"):
            operation()


def test_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (home.store / "counts/login=joe@example.org").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="unable to lock"):
        opened(home).take(JOE, HOUR, 1)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_missing_or_world_writable_directory_is_an_error(home: Home) -> None:
    (home.store / "counts").chmod(0o777)
    with pytest.raises(StoreError, match="world-writable"):
        opened(home)
    (home.store / "counts").rmdir()
    with pytest.raises(StoreError, match=r"unable to read .*counts: file does not exist"):
        opened(home)


def test_a_counter_that_may_be_needed_is_made_and_counts_nothing(home: Home) -> None:
    assert opened(home).used([(JOE, 3600), (Key(LOGIN, b"ann"), 3600)]) == [0, 0]
    assert files(home) == []
    assert opened(home).used([(JOE, 3600), (Key(LOGIN, b"ann"), 3600)], writable=True) == [0, 0]
    assert files(home) == ["login=joe@example.org"]
    assert list(opened(home).counted()) == []
    opened(home).take(JOE, HOUR, 3)
    assert opened(home, NOW + 60).used([(JOE, 3600)], writable=True) == [3]
    opened(home, NOW + 4000).expire()
    assert files(home) == []


@pytest.mark.parametrize("before", [b"", b"counts1\n", window.empty(3600)], ids=["empty", "cut", "of another limit"])
def test_a_counter_that_cannot_be_written_is_an_error_before_something_is_to_be_counted(
    home: Home, before: bytes
) -> None:
    (home.store / "counts/login=joe@example.org").write_bytes(before)

    def operation() -> int:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        assert opened(home).used([(Key(LOGIN, b"ann"), 60)], writable=True) == [0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        opened(home).add(Key(LOGIN, b"ann"), 60)  # there is room
        assert used(opened(home), JOE, 60) == 0
        with pytest.raises(StoreError, match="unable to write"):
            opened(home).used([(JOE, 60)], writable=True)
        return used(opened(home), Key(LOGIN, b"ann"), 60)

    assert together([operation]) == [1]


def test_a_full_disk_is_an_error_and_grants_nothing(home: Home) -> None:
    """A limit on the size of files has the effect of a full disk."""

    def operation() -> int:
        import resource

        opened(home).take(JOE, HOUR, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        try:
            opened(home).take(JOE, ((10, 60),), 1)
        except StoreError:
            return opened(home).take(JOE, HOUR, 5)[0]
        return -1

    assert together([operation]) == [5]
    assert opened(home).take(JOE, ((10, 60),), 1)[0] == 1
