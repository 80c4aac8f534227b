"""maildir-queue killed at each system call, failing at each, and losing power after each: it stores all or nothing.

strace injects the kills and the failures. The power failure is a model: whatever was not synced before may be lost.
"""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.support import peer, script

pytestmark = pytest.mark.peer

PROGRAM = script("maildir-queue")
ENVELOPE = b"Fa@b\0Tc@d\0\0"
HEADER = b"Return-Path: <a@b>\nDelivered-To: c@d\n"
SIZES = [10, 300_000]  # bytes: a message kept in memory, and one that is spooled
CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)")
MEMORY = {"brk", "mmap", "munmap", "mremap", "madvise"}  # calls of the allocator: their number varies


class Case:
    """One message for one Maildir, delivered under strace."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.maildir = directory / "Maildir"
        self.body = os.urandom(size)
        (directory / "message").write_bytes(self.body)
        (directory / "envelope").write_bytes(ENVELOPE)

    def make_maildir(self) -> None:
        for part in ("", "tmp", "new", "cur"):
            (self.maildir / part).mkdir()

    def deliver(self, *options: str) -> int:
        command = [peer("/usr/bin/strace"), "-o", self.directory / "trace", "-y", "-s", "0", *options, PROGRAM]
        environ = {**os.environ, "QUEUE_MAILDIR": str(self.maildir)}
        with open(self.directory / "message", "rb") as message, open(self.directory / "envelope", "rb") as envelope:
            return subprocess.run(command, stdin=message, stdout=envelope, env=environ).returncode

    def calls(self) -> list[tuple[str, int, str]]:
        """Return the calls from the first use of the Maildir on: name, ordinal among calls of that name, whole line."""
        seen: Counter[str] = Counter()
        calls = []
        for line in (self.directory / "trace").read_text().splitlines():
            if call := CALL.match(line):
                seen[call["name"]] += 1
                if calls or (f'"{self.maildir}"' in line or call["name"] == "chdir"):
                    calls.append((call["name"], seen[call["name"]], line))
        return [call for call in calls if call[0] not in MEMORY]

    def stored(self, part: str = "new") -> list[bytes]:
        return [path.read_bytes() for path in (self.maildir / part).glob("*")]

    def clear(self) -> None:
        for path in self.maildir.glob("*/*"):
            path.unlink()


@pytest.fixture(params=SIZES)
def case(request, tmp_path):
    return Case(tmp_path, request.param)


def traced(case):
    """Return the system calls of an undisturbed delivery. The delivered message is removed again."""
    assert case.deliver() == 0
    calls = case.calls()
    case.clear()
    assert len(calls) > 15
    return calls


def test_a_kill_at_any_system_call_leaves_all_or_nothing(case):
    case.make_maildir()
    outcomes = Counter()
    for name, number, line in traced(case):
        if name == "exit_group":
            continue
        assert case.deliver("-e", f"inject={name}:signal=KILL:when={number}") == -9, line
        stored = case.stored()
        assert stored in ([], [HEADER + case.body]), line
        outcomes[len(stored)] += 1
        case.clear()
    assert outcomes[0] > 10
    assert outcomes[1] >= 3  # after the rename: the directory is opened, synced and closed


def test_a_kill_during_the_creation_of_the_maildir_leaves_one_that_the_next_process_can_use(tmp_path):
    first = tmp_path / "0"
    first.mkdir()
    for index, (name, number, line) in enumerate(traced(Case(first, 10)), 1):
        directory = tmp_path / str(index)
        directory.mkdir()
        case = Case(directory, 10)
        case.deliver("-e", f"inject={name}:signal=KILL:when={number}")
        earlier = case.stored()
        assert earlier in ([], [HEADER + case.body]), line
        assert case.deliver() == 0, line
        assert case.stored() == [*earlier, HEADER + case.body], line


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT", "EACCES", "EEXIST"])
def test_an_error_of_any_system_call_is_reported_and_leaves_nothing(case, error):
    case.make_maildir()
    codes = Counter()
    for name, number, line in traced(case):
        if name in ("exit_group", "getpid", "rt_sigprocmask"):  # they cannot fail
            continue
        code = case.deliver("-e", f"inject={name}:error={error}:when={number}")
        assert code in (0, 53, 54, 61, 62, 64, 66), line
        assert case.stored() == ([] if code else [HEADER + case.body]), line
        assert case.stored("tmp") == [], line
        codes[code] += 1
        case.clear()
    assert codes[53] >= 3


# system call, a part of its arguments, the injected fault, the exit code
FAULTS = [
    ("mkdir", 'Maildir"', "error=EACCES", 61),
    ("chdir", "Maildir", "error=EIO", 61),
    ("fsync", "/Maildir>", "error=EIO", 62),
    ("mkdir", '"new"', "error=EACCES", 62),
    ("mkdir", '"tmp"', "error=EROFS", 62),
    ("mkdir", '"tmp"', "error=ENOSPC", 53),
    ("read", "0<", "error=EIO", 54),
    ("read", "1<", "error=EIO", 54),
    ("openat", "O_EXCL", "error=EACCES", 64),
    ("openat", "O_EXCL", "error=EROFS", 64),
    ("openat", "O_EXCL", "error=ENFILE", 64),
    ("openat", "O_EXCL", "error=ENOSPC", 53),
    ("openat", "O_EXCL", "error=EDQUOT", 53),
    ("openat", "O_EXCL", "error=ENOMEM", 64),
    ("openat", "O_EXCL", "error=EEXIST", 0),
    ("write", "/Maildir/tmp/", "error=ENOSPC", 53),
    ("write", "/Maildir/tmp/", "error=EDQUOT", 53),
    ("write", "/Maildir/tmp/", "error=EIO", 53),
    ("fsync", "/Maildir/tmp/", "error=EIO", 53),
    ("fsync", "/Maildir/tmp/", "error=EDQUOT", 53),
    ("close", "/Maildir/tmp/", "error=EDQUOT", 53),
    ("rename", "new/", "error=EACCES", 66),
    ("rename", "new/", "error=EXDEV", 66),
    ("rename", "new/", "error=ENOSPC", 53),
    ("fsync", "/new>", "error=EIO", 53),
]


@pytest.mark.parametrize(("name", "argument", "fault", "code"), FAULTS)
def test_each_fault_has_its_exit_code(tmp_path, name, argument, fault, code):
    first = tmp_path / "first"
    first.mkdir()
    calls = traced(Case(first, 10))
    number = next(number for found, number, line in calls if found == name and argument in line)
    case = Case(tmp_path, 10)
    assert case.deliver("-e", f"inject={name}:{fault}:when={number}") == code
    assert case.stored() == ([] if code else [HEADER + case.body])
    assert case.stored("tmp") == []


def test_file_names_that_always_collide_are_64(case):
    case.make_maildir()
    calls = traced(case)
    number = next(number for name, number, line in calls if name == "openat" and "O_EXCL" in line)
    assert case.deliver("-e", f"inject=openat:error=EEXIST:when={number}+") == 64
    assert case.stored() == case.stored("tmp") == []


def test_a_large_message_is_stored_on_a_file_system_without_unnamed_files(tmp_path):
    case = Case(tmp_path, 300_000)
    case.make_maildir()
    number = next(number for name, number, line in traced(case) if name == "openat" and "O_TMPFILE" in line)
    assert case.deliver("-e", f"inject=openat:error=EOPNOTSUPP:when={number}") == 0
    assert case.stored() == [HEADER + case.body]
    assert case.stored("tmp") == []


class Disk:
    """What survives a power failure: a file's contents as of its last fsync, names as of their directory's."""

    def __init__(self) -> None:
        self.cwd = "/"
        self.files: dict[str, dict[str, int]] = {}  # path -> bytes written, bytes synced
        self.names: set[str] = set()
        self.durable: set[str] = set()

    def path(self, name: str) -> str:
        return os.path.normpath(os.path.join(self.cwd, name))

    def run(self, name: str, arguments: str, result: int) -> None:
        quoted = [self.path(path) for path in re.findall(r'"([^"]*)"', arguments)]
        (opened,) = re.findall(r"^\d+<([^>]*)>", arguments) or [""]
        if name == "chdir":
            self.cwd = quoted[0]
        elif name == "mkdir":
            self.names.add(quoted[0])
        elif name == "openat" and "O_CREAT" in arguments:
            self.names.add(quoted[0])
            self.files[quoted[0]] = {"written": 0, "synced": 0}
        elif name == "write" and opened in self.files:
            self.files[opened]["written"] += result
        elif name == "rename":
            self.names = self.names - {quoted[0]} | {quoted[1]}
            self.files[quoted[1]] = self.files.pop(quoted[0])
        elif name == "fsync" and opened in self.files:
            self.files[opened]["synced"] = self.files[opened]["written"]
        elif name == "fsync":
            self.durable |= {path for path in self.names if os.path.dirname(path) == opened}


def lost_by_power_failure(case, calls):
    """Replay the calls on a model disk. Return what a power failure after any of them would lose, or None."""
    disk = Disk()
    disk.cwd = os.getcwd()
    for _, _, line in calls:
        call = CALL.match(line)
        if call["result"] in ("?", "-1"):
            continue
        disk.run(call["name"], call["arguments"], int(call["result"]))
        for path, file in disk.files.items():
            if "/new/" in path and file["synced"] != len(HEADER) + len(case.body):
                return "new contains an incomplete message"
    (message,) = disk.files
    needed = {message, str(case.maildir / "new"), str(case.maildir)}
    return f"names are lost: {needed - disk.durable}" if needed - disk.durable else None


def test_a_power_failure_at_any_time_loses_no_accepted_message(case):
    assert case.deliver() == 0
    assert lost_by_power_failure(case, case.calls()) is None


def test_without_any_one_of_its_fsyncs_a_power_failure_could_lose_the_message(case):
    assert case.deliver() == 0
    calls = case.calls()
    syncs = [index for index, call in enumerate(calls) if call[0] == "fsync"]
    assert len(syncs) == 4  # the Maildir's name, its parts, the file, the file's name
    for index in syncs:
        assert lost_by_power_failure(case, calls[:index] + calls[index + 1 :]), calls[index]
