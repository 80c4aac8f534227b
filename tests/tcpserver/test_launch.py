"""The ways to run a program, by one table of probes: spawn, fork and exec, fork and call. They differ in cost alone."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.consolescript import EXECUTE, install_script
from tests.kit.server import Server, compiled, read_all, until

WAYS = {
    "spawn": ["-RHl0"],
    "fork and exec": ["-Rhl0"],
    "fork and call": ["-RHl0", "--preload", "obey", "--preload", "other", "--reuse", "1"],
    "fork, ask and call": ["-Rhl0", "--preload", "obey", "--preload", "other", "--reuse", "1"],
    "call again": ["-RHl0", "--preload", "obey", "--preload", "other", "--reuse", "1000"],
    "ask and call again": ["-Rhl0", "--preload", "obey", "--preload", "other", "--reuse", "1000"],
}
CALLED = ["fork and call", "fork, ask and call", "call again", "ask and call again"]
WORDS = ["obey", "two words", "", "-v", "\u00e9", "\udcff"]
GIVEN = {
    "GIVEN": "\u00e9",
    "LC_ALL": "C.UTF-8",  # in the C locale an exec'd script gets LC_CTYPE from its own interpreter (PEP 538)
    "PROTO": "UDP",
    "TCPREMOTEINFO": "inherited",
    "LISTEN_FDNAMES": "x",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "NOTIFY_SOCKET": "/nonexistent/notify",
    "TCP6REMOTEIP": "inherited",
}
OTHER = """
import os, sys

def main():
    print('other', sys.argv[1:], os.environ.get('NEW'), os.environ.get('GIVEN'), sys.stdin.readline().strip())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scripts")
    install_script(directory, "obey", EXECUTE)
    install_script(directory, "other", OTHER)
    return directory


