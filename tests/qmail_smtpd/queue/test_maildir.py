"""maildir-queue: what it stores, each exit code with real files, and that a failure leaves nothing behind."""

import fcntl
import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from array import array
from pathlib import Path

import pytest

from qmail_smtpd.queue import maildir as program
from qmail_smtpd.queue.intake import Failure
from tests.kit.support import script

PROGRAM = script("maildir-queue")
MESSAGE = b"Received: from somewhere\n  by here\nSubject: test\n\nbody\n"
ENVELOPE = b"Fsender@example.com\0Tone@example.com\0Ttwo@example.net\0\0"
HEADER = b"Return-Path: <sender@example.com>\nDelivered-To: one@example.com\nDelivered-To: two@example.net\n"
LARGE = 50_000_000  # bytes
SMALL_DISK = 262144  # bytes of a tmpfs that a message of a megabyte fills
NAME = re.compile(r"\d{10,}\.M\d{1,6}P\d+R[0-9a-f]{16}\.[^/:]+")

# without these capabilities, file permissions apply to root as well
WITHOUT_PRIVILEGE = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

# a small parent process, because a child's peak memory starts with its parent's
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def queue(maildir, message=MESSAGE, envelope=ENVELOPE, wrapper=(), **options):
    """Run maildir-queue as qmail-smtpd does, but with files on 0 and 1. `maildir` None leaves $QUEUE_MAILDIR unset."""
    environ = {key: value for key, value in os.environ.items() if key != "QUEUE_MAILDIR"}
    if maildir is not None:
        environ["QUEUE_MAILDIR"] = str(maildir)
    files = [memory_file(message), memory_file(envelope)]
    try:
        return subprocess.run(
            [*wrapper, PROGRAM], stdin=files[0], stdout=files[1], stderr=subprocess.PIPE, env=environ, **options
        )
    finally:
        for descriptor in files:
            os.close(descriptor)


def memory_file(content):
    descriptor = os.memfd_create("input")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def stored(maildir):
    return sorted(path.read_bytes() for path in (Path(maildir) / "new").iterdir())


def assert_nothing_stored(maildir):
    assert [path for part in ("tmp", "new", "cur") for path in (maildir / part).glob("*")] == []


@pytest.fixture
def maildir(tmp_path):
    path = tmp_path / "Maildir"
    for part in ("", "tmp", "new", "cur"):
        (path / part).mkdir()
    return path


# what is stored


def test_a_message_is_stored_after_the_header_lines_of_its_envelope(maildir):
    result = queue(maildir)
    assert (result.returncode, result.stderr) == (0, b"")
    assert stored(maildir) == [HEADER + MESSAGE]
    assert list((maildir / "tmp").iterdir()) == []


def test_a_missing_maildir_is_created_for_its_owner_alone(tmp_path):
    maildir = tmp_path / "Maildir"
    assert queue(maildir).returncode == 0
    assert stored(maildir) == [HEADER + MESSAGE]
    modes = {part: oct((maildir / part).stat().st_mode) for part in ("", "tmp", "new", "cur")}
    assert modes == dict.fromkeys(modes, "0o40700")
    (message,) = (maildir / "new").iterdir()
    assert oct(message.stat().st_mode) == "0o100600"


@pytest.mark.parametrize("missing", ["tmp", "new", "cur"])
def test_a_missing_part_of_a_maildir_is_created(maildir, missing):
    (maildir / missing).rmdir()
    assert queue(maildir).returncode == 0
    assert (maildir / missing).is_dir()
    assert stored(maildir) == [HEADER + MESSAGE]


def test_a_relative_maildir_with_a_slash_at_its_end_is_created_in_the_current_directory(tmp_path):
    assert queue("./Maildir/", cwd=tmp_path).returncode == 0
    assert stored(tmp_path / "Maildir") == [HEADER + MESSAGE]


@pytest.mark.parametrize(
    ("envelope", "header"),
    [
        (b"F\0Ta@b\0\0", b"Return-Path: <>\nDelivered-To: a@b\n"),
        (b"Fa@b\0T\0\0", b"Return-Path: <a@b>\nDelivered-To: \n"),
        (b"Fa@b\0\0", b"Return-Path: <a@b>\n"),
        (b"Fa\nb@c\0Td\r\ne@f\0\0", b"Return-Path: <a_b@c>\nDelivered-To: d__e@f\n"),
        (b"F\n\nX: y\0T\nX: y\0\0", b"Return-Path: <__X: y>\nDelivered-To: _X: y\n"),
        (b"Fa@\xff\0T\xe9\x01@b\0\0", b"Return-Path: <a@\xff>\nDelivered-To: \xe9\x01@b\n"),
        (b"Fa@b\0Tc@d\0Tc@d\0\0", b"Return-Path: <a@b>\nDelivered-To: c@d\nDelivered-To: c@d\n"),
    ],
)
def test_each_address_is_one_line_of_the_header(maildir, envelope, header):
    assert queue(maildir, envelope=envelope).returncode == 0
    assert stored(maildir) == [header + MESSAGE]


