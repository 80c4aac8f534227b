"""The rules file under a running tcpserver: a new one counts at once, a broken one lets nobody in."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcpserver.parent.rulesfile import IN_MEMORY
from tests.kit.server import Server, compiled, descriptors, until
from tests.kit.support import peer, script

C = "/usr/bin/tcpserver"
WAYS = {"parent": ["-RHl0"], "child": ["-RHl0", "-B."]}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> list[str]:
    return WAYS[request.param]


@pytest.fixture
def cdb(tmp_path: Path) -> Path:
    return compiled(tmp_path / "cdb", ':allow,RULE="0"\n')


def serving(way: list[str], cdb: Path, *options: str) -> Server:
    return Server(["-v", *way, *options, "-x", str(cdb), "127.0.0.1", "0", "sh", "-c", "echo $RULE"])


def rule(server: Server) -> str:
    return server.ask().decode().removeprefix(".").strip()


def by_tcprules(cdb: Path, number: int) -> None:
    compiled(cdb, f':allow,RULE="{number}"\n')


def by_rename(cdb: Path, number: int) -> None:
    compiled(cdb.with_name("new"), f':allow,RULE="{number}"\n').rename(cdb)


def by_cp(cdb: Path, number: int) -> None:
    shutil.copyfile(compiled(cdb.with_name("new"), f':allow,RULE="{number}"\n'), cdb)


def by_cp_of_the_same_size_and_time(cdb: Path, number: int) -> None:
    before = cdb.stat()
    by_cp(cdb, number)
    os.utime(cdb, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cdb.stat().st_size == before.st_size


def by_writing_in_place(cdb: Path, number: int) -> None:
    new = compiled(cdb.with_name("new"), f':allow,RULE="{number}"\n').read_bytes()
    with cdb.open("r+b") as file:
        file.write(new)


def by_a_link(cdb: Path, number: int) -> None:
    compiled(cdb.with_name(f"rules.{number}"), f':allow,RULE="{number}"\n')
    link = cdb.with_name("link")
    link.symlink_to(f"rules.{number}")
    link.rename(cdb)


CHANGES = [by_tcprules, by_rename, by_cp, by_cp_of_the_same_size_and_time, by_writing_in_place, by_a_link]


@pytest.mark.parametrize("change", CHANGES)
def test_a_new_rules_file_counts_from_the_next_connection_on(
    way: list[str], cdb: Path, change: Callable[[Path, int], None]
) -> None:
    with serving(way, cdb) as server:
        for number in range(1, 9):  # several changes within a second: none is missed
            assert rule(server) == str(number - 1)
            change(cdb, number)
        assert rule(server) == "8"


@pytest.mark.slow
def test_a_rules_file_that_is_trusted_from_memory_is_not_trusted_once_it_has_changed(tmp_path: Path) -> None:
    """The parent trusts its copy of a file 2 s after the file's last change: all changes wait for that at once."""
    rules, servers = [], []
    with ExitStack() as stack:
        for change in CHANGES:
            (tmp_path / change.__name__).mkdir()
            rules.append(compiled(tmp_path / change.__name__ / "cdb", ':allow,RULE="0"\n'))
            servers.append(stack.enter_context(serving(WAYS["parent"], rules[-1])))
        until(lambda: time.time() - rules[-1].stat().st_ctime > 2.2)
        for change, cdb, server in zip(CHANGES, rules, servers, strict=True):
            assert rule(server) == rule(server) == "0"
            before = descriptors(server.pid)
            for number in range(1, 6):
                change(cdb, number)
                assert rule(server) == str(number), change.__name__
            assert descriptors(server.pid) <= before, change.__name__


@pytest.mark.slow
def test_a_rules_file_too_large_to_be_kept_in_memory_is_read_where_it_is(tmp_path: Path) -> None:
    lines = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:deny\n" for n in range(130_000))
    cdb = compiled(tmp_path / "cdb", lines + ':allow,RULE="0"\n')
    assert cdb.stat().st_size > IN_MEMORY
    with serving(WAYS["parent"], cdb) as server:
        until(lambda: time.time() - cdb.stat().st_ctime > 2.2)
        assert rule(server) == rule(server) == "0"
        opened = [os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()]
        assert str(cdb) in opened
        by_rename(cdb, 1)
        assert rule(server) == "1"


