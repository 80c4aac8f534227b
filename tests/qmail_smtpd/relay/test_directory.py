"""The directory store: foreign files in it, permissions, locks, failures and races."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd.relay import files
from qmail_smtpd.relay.directory import Directory
from qmail_smtpd.relay.entry import Entry, compose
from qmail_smtpd.relay.errors import StoreError
from tests.kit.relayhome import NOW, Home, facts
from tests.kit.server import needs_root, open_to_all, room_for

JOE = b"joe@example.com"
V4, V6 = b"192.0.2.7", b"2001:db8::7"
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def line(address: bytes, seen: int = NOW, seconds: int = 2400) -> bytes:
    return compose(Entry(address, JOE, b"pop3", seen, seen + seconds))


def names(home: Home) -> list[str]:
    return sorted(name for name in os.listdir(home.store) if name != ".lock")


def test_an_entry_can_be_read_by_all_and_replaced_by_the_group(home: Home) -> None:
    old = os.umask(0o077)
    try:
        home.open().allow(V4, JOE, b"pop3")
    finally:
        os.umask(old)
    assert names(home) == ["192.0.2.7"]
    assert (home.store / "192.0.2.7").read_bytes() == line(V4)
    assert stat.S_IMODE((home.store / "192.0.2.7").stat().st_mode) == 0o644
    assert stat.S_IMODE((home.store / ".lock").stat().st_mode) == 0o660


@needs_root
def test_group_members_renew_each_others_entries_and_others_only_read(home: Home) -> None:
    group = 12345
    os.chown(home.store, 0, group)
    home.store.chmod(0o2775)

    def as_user(uid: int, gid: int, operation: Callable[[], object]) -> int:
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setgid(gid)
                os.setuid(uid)
                os.umask(0o077)
                os._exit(0 if operation() else 1)
            except StoreError:
                os._exit(111)
            finally:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    open_to_all(home.path)
    allow = lambda: home.open().allow(V4, JOE, b"pop3")  # noqa: E731
    assert as_user(50001, group, allow) == 0
    assert as_user(50002, group, allow) == 0
    assert as_user(50003, 50003, lambda: home.open().check(V4)) == 0
    assert as_user(50003, 50003, allow) == 111
    assert as_user(50003, 50003, lambda: home.open().deny(V4)) == 111
    assert as_user(50002, group, lambda: home.open(NOW + 9999).expire() is None) == 0
    assert names(home) == []


@needs_root
def test_a_lock_created_by_root_gets_the_directorys_owner_and_group(home: Home) -> None:
    """Cron runs before the first login, in a directory without the set-group-ID bit."""
    os.chown(home.store, 50001, 50002)
    home.store.chmod(0o750)
    home.open(NOW).allow(V4, JOE, b"pop3")
    home.open(NOW + 9999).expire()
    status = (home.store / ".lock").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (50001, 50002, 0o660)


@needs_root
def test_an_entry_that_the_checking_account_may_not_read_is_an_error(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    (home.store / "192.0.2.7").chmod(0o600)
    open_to_all(home.path)
    store = home.open()
    os.seteuid(NOBODY)
    try:
        with pytest.raises(StoreError, match=r"unable to read .*/192\.0\.2\.7: access denied"):
            store.check(V4)
    finally:
        os.seteuid(0)


# attacks


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "an empty file": lambda path: path.write_bytes(b""),
    "a torn file": lambda path: path.write_bytes(line(V4)[:-1]),
    "a link to an entry": lambda path: [path.with_name("x").write_bytes(line(V4)), path.symlink_to("x")],
    "a link to nothing": link_to("nothing"),
    "a link to itself": link_to("192.0.2.7"),
    "a link to an endless file": link_to("/dev/zero"),
    "a directory": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK),
    "another address's entry": lambda path: path.write_bytes(line(b"192.0.2.8")),
    "a huge file": lambda path: path.write_bytes(line(V4) + b"\n" * (1 << 20)),
    "a huge entry": lambda path: path.write_bytes(line(V4).replace(b"joe", b"j" * (1 << 20))),
    "a huge hole": lambda path: [path.touch(), os.truncate(path, 1 << 40)],
    "a variable": lambda path: path.write_bytes(b"QMAILQUEUE=/tmp/x\0RELAYCLIENT=\0"),
}


@pytest.mark.parametrize("content", FOREIGN)
def test_a_foreign_file_under_an_entrys_name_is_no_entry_and_is_removed(home: Home, content: str) -> None:
    path = home.store / "192.0.2.7"
    FOREIGN[content](path)
    store = home.open()
    assert store.check(V4) is None
    assert store.entries() == []
    store.expire()
    assert os.path.lexists(path) == (content == "a directory")
    if content != "a directory":
        path.unlink(missing_ok=True)
        (home.store / "x").unlink(missing_ok=True)
        FOREIGN[content](path)
        store.allow(V4, JOE, b"pop3")  # a login replaces it
        assert facts(store.check(V4)) == (V4, JOE, b"pop3", NOW, NOW + 2400)


def test_a_fifo_with_a_writer_does_not_block_a_check(home: Home) -> None:
    path = home.store / "192.0.2.7"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        assert home.open().check(V4) is None
    finally:
        os.close(writer)


def test_a_login_does_not_write_through_a_link(home: Home, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (home.store / "192.0.2.7").symlink_to(victim)
    home.open().allow(V4, JOE, b"pop3")
    assert victim.read_bytes() == b"precious"
    assert not (home.store / "192.0.2.7").is_symlink()


def test_expire_follows_no_link(home: Home, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("192.0.2.7", ".tmp.1.x"):
        (home.store / name).symlink_to(victim)
        os.utime(home.store / name, (1, 1), follow_symlinks=False)
    home.open().expire()
    assert victim.read_bytes() == b"precious"
    assert names(home) == []


def test_a_lock_that_is_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (home.store / ".lock").symlink_to(victim)
    with pytest.raises(StoreError, match=r"unable to lock .*/\.lock: symbolic link loop"):
        home.open().allow(V4, JOE, b"pop3")
    assert not victim.exists()
    assert names(home) == []


def test_a_hard_link_of_an_entry_allows_no_other_address(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    os.link(home.store / "192.0.2.7", home.store / "192.0.2.8")
    os.link(home.store / "192.0.2.7", home.store / "::")
    assert home.open().check(b"192.0.2.8") is None
    assert [entry.address for entry in home.open().entries()] == [V4]


OTHERS = ["README", "..x", "192.0.2.07", "::FFFF:192.0.2.9", "2001:DB8::9", "192.0.2.9%eth0", ".tmp", "lost+found"]


def test_files_that_are_not_named_after_addresses_are_ignored(home: Home) -> None:
    for name in OTHERS:
        (home.store / name).write_bytes(line(b"192.0.2.9"))
        os.utime(home.store / name, (1, 1))
    store = home.open()
    assert store.entries() == []
    assert store.check(b"192.0.2.9") is None
    assert store.check(b"::ffff:192.0.2.9") is None
    home.open(NOW + 9999).expire()
    assert names(home) == sorted(OTHERS)


def test_temporary_files_of_killed_logins_are_removed_after_an_hour(home: Home) -> None:
    for name, age in ((".tmp.1.a", 3700), (".tmp.2.b", 3500), (".tmp.3.c", 0), (".tmp.4.d", -3600)):
        (home.store / name).write_bytes(line(V4))
        os.utime(home.store / name, (time.time() - age,) * 2)
    home.open().expire()
    assert names(home) == [".tmp.2.b", ".tmp.3.c", ".tmp.4.d"]
    assert home.open().entries() == []


def test_an_existing_file_under_the_temporary_name_is_not_written_to(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name has 64 random bits. Even an attacker who guesses it gains nothing."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    temporary = home.store / ".tmp.guessed"
    monkeypatch.setattr(files, "temporary_name", lambda *_: bytes(temporary))
    for make in (lambda: temporary.symlink_to(victim), lambda: os.link(victim, temporary)):
        make()
        with pytest.raises(StoreError, match="file already exists"):
            home.open().allow(V4, JOE, b"pop3")
        assert victim.read_bytes() == b"precious"
        temporary.unlink(missing_ok=True)


# errors


@needs_root
def test_an_unreadable_file_does_not_keep_expire_from_the_others(home: Home) -> None:
    """A member of the group has planted it, and clearopensmtp does not run as root."""
    os.chown(home.store, NOBODY, NOBODY)
    for last in range(1, 9):
        home.open(NOW).allow(b"192.0.2.%d" % last, JOE, b"pop3")
    (home.store / "192.0.2.4").chmod(0o600)
    open_to_all(home.path)
    store = home.open(NOW + 9999)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(StoreError, match=r"unable to read .*/192\.0\.2\.4: access denied"):
            store.expire()
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert names(home) == ["192.0.2.4"]


def test_a_full_disk_leaves_only_the_old_entry(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.open().allow(V4, JOE, b"pop3")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(StoreError, match=r"unable to write .*/192\.0\.2\.7: out of disk space"):
        home.open(NOW + 60).allow(V4, b"ann", b"imap")
    monkeypatch.undo()
    assert names(home) == ["192.0.2.7"]
    assert facts(home.open().check(V4)) == (V4, JOE, b"pop3", NOW, NOW + 2400)


def test_on_a_read_only_file_system_the_failed_write_is_reported(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """unlink(2) of a missing file fails with EROFS as well, which must not hide the first error."""
    store = home.open()

    def read_only(*words: object) -> None:
        raise OSError(30, os.strerror(30))

    for call in ("open", "unlink"):
        monkeypatch.setattr(files.os, call, read_only)
    with pytest.raises(StoreError, match=r"unable to write .*/192\.0\.2\.7: read-only file system"):
        store.allow(V4, JOE, b"pop3")


def test_a_missing_lock_is_created_again(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    (home.store / ".lock").unlink()
    home.open().allow(V4, JOE, b"pop3")
    assert (home.store / ".lock").exists()


def test_a_login_does_not_wait_longer_than_the_deadline(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEADLINE", 0.05)
    home.open().allow(V4, JOE, b"pop3")
    with held_lock(home, fcntl.LOCK_EX), pytest.raises(StoreError, match=r"unable to lock .*/\.lock: timed out"):
        home.open(NOW + 60).allow(V4, b"ann", b"imap")
    assert names(home) == ["192.0.2.7"]
    assert home.open().check(V4)


@pytest.mark.parametrize("kind", ["directory", "open-smtp"])
def test_a_failing_close_of_the_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """NFS reports failures at close."""
    home = Home(tmp_path / "other", kind)
    close = os.close

    def close_with_error(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        close(descriptor)
        if name.endswith("lock"):
            raise OSError(5, os.strerror(5))

    monkeypatch.setattr(files.os, "close", close_with_error)
    with pytest.raises(StoreError, match=r"unable to unlock .*lock: input/output error"):
        home.open().allow(V4, JOE, b"pop3")


def test_a_lock_that_cannot_be_opened_again_closes_nothing_else(home: Home) -> None:
    lock = files.Lock(bytes(home.store / ".lock"), fcntl.LOCK_EX, 0o660)
    with lock:
        number = lock.descriptor
    reader, writer = os.pipe()
    assert number in (reader, writer)
    with room_for(0), pytest.raises(StoreError, match=r"unable to lock .*: process cannot open more files"):
        lock.__enter__()
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_new_lock_that_cannot_be_used_is_closed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, owner: os.stat_result) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "change_owner", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError), files.Lock(bytes(home.store / "new"), fcntl.LOCK_EX, 0o660):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_both_errnos_for_a_held_lock_are_understood(home: Home, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    outcomes = iter([OSError(number, os.strerror(number)), None])

    def held_once(descriptor: int, kind: int) -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome

    monkeypatch.setattr(files.fcntl, "lockf", held_once)
    home.open().allow(V4, JOE, b"pop3")
    assert home.open().check(V4)
    assert next(outcomes, "both were used") == "both were used"


def test_logins_do_not_wait_for_each_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEADLINE", 0.0)
    with held_lock(home, fcntl.LOCK_SH):
        home.open().allow(V4, JOE, b"pop3")
    assert home.open().check(V4)


class held_lock:
    """A lock held by another process."""

    def __init__(self, home: Home, kind: int) -> None:
        self.path, self.kind = home.store / ".lock", kind

    def __enter__(self) -> None:
        self.path.touch()
        reader, writer = os.pipe()
        self.child = os.fork()
        if not self.child:
            descriptor = os.open(self.path, os.O_RDWR)
            fcntl.lockf(descriptor, self.kind)
            os.write(writer, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)

    def __exit__(self, *_: object) -> None:
        os.kill(self.child, 9)
        os.waitpid(self.child, 0)


# races


def test_a_login_between_expires_check_and_unlink_is_not_lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """expire has found the entry dead; its client logs in; then expire gets the lock."""
    home.open(NOW).allow(V4, JOE, b"pop3")
    lock = Directory.lock
    logins = iter([True])

    def login_first(self: Directory, kind: int) -> files.Lock:
        if kind == fcntl.LOCK_EX and next(logins, False):
            home.open(NOW + 5000).allow(V4, JOE, b"pop3")
        return lock(self, kind)

    monkeypatch.setattr(Directory, "lock", login_first)
    home.open(NOW + 5000).expire()
    assert next(logins, None) is None
    assert home.open(NOW + 5000).check(V4)


def test_expire_waits_for_a_login_in_progress(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEADLINE", 0.05)
    home.open(NOW).allow(V4, JOE, b"pop3")
    with held_lock(home, fcntl.LOCK_SH), pytest.raises(StoreError, match=r"unable to lock .*/\.lock: timed out"):
        home.open(NOW + 5000).expire()
    assert names(home) == ["192.0.2.7"]


def test_two_concurrent_expires_are_harmless(home: Home) -> None:
    for last in range(100):
        home.open(NOW).allow(b"192.0.2.%d" % last, JOE, b"pop3")
        home.open(NOW + 1000).allow(b"2001:db8::%x" % last, JOE, b"pop3")
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                home.open(NOW + 2400).expire()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(home.open(NOW + 2400).entries()) == 100
    assert len(names(home)) == 100