@pytest.mark.parametrize("message", [b"", b"\n", b"no line end", b"\0\xff\r\n.\r\n", b"\nTo: x\n\n" * 60_000])
def test_the_message_is_stored_to_the_byte(maildir, message):
    assert queue(maildir, message=message).returncode == 0
    assert stored(maildir) == [HEADER + message]


@pytest.mark.parametrize("size", [262_143, 262_144, 262_145, 327_680, 1_000_003])
def test_a_message_that_is_spooled_is_stored_to_the_byte(maildir, size):
    message = os.urandom(size)
    assert queue(maildir, message=message).returncode == 0
    assert stored(maildir) == [HEADER + message]
    assert list((maildir / "tmp").iterdir()) == []


def test_ten_thousand_recipients_are_stored(maildir):
    recipients = [b"%d@example.com" % number for number in range(10_000)]
    envelope = b"Fa@b\0" + b"".join(b"T" + recipient + b"\0" for recipient in recipients) + b"\0"
    assert queue(maildir, envelope=envelope).returncode == 0
    lines = [b"Return-Path: <a@b>", *(b"Delivered-To: " + recipient for recipient in recipients)]
    assert stored(maildir) == [b"\n".join(lines) + b"\n" + MESSAGE]


def test_a_large_message_is_stored_in_little_memory(maildir, tmp_path):
    source = tmp_path / "message"
    with source.open("wb") as file:
        for _ in range(LARGE // 1_000_000):
            file.write(os.urandom(1_000_000))
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    with source.open("rb") as message:
        command = [sys.executable, "-c", MEASURE, PROGRAM]
        result = subprocess.run(
            command, stdin=message, stdout=memory_file(ENVELOPE), stderr=subprocess.PIPE, env=environ
        )
    code, kilobytes = result.stderr.split()
    assert code == b"0"
    assert int(kilobytes) < 20_000
    (path,) = (maildir / "new").iterdir()
    with path.open("rb") as file:
        assert file.read(len(HEADER)) == HEADER
        digest = hashlib.file_digest(file, "sha256")
    with source.open("rb") as file:
        assert digest.digest() == hashlib.file_digest(file, "sha256").digest()


def test_the_caller_may_keep_its_end_of_the_envelope_open(maildir):
    reader, writer = os.pipe()
    os.write(writer, ENVELOPE + b"Tmore@example.com\0\0")
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    assert subprocess.run([PROGRAM], input=None, stdin=subprocess.DEVNULL, stdout=reader, env=environ).returncode == 0
    os.close(reader)
    os.close(writer)
    assert stored(maildir) == [HEADER]


def test_file_names_are_unique_and_hold_the_time_and_the_host(maildir):
    before = int(time.time())
    for _ in range(3):
        assert queue(maildir).returncode == 0
    names = [path.name for path in (maildir / "new").iterdir()]
    assert len(names) == 3
    for name in names:
        assert NAME.fullmatch(name)
        assert before <= int(name.split(".")[0]) <= time.time()
        assert name.split(".", 2)[2] == os.uname().nodename.replace("/", r"\057").replace(":", r"\072")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set a host name")
def test_a_host_name_cannot_break_the_name_of_a_file(maildir):
    wrapper = ["unshare", "--uts", "sh", "-c", 'printf a/b:c >/proc/sys/kernel/hostname && exec "$0"']
    assert queue(maildir, wrapper=wrapper).returncode == 0
    (path,) = (maildir / "new").iterdir()
    assert path.name.endswith(r".a\057b\072c")


@pytest.mark.slow
def test_twenty_writers_at_once_lose_nothing(tmp_path):
    maildir = tmp_path / "Maildir"
    codes = []

    def write(writer):
        for number in range(10):
            message = b"%d-%d\n" % (writer, number)
            codes.append(queue(maildir, message=message, envelope=b"Fa\0Tb\0\0").returncode)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(20)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert codes == [0] * 200
    bodies = [b"%d-%d\n" % (writer, number) for writer in range(20) for number in range(10)]
    assert stored(maildir) == sorted(b"Return-Path: <a>\nDelivered-To: b\n" + body for body in bodies)
    assert list((maildir / "tmp").iterdir()) == []


# refusals


@pytest.mark.parametrize(
    ("envelope", "status"),
    [
        (b"", 54),
        (b"F", 54),
        (b"Fa@b", 54),
        (b"Fa@b\0", 54),
        (b"Fa@b\0Tc@d", 54),
        (b"Fa@b\0Tc@d\0", 54),
        (b"\0", 54),
        (b"\0\0", 54),
        (b"Tc@d\0\0", 54),
        (b"fa@b\0Tc@d\0\0", 54),
        (b"Fa@b\0Cc@d\0\0", 54),
        (b"Fa@b\0Tc@d\0Fe@f\0\0", 54),
        (b"Fa@b\0T" + b"x" * 1002 + b"\0\0", 0),
        (b"Fa@b\0T" + b"x" * 1003 + b"\0\0", 11),
        (b"F" + b"x" * 1002 + b"\0Tc@d\0\0", 0),
        (b"F" + b"x" * 1003 + b"\0Tc@d\0\0", 11),
    ],
)
@pytest.mark.parametrize("size", [10, 400_000])
def test_a_message_is_stored_only_with_a_complete_envelope(maildir, envelope, status, size):
    result = queue(maildir, message=b"x" * size, envelope=envelope)
    assert result.returncode == status
    if status:
        assert result.stderr.startswith(b"maildir-queue: fatal: envelope ")
        assert_nothing_stored(maildir)
    else:
        assert len(stored(maildir)) == 1


@pytest.mark.parametrize("maildir", [None, ""])
def test_without_queue_maildir_the_exit_code_is_55(maildir, tmp_path):
    result = queue(maildir, cwd=tmp_path)
    assert result.returncode == 55
    assert result.stderr == b"maildir-queue: fatal: $QUEUE_MAILDIR is not set\n"
    assert list(tmp_path.iterdir()) == []


def with_closed(*descriptors):
    return ["sh", "-c", 'exec "$0" ' + " ".join(f"{descriptor}>&-" for descriptor in descriptors)]


@pytest.mark.parametrize("descriptors", [(0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("size", [10, 400_000])
def test_a_closed_descriptor_is_a_read_error_and_never_another_file(maildir, descriptors, size):
    # otherwise the spool would become descriptor 1, and this message would be read as an envelope
    message = ENVELOPE + b"x" * size
    assert queue(maildir, message=message, wrapper=with_closed(*descriptors)).returncode == 54
    assert_nothing_stored(maildir)


def test_a_closed_descriptor_2_harms_nothing(maildir):
    assert queue(maildir, message=b"x" * 400_000, wrapper=with_closed(2)).returncode == 0
    assert stored(maildir) == [HEADER + b"x" * 400_000]
    assert queue(maildir, envelope=b"F", wrapper=with_closed(2)).returncode == 54


def test_descriptors_that_cannot_be_read_are_read_errors(maildir, tmp_path):
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    with open(tmp_path / "out", "wb") as write_only:
        no_envelope = subprocess.run([PROGRAM], stdin=subprocess.DEVNULL, stdout=write_only, env=environ)
        no_message = subprocess.run([PROGRAM], stdin=write_only, stdout=memory_file(ENVELOPE), env=environ)
    assert (no_envelope.returncode, no_message.returncode) == (54, 54)
    assert_nothing_stored(maildir)


def test_nothing_is_written_to_a_socket_on_descriptor_2(maildir):
    client, server = socket.socketpair()
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    subprocess.run([PROGRAM], stdin=subprocess.DEVNULL, stdout=memory_file(b"F"), stderr=server, env=environ)
    server.close()
    assert client.recv(1000) == b""
    client.close()


def unreachable(path):
    return path / "missing" / "Maildir"


def behind_a_file(path):
    (path / "file").touch()
    return path / "file" / "Maildir"


def a_file(path):
    (path / "file").touch()
    return path / "file"


def dangling_link(path):
    (path / "link").symlink_to(path / "missing")
    return path / "link"


def forbidden_parent(path):
    path.chmod(0o500)
    return path / "Maildir"


def forbidden_maildir(path):
    (path / "Maildir").mkdir(mode=0o000)
    return path / "Maildir"


@pytest.mark.parametrize(
    "place", [unreachable, behind_a_file, a_file, dangling_link, forbidden_parent, forbidden_maildir]
)
def test_a_maildir_that_cannot_be_created_or_entered_is_61(tmp_path, place):
    result = queue(place(tmp_path), wrapper=WITHOUT_PRIVILEGE)
    assert result.returncode == 61
    assert result.stderr.startswith(b"maildir-queue: fatal: unable to ")


@pytest.mark.parametrize("part", ["tmp", "new", "cur"])
def test_a_part_that_cannot_be_created_is_62(maildir, part):
    (maildir / part).rmdir()
    maildir.chmod(0o500)
    assert queue(maildir, wrapper=WITHOUT_PRIVILEGE).returncode == 62
    assert_nothing_stored(maildir)


@pytest.mark.parametrize("part", ["tmp", "new", "cur"])
def test_a_part_that_is_a_file_is_62(maildir, part):
    (maildir / part).rmdir()
    (maildir / part).touch()
    assert queue(maildir).returncode == 62


@pytest.mark.parametrize("size", [10, 400_000])
def test_a_read_only_tmp_is_64(maildir, size):
    (maildir / "tmp").chmod(0o500)
    assert queue(maildir, message=b"x" * size, wrapper=WITHOUT_PRIVILEGE).returncode == 64
    assert_nothing_stored(maildir)


@pytest.mark.parametrize("size", [10, 400_000])
def test_a_read_only_new_is_66_and_tmp_is_left_clean(maildir, size):
    (maildir / "new").chmod(0o500)
    assert queue(maildir, message=b"x" * size, wrapper=WITHOUT_PRIVILEGE).returncode == 66
    assert_nothing_stored(maildir)


def test_mail_is_stored_in_directories_that_are_writable_but_not_readable(tmp_path):
    tmp_path.chmod(0o300)
    assert queue(tmp_path / "Maildir", wrapper=WITHOUT_PRIVILEGE).returncode == 0
    (tmp_path / "Maildir" / "new").chmod(0o300)
    assert queue(tmp_path / "Maildir", wrapper=WITHOUT_PRIVILEGE).returncode == 0
    tmp_path.chmod(0o700)
    (tmp_path / "Maildir" / "new").chmod(0o700)
    assert stored(tmp_path / "Maildir") == [HEADER + MESSAGE] * 2


@pytest.mark.parametrize(("limit", "size"), [(4096, 10_000), (300_000, 400_000)])
def test_a_file_larger_than_the_limit_is_a_write_error(maildir, limit, size):
    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert queue(maildir, message=b"x" * size, preexec_fn=set_limit).returncode == 53
    assert_nothing_stored(maildir)


# a session that has the program loaded: what fails to write, and how many descriptors are left open
SESSION = """
import os, resource, sys
from qmail_smtpd.queue import maildir
limit, size = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    message = maildir.open_message(os.environb)
    message.write(b"x" * size)
    message.write(b"x" * size)
    print(message.close(b"Fa\\0Tb\\0\\0"))
print(len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.parametrize(("limit", "size"), [(4096, 10_000), (300_000, 200_000), (4096, 400_000), (500_000, 400_000)])
def test_messages_that_fail_leave_no_descriptor_open_in_their_session(maildir, limit, size):
    """With -B, because the limit would also truncate Python's cached bytecode."""
    command = [sys.executable, "-B", "-c", SESSION, str(limit), str(size)]
    result = subprocess.run(command, env={**os.environ, "QUEUE_MAILDIR": str(maildir)}, capture_output=True)
    assert result.stdout.split() == [b"53", b"53", b"53", b"0"], result.stderr
    assert_nothing_stored(maildir)


def test_a_directory_that_cannot_be_synced_is_closed():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Invalid argument"):
        program.sync_directory(b"/proc")
    assert os.listdir("/proc/self/fd") == before


def test_a_spool_whose_name_cannot_be_removed_is_closed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without tmp
    reader, writer = os.pipe()
    monkeypatch.setattr(program, "create", lambda: ("gone", writer))
    with pytest.raises(Failure):
        program.open_spool()
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_message_is_given_up_even_if_its_spool_cannot_be_closed(maildir):
    message = program.open_message({b"QUEUE_MAILDIR": bytes(maildir)})
    message.spooled = 1 << 20
    home = message.home
    message.abandon()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(home)


@pytest.mark.slow
def test_an_envelope_larger_than_memory_is_51(maildir):
    def set_limit():
        resource.setrlimit(resource.RLIMIT_AS, (96 << 20, 96 << 20))

    result = queue(maildir, envelope=b"Fa\0" + b"T\0" * 20_000_000, preexec_fn=set_limit)
    assert result.returncode == 51
    assert_nothing_stored(maildir)


SHORT_LIVED = "from qmail_smtpd.queue import intake, maildir; intake.DEATH = 0.3; maildir.main()"


@pytest.mark.parametrize("message", [b"", b"x" * 400_000])
def test_a_caller_that_does_not_finish_message_and_envelope_in_time_is_52(maildir, message):
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    silent, never_written = os.pipe()
    for files in (
        {"stdin": silent, "stdout": memory_file(ENVELOPE)},
        {"stdin": memory_file(message), "stdout": silent},
    ):
        result = subprocess.run([sys.executable, "-c", SHORT_LIVED], env=environ, stderr=subprocess.PIPE, **files)
        assert result.returncode == 52
        assert result.stderr == b"maildir-queue: fatal: unable to read: timed out\n"
    os.close(silent)
    os.close(never_written)
    assert_nothing_stored(maildir)


@pytest.fixture
def small_disk(tmp_path):
    """mount(options) -> a Maildir on a tmpfs of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True, stderr=subprocess.PIPE)
        for part in ("", "tmp", "new", "cur"):
            (disk / "Maildir" / part).mkdir()
        return disk / "Maildir"

    yield mount
    subprocess.run(["umount", disk], check=False, stderr=subprocess.PIPE)


@needs_root
@pytest.mark.parametrize("size", [SMALL_DISK, 1_000_000])
def test_a_full_disk_is_53_and_leaves_nothing(small_disk, size):
    maildir = small_disk(f"size={SMALL_DISK}")
    assert queue(maildir, message=b"x" * size).returncode == 53
    assert_nothing_stored(maildir)
    assert queue(maildir).returncode == 0


@needs_root
def test_a_disk_without_inodes_is_53(small_disk):
    maildir = small_disk("nr_inodes=6")
    assert queue(maildir).returncode == 0
    for message in (MESSAGE, b"x" * 400_000):
        result = queue(maildir, message=message)
        assert (result.returncode, result.stderr.rsplit(b": ", 1)[1]) == (53, b"out of disk space\n")
    assert stored(maildir) == [HEADER + MESSAGE]
    assert list((maildir / "tmp").iterdir()) == []


@needs_root
def test_a_read_only_disk_is_64(small_disk, tmp_path):
    maildir = small_disk("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
    assert queue(maildir).returncode == 64
    assert queue(tmp_path / "disk" / "Other").returncode == 61
    assert_nothing_stored(maildir)


# signals


def start_waiting_for_envelope(maildir, size):
    """Return a process that has read its message and the beginning of its envelope, and the descriptor for the rest."""
    reader, writer = os.pipe()
    environ = {**os.environ, "QUEUE_MAILDIR": str(maildir)}
    child = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=reader, stderr=subprocess.PIPE, env=environ)
    os.close(reader)
    os.write(writer, b"Fa@b\0")
    child.stdin.write(b"x" * size)
    child.stdin.close()
    child.stdin = None
    while array("i", fcntl.ioctl(writer, termios.FIONREAD, bytes(4)))[0]:
        assert child.poll() is None
        time.sleep(0.01)
    return child, writer


@pytest.mark.parametrize("size", [10, 400_000])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_during_the_envelope_leaves_nothing(maildir, size, number):
    child, envelope = start_waiting_for_envelope(maildir, size)
    child.send_signal(number)
    assert child.communicate() == (None, b"")
    assert child.returncode == -number
    os.close(envelope)
    assert_nothing_stored(maildir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_from_the_terminal_does_not_stop_it(maildir, number):
    child, envelope = start_waiting_for_envelope(maildir, 10)
    child.send_signal(number)
    os.write(envelope, b"Tc@d\0\0")
    os.close(envelope)
    assert child.communicate() == (None, b"")
    assert child.returncode == 0
    assert stored(maildir) == [b"Return-Path: <a@b>\nDelivered-To: c@d\n" + b"x" * 10]


@pytest.mark.parametrize("size", [10, 400_000])
def test_a_caller_that_exits_leaves_nothing(maildir, size):
    child, envelope = start_waiting_for_envelope(maildir, size)
    os.close(envelope)
    child.communicate()
    assert child.returncode == 54
    assert_nothing_stored(maildir)