def started(home: Path, way: str, *options: str) -> Server:
    """A server that runs `obey` this way, by its name in PATH."""
    environ = GIVEN | {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", *WAYS[way], *options, "127.0.0.1", "0", *WORDS]
    return Server(words, environ=environ, cwd=home, preexec=lambda: os.umask(0o27))


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[dict[str, Server]]:
    running = {way: started(home, way).__enter__() for way in WAYS}
    yield running
    for server in running.values():
        server.__exit__()


def obeyed(server: Server, code: str, data: bytes = b"") -> bytes:
    """Return what a program sends that executes `code`; `data` is its input."""
    return server.ask(code.encode() + b"\n\n" + data)


IMPORTS = (
    "import gc, os, random, resource, signal, subprocess, sys, threading; streams = sys.stdin, sys.stdout, sys.stderr"
)
PROBES = {  # what -> an expression, which must have the same value in every way
    "argv": "sys.argv",
    "argv as bytes": "[os.fsencode(word) for word in sys.argv]",
    "environment": "sorted(pair for pair in os.environb.items() if not pair[0].endswith((b'PORT', b'REMOTEHOST')))",
    "environment of a child": "sorted(line for line in subprocess.run('env', stdout=-1).stdout.split(b'\\n')"
    " if b'PORT=' not in line and b'REMOTEHOST=' not in line)",
    # A process that serves one client after the other has three of its own, from 10 on, which nobody inherits.
    "descriptors": "[n for n in sorted(map(int, os.listdir('/proc/self/fd'))) if n < 10 or os.get_inheritable(n)]",
    "many descriptors": "len(os.listdir('/proc/self/fd')) < 9",
    "descriptors of a child": "subprocess.run(['ls', '/proc/self/fd'], stdout=subprocess.PIPE).stdout",
    "one socket": "os.fstat(0).st_ino == os.fstat(1).st_ino",
    "inheritable": "[os.get_inheritable(number) for number in range(3)]",
    "blocking": "[os.get_blocking(number) for number in range(3)]",
    "umask": "os.umask(0)",
    "directory": "os.getcwd()",
    "signals": "[getattr(signal.getsignal(n), '__name__', signal.getsignal(n)) for n in range(1, 32)]",
    "signals as the kernel sees them": "[(line[:6], int(line.split()[1], 16) & 0x7fffffff)"
    " for line in open('/proc/self/status') if line[:6] in ('SigCgt', 'SigBlk', 'SigIgn', 'SigPnd', 'ShdPnd')]",
    "wake-up descriptor": "signal.set_wakeup_fd(-1)",
    "encodings": "[(f.encoding, f.errors, f.newlines, f.mode, f.name) for f in streams]",
    "buffering": "[(f.line_buffering, f.write_through, f.isatty(), f.seekable()) for f in streams]",
    "raw streams": "[(type(f.buffer), f.fileno(), f.buffer.raw.seekable(), f.buffer.raw.mode) for f in streams]",
    "original streams": "streams == (sys.__stdin__, sys.__stdout__, sys.__stderr__)",
    "garbage collection": "(gc.isenabled(), gc.get_threshold())",
    "parent": "(os.getppid() == PARENT, os.getsid(0) == os.getsid(PARENT), os.getpgid(0) == os.getpgid(PARENT))",
    "user": "(os.getresuid(), os.getresgid(), os.getgroups())",
    "limits": "[resource.getrlimit(number) for number in range(10)] + [os.nice(0)]",
    "timers": "(signal.getitimer(0), signal.alarm(0), sys.getrecursionlimit())",
    "threads": "(threading.active_count(), threading.main_thread() is threading.current_thread())",
}


@pytest.mark.parametrize("probe", PROBES)
def test_every_way_shows_a_program_the_same(servers: dict[str, Server], probe: str) -> None:
    found = {}
    for way, server in servers.items():
        found[way] = obeyed(server, f"PARENT = {server.pid}; {IMPORTS}; print(ascii({PROBES[probe]}))")
    assert found["spawn"].strip(), servers["spawn"].log()
    for way, answer in found.items():
        assert answer == found["spawn"], way


def test_two_children_do_not_share_their_random_numbers(servers: dict[str, Server]) -> None:
    for server in servers.values():
        answers = {obeyed(server, "import random; print(random.random())") for _ in range(3)}
        assert len(answers) == 3


INPUTS = {
    "sys.stdin.buffer.read": ("print(sys.stdin.buffer.read())", b"b'one\\ntwo\\xff\\n'\n"),
    "sys.stdin.buffer.readline": (
        "print(sys.stdin.buffer.readline(), sys.stdin.buffer.readline())",
        b"b'one\\n' b'two\\xff\\n'\n",
    ),
    "input": ("print(input())", b"one\n"),
    "sys.stdin": ("print([ascii(line) for line in sys.stdin])", b"[\"'one\\\\n'\", \"'two\\\\udcff\\\\n'\"]\n"),
    "os.read": ("print(os.read(0, 3))", b"b'one'\n"),
    "sys.stdout.write without a flush": ("sys.stdout.write('x' * 100000)", b"x" * 100000),
    "sys.stdout.buffer": ("sys.stdout.buffer.write(b'\\xff\\r\\n')", b"\xff\r\n"),
    "text then bytes": ("print('a'); sys.stdout.flush(); os.write(1, b'b')", b"a\nb"),
    "open a descriptor anew": ("open(1, 'w', closefd=False).write('z')", b"z"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_standard_streams_are_fresh_and_work(servers: dict[str, Server], case: str) -> None:
    code, answer = INPUTS[case]
    for way, server in servers.items():
        assert obeyed(server, f"import os, sys; {code}", b"one\ntwo\xff\n") == answer, way


ENDS = {  # how a main ends -> its wait status
    "status = None": 0,
    "status = 0": 0,
    "status = 7": 7 * 256,
    "status = 256": 0,
    "status = -1": 255 * 256,
    "status = True": 256,
    "status = False": 0,
    "status = 'text'": 256,
    "status = ''": 256,
    "status = (1, 2)": 256,
    "status = 2 ** 70": 255 * 256,
    "raise SystemExit": 0,
    "raise SystemExit(9)": 9 * 256,
    "raise SystemExit('text')": 256,
    "raise SystemExit(SystemExit(5))": 256,
    "import sys; sys.exit([])": 256,
    "import os; os._exit(5)": 5 * 256,
    "import os; os.kill(os.getpid(), 9)": 9,
    "import os; os.kill(os.getpid(), 15)": 15,
    "import os; os.kill(os.getpid(), 1)": 1,
    "import sys; sys.stdout.close()": 0,
    "import sys; sys.stdout = None": 0,
    "import sys; sys.stderr = None; status = 'text'": 256,
    "import atexit, os; atexit.register(os._exit, 3)": 3 * 256,
    "import sys, os; sys.stdout.write('x'); os.close(1)": 120 * 256,
}


COMPLAINTS = rb"Exception ignored|OSError|OverflowError"


def ended(server: Server, code: str) -> tuple[bytes, list[bytes]]:
    """Return the wait status of a program that executed `code`, and the lines that it wrote to descriptor 2."""
    before = len(server.log())
    with server.connect() as client:
        port = client.getsockname()[1]
        client.sendall(code.encode() + b"\n\n")
        client.shutdown(socket.SHUT_WR)
        read_all(client)
    pid = line_since(server, before, rb"^tcpserver: ok (\d+) \S+ \S+:%d$" % port)
    begun = server.log().rindex(b"tcpserver: ok %s " % pid)  # with --reuse another client's end may precede it
    status = line_since(server, begun, rb"^tcpserver: end %s status (\d+)$" % pid)
    return status, [line for line in server.log()[before:].splitlines() if not line.startswith(b"tcpserver: ")]


def line_since(server: Server, before: int, pattern: bytes) -> bytes:
    """Return the pattern's group from the log after `before`: an older client may have had the same port."""
    until(lambda: re.search(pattern, server.log()[before:], re.MULTILINE), server.log)
    return re.findall(pattern, server.log()[before:], re.MULTILINE)[0]


@pytest.mark.parametrize("code", ENDS)
def test_a_program_ends_with_the_same_status_and_text(servers: dict[str, Server], code: str) -> None:
    found = {way: ended(server, code) for way, server in servers.items()}
    assert found["spawn"][0] == b"%d" % ENDS[code]
    # At its end an interpreter also prints what went wrong before; a called program has only its status.
    texts = {way: [line for line in lines if not re.match(COMPLAINTS, line)] for way, (_, lines) in found.items()}
    for way in WAYS:
        assert (found[way][0], texts[way]) == (found["spawn"][0], texts["spawn"]), way


RAISED = ["ValueError('a\\nb')", "OSError(5, 'x')", "BrokenPipeError(32, 'x')", "FileNotFoundError(2, 'x')",
          "BlockingIOError(11, 'x')", "ChildProcessError(10, 'x')", "MemoryError()", "KeyboardInterrupt()",
          "RecursionError()", "GeneratorExit()", "BaseException('caf\\u00e9')", "StopIteration()"]  # fmt: skip


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("way", CALLED)
def test_an_exception_ends_that_child_alone_with_one_line(servers: dict[str, Server], way: str, error: str) -> None:
    server = servers[way]
    status, lines = ended(server, f"raise {error}")
    assert status == b"28416"
    assert len(lines) == 1
    assert lines[0].startswith(b"obey: fatal: " + error.split("(")[0].encode())
    arrivals = server.log().count(b"tcpserver: pid ")
    assert obeyed(server, "print('next')") == b"next\n"
    assert server.wait_for_log(b"^tcpserver: pid ", arrivals + 1).count(b"tcpserver: pid ") == arrivals + 1


def test_a_signal_handler_of_the_parent_does_not_reach_the_program(servers: dict[str, Server]) -> None:
    for server in servers.values():
        with server.connect() as client:
            client.sendall(b"import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)\n\n")
            pid = int(client.recv(100))
            os.kill(pid, 10)  # SIGUSR1: the parent answers it, a program dies of it
            assert read_all(client) == b""
        server.wait_for_log(rb"end %d status 10$" % pid)


BECOME = {
    "another preloaded script": ("b'other'", b"other ['1', ''] new None line\n"),
    "by its path": ("HOME + b'/bin/other'", b"other ['1', ''] new None line\n"),
    "a plain file": ("b'/usr/bin/printf'", b"1"),
    "a file found in PATH": ("b'printf'", b"1"),
}


ENVIRONS = {
    "a new one": "environ = {b'NEW': b'new', b'PATH': os.environb[b'PATH'], b'PYTHONPATH': HOME}; ",
    "that of the process": "os.environ['NEW'] = 'new'; del os.environ['GIVEN']; environ = None; ",
}


@pytest.mark.parametrize("environ", ENVIRONS)
@pytest.mark.parametrize("case", BECOME)
def test_a_called_program_becomes_the_next_of_its_chain(
    servers: dict[str, Server], home: Path, case: str, environ: str
) -> None:
    name, answer = BECOME[case]
    code = (
        f"HOME = {os.fsencode(home)}; import os; from tcpserver import chain; {ENVIRONS[environ]}"
        f"error = chain.become([{name}, b'1', b''], environ); print(error)"
    )
    for way, server in servers.items():
        assert obeyed(server, code, b"line\n") == answer, way


@pytest.mark.parametrize("case", BECOME)
def test_a_called_program_goes_on_with_the_words_behind_its_own(
    servers: dict[str, Server], home: Path, case: str
) -> None:
    name, answer = BECOME[case]
    code = (
        f"HOME = {os.fsencode(home)}; import os, sys; from tcpserver import chain; "
        f"os.environ['NEW'] = 'new'; del os.environ['GIVEN']; sys.argv[1:] = [os.fsdecode({name}), '1', '']; "
        "error = chain.become_rest(); print(error)"
    )
    for way, server in servers.items():
        assert obeyed(server, code, b"line\n") == answer, way


def test_what_a_program_opened_for_itself_is_closed_for_the_next_of_its_chain(
    servers: dict[str, Server], home: Path
) -> None:
    """exec closes descriptors that are marked close-on-exec. A call in place of exec must not pass them on."""
    code = (
        "import os, signal, sys; from tcpserver import chain; opened = os.open('/', os.O_RDONLY); "
        "signal.signal(signal.SIGTERM, print); signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "environ = dict(os.environb); "
        "print(chain.become([b'obey'], environ))"
    )
    look = (
        "import os, signal; print(sorted(os.listdir('/proc/self/fd')), signal.getsignal(15), signal.getsignal(1))\n\n"
    )
    found = {way: obeyed(server, code, look.encode()) for way, server in servers.items()}
    assert found["spawn"].startswith(b"['0', '1', '2', '3']")
    assert set(found.values()) == {found["spawn"]}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_rule_sets_for_one_client_no_other_finds(home: Path, tmp_path: Path, way: str) -> None:
    """Neither its variables nor its PATH, in which the next client's program would be searched."""
    rules = (
        '127.0.0.2:allow,EXTRA="1",EXTRA="2",GIVEN="changed",PATH="/nowhere"\n127.0.0.3:allow,TCPREMOTEIP="x"\n:allow\n'
    )
    cdb = compiled(tmp_path / "cdb", rules)
    look = "import os; print([os.environ.get(n) for n in ('EXTRA', 'GIVEN', 'TCPREMOTEIP')], os.environ['PATH'][:3])"
    with started(home, way, "-x", str(cdb)) as server:
        for _ in range(2):
            for source, extra, found, ip, path in (
                ("127.0.0.1", None, "\u00e9", "127.0.0.1", str(home)[:3]),
                ("127.0.0.2", "2", "changed", "127.0.0.2", "/no"),
                ("127.0.0.3", None, "\u00e9", "x", str(home)[:3]),
            ):
                answer = server.ask(look.encode() + b"\n\n", source=source)
                assert answer.decode() == f"{[extra, found, ip]} {path}\n"


def test_a_script_that_is_not_executable_is_not_called(home: Path, tmp_path: Path) -> None:
    script = install_script(tmp_path, "obey", EXECUTE)
    environ = {"PATH": f"{tmp_path}/bin", "PYTHONPATH": str(tmp_path)}
    with Server(["-RHl0", "--preload", "obey", "127.0.0.1", "0", "obey"], environ=environ) as server:
        assert obeyed(server, "print(1)") == b"1\n"
        script.chmod(0o644)
        assert server.ask() == b""
        assert b"unable to run obey: access denied" in server.wait_for_log(rb"\n")


@pytest.mark.parametrize("how", ["renamed", "removed and created", "written in place"])
def test_a_script_that_was_replaced_is_a_file_like_another(how: str, tmp_path: Path) -> None:
    """Also if the new file has the same inode: ext4 mostly gives the inode of a removed file to the next one."""
    script = install_script(tmp_path, "obey", EXECUTE)
    environ = {"PATH": f"{tmp_path}/bin:/bin", "PYTHONPATH": str(tmp_path)}
    with Server(["-RHl0", "--preload", "obey", "127.0.0.1", "0", "obey"], environ=environ) as server:
        new = script.with_name("new") if how == "renamed" else script
        if how == "removed and created":
            script.unlink()
        new.write_text("#!/bin/sh\necho new\n")
        new.chmod(0o755)
        new.rename(script)
        assert server.ask() == b"new\n"


def test_another_file_of_the_same_name_is_executed(home: Path, tmp_path: Path) -> None:
    """The file decides, not the name: the search of exec finds this one first."""
    (tmp_path / "obey").write_text("#!/bin/sh\necho another\n")
    (tmp_path / "obey").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{home}/bin:/bin", "PYTHONPATH": str(home)}
    with Server(["-RHl0", "--preload", "obey", "127.0.0.1", "0", "obey"], environ=environ) as server:
        assert server.ask() == b"another\n"


def test_a_link_to_the_script_is_the_script(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home / "bin" / "obey")
    environ = {"PYTHONPATH": str(home)}
    words = ["-RHl0", "--preload", "obey", "127.0.0.1", "0", str(tmp_path / "link")]
    with Server(words, environ=environ) as server:
        code = "import os, sys; print(sys.argv, os.path.basename(open('/proc/self/cmdline').read().split(chr(0))[0]))"
        answer = obeyed(server, code)
        assert answer.startswith(f"['{tmp_path}/link']".encode())


FORBIDDEN = ["click", "threading", "logging", "random", "importlib.metadata", "typing", "re", "enum", "subprocess",
             "signal", "socket", "selectors", "dataclasses", "pathlib", "traceback", "inspect", "json"]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["-x"]], ids=["plain", "with rules"])
def test_the_parent_has_loaded_nothing_that_a_fork_need_not_copy(
    home: Path, tmp_path: Path, options: list[str]
) -> None:
    rules = [str(compiled(tmp_path / "cdb", ":allow\n"))] if options else []
    with started(home, "fork and call", *options, *rules) as server:
        loaded = eval(obeyed(server, "import sys; print(sorted(set(sys.modules)))"))
    bare = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; print(sorted(sys.modules))"], capture_output=True, check=True
    )
    assert not set(loaded) & (set(FORBIDDEN) - set(eval(bare.stdout)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nosuchmodule\n", b"nosuchmodule"),
        ("x = 1\n", b"main"),
        ("raise PermissionError(13, 'x')\n", b""),
    ],
    ids=["it cannot be imported", "it has no main", "an error"],
)
def test_a_script_that_cannot_be_loaded_is_one_line_and_no_port_is_printed(
    tmp_path: Path, source: str, message: bytes
) -> None:
    install_script(tmp_path, "broken", source)
    server = Server(["-RHl0", "--preload", "broken", "127.0.0.1", "0", "true"], environ={"PYTHONPATH": str(tmp_path)})
    try:
        assert server.process.wait(20) == 111
        assert server.port == 0
        assert server.log().startswith(b"tcpserver: fatal: unable to preload broken: ")
        assert message in server.log()
        assert server.log().count(b"\n") == 1
    finally:
        server.__exit__()


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, "", "1"])
def test_programs_are_bound_early_only_if_the_administrator_wants_it(home: Path, given: str | None) -> None:
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    environ |= {} if given is None else {"LD_BIND_NOW": given}
    look = "import os, subprocess; print(os.environ.get('LD_BIND_NOW'), flush=True); subprocess.run(['env'])"
    for way, options in WAYS.items():
        with Server([*options, "127.0.0.1", "0", "obey"], environ=environ) as server:
            lines = obeyed(server, look).decode().splitlines()
            assert lines[0] == str(given), way
            wished = [line.partition("=")[2] for line in lines[1:] if line.startswith("LD_BIND_NOW=")]
            assert wished == ([] if given is None else [given]), way