BROKEN: dict[str, tuple[bytes, bytes]] = {  # content of the file -> djb's message
    "empty": (b"", b"protocol error"),
    "half a header": (b"\0" * 1000, b"protocol error"),
    "text": (b"127.0.0.1:allow\n" * 1000, b"protocol error"),
    "zeros, after a crash": (b"\0" * 4096, b"protocol error"),
    "cut short": (b"\x00\x08\x00\x00\x02\x00\x00\x00" * 256, b"protocol error"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("option", ["-Q", "-X"], ids=["plain", "-X"])
def test_a_broken_rules_file_lets_nobody_in(way: list[str], cdb: Path, case: str, option: str) -> None:
    data, words = BROKEN[case]
    with serving(way, cdb, option, "-v") as server:
        assert rule(server) == "0"
        cdb.write_bytes(data)
        assert rule(server) == ""
        warning = b"tcpserver: warning: dropping connection, unable to read %s: %s\n" % (os.fsencode(cdb), words)
        assert warning in server.wait_for_log(rb"warning")
        by_tcprules(cdb, 1)
        assert rule(server) == "1"


UNREADABLE: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "missing": (lambda cdb: cdb.unlink(), b"file does not exist"),
    "a directory": (lambda cdb: (cdb.unlink(), cdb.mkdir()), b"is a directory"),
    "a FIFO": (lambda cdb: (cdb.unlink(), os.mkfifo(cdb)), b"unseekable descriptor"),
    "below a file": (lambda cdb: (shutil.rmtree(cdb.parent), cdb.parent.write_text("")), b"not a directory"),
    "a loop": (lambda cdb: (cdb.unlink(), cdb.symlink_to(cdb)), b"symbolic link loop"),
    "a link that leads nowhere": (lambda cdb: (cdb.unlink(), cdb.symlink_to("none")), b"file does not exist"),
    "below a link that leads nowhere": (
        lambda cdb: (shutil.rmtree(cdb.parent), cdb.parent.symlink_to("none")),
        b"file does not exist",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_rules_file_lets_nobody_in(way: list[str], tmp_path: Path, case: str) -> None:
    (tmp_path / "etc").mkdir()
    cdb = compiled(tmp_path / "etc" / "cdb", ':allow,RULE="0"\n')
    spoil, words = UNREADABLE[case]
    with serving(way, cdb) as server, serving(way, cdb, "-X") as forgiving:
        assert rule(server) == rule(forgiving) == "0"
        spoil(cdb)
        warning = b"tcpserver: warning: dropping connection, unable to read %s: %s\n" % (os.fsencode(cdb), words)
        assert server.ask() == (b"." if "-B." in way else b"")
        assert warning in server.wait_for_log(rb"warning")
        answer = forgiving.ask().removeprefix(b".")
        if case == "missing":  # -X forgives only ENOENT: everybody may connect, as without -x
            assert answer == b"\n"
        else:
            assert answer == b""
            assert warning in forgiving.wait_for_log(rb"warning")


def test_a_header_of_empty_tables_is_an_empty_rules_file(way: list[str], cdb: Path) -> None:
    """As in 0.88. It is not intended, but 2048 zero bytes are a cdb without records."""
    cdb.write_bytes(b"\0" * 2048)
    with serving(way, cdb) as server:
        assert server.ask().removeprefix(b".") == b"\n"


@pytest.mark.peer
def test_words_and_status_of_a_dropped_connection_are_the_originals(cdb: Path) -> None:
    cdb.write_bytes(b"x" * 5000)
    logs = []
    for program in (script("tcpserver"), peer(C)):
        with Server(["-RHl0", "-B.", "-x", str(cdb), "127.0.0.1", "0", "true"], program) as server:
            assert server.ask() == b"."
            logs.append(server.wait_for_log(rb"\n"))
    assert logs[0] == logs[1]


def test_a_relative_path_is_seen_from_the_directory_of_the_start(way: list[str], cdb: Path) -> None:
    words = [*way, "-x", "cdb", "127.0.0.1", "0", "sh", "-c", "echo $RULE"]
    with Server(words, cwd=cdb.parent) as server:
        assert rule(server) == "0"


def test_a_writer_that_truncates_the_file_while_it_is_read_never_lets_anybody_in(
    way: list[str], tmp_path: Path
) -> None:
    """`cp` over the live file: each client is judged by the old rules or the new ones, or dropped. All deny."""
    denied = compiled(tmp_path / "denied", "".join(f"10.0.{n}.1:deny\n" for n in range(200)) + ":deny\n")
    cdb = tmp_path / "cdb"
    shutil.copyfile(denied, cdb)
    code = "import shutil, sys\nwhile True: shutil.copyfile(sys.argv[1], sys.argv[2])"
    writer = subprocess.Popen([sys.executable, "-c", code, denied, cdb])
    try:
        with Server([*way, "-x", str(cdb), "127.0.0.1", "0", "echo", "in"]) as server:
            for _ in range(60):
                assert server.ask().removeprefix(b".") == b""
    finally:
        writer.kill()
        writer.wait()


@pytest.fixture(scope="module")
def denying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    cdb = compiled(tmp_path_factory.mktemp("deny") / "cdb", "127.0.0.2:deny\n:allow\n")
    with Server(["-vRHl0", "-x", str(cdb), "127.0.0.1", "0", "echo", "in"]) as server:
        yield server


def test_who_is_denied_in_the_parent_leaves_one_line_with_the_parents_pid(denying: Server) -> None:
    with denying.connect(source="127.0.0.2") as client:
        port = client.getsockname()[1]
        assert client.recv(100) == b""
    line = b"tcpserver: deny %d 0:127.0.0.1:%d :127.0.0.2::%d\n" % (denying.pid, denying.port, port)
    denying.wait_for_log(re.escape(line))
    assert denying.ask() == b"in\n"
    assert re.findall(rb".*:%d\b.*\n" % port, denying.log()) == [line]  # nothing else about this client


def test_who_is_denied_after_it_has_sent_something_sees_a_reset(denying: Server) -> None:
    """As with 0.88: the socket is closed with what it has not read."""
    with denying.connect(source="127.0.0.2") as client:
        try:
            client.sendall(b"EHLO me\r\n")
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass


def test_a_banner_is_read_by_the_denied(cdb: Path) -> None:
    compiled(cdb, ":deny\n")
    with Server(["-RHl0", "-B220 hello\r\n", "-x", str(cdb), "127.0.0.1", "0", "true"]) as server:
        assert server.ask() == b"220 hello\r\n"


def test_a_large_banner_reaches_a_client_that_reads_late(cdb: Path) -> None:
    banner = "x" * 100_000
    with Server(["-RHl0", "-B", banner, "127.0.0.1", "0", "echo", "end"]) as server:
        assert server.ask() == banner.encode() + b"end\n"


def test_a_variable_without_a_name_is_skipped(way: list[str], cdb: Path) -> None:
    compiled(cdb, ':allow,="x",RULE="kept"\n')
    with serving(way, cdb) as server:
        assert rule(server) == "kept"


def test_an_environment_that_is_too_large_is_reported_as_by_exec(way: list[str], cdb: Path) -> None:
    compiled(cdb, f':allow,RULE="{"x" * 200_000}"\n')
    with serving(way, cdb) as server:
        assert rule(server) == ""
        assert b"unable to run sh: argument list too long\n" in server.wait_for_log(rb"warning")


def test_a_variable_without_a_name_is_skipped_with_a_warning(way: list[str], cdb: Path) -> None:
    compiled(cdb, ':allow,="nameless",RULE="named"\n')
    with serving(way, cdb) as server:
        assert rule(server) == "named"
        until(lambda: b"end " in server.log())
        assert server.log().count(b"tcpserver: warning: rule  sets a variable without a name: it is skipped\n") == 1
