"""tcpserver does not stop: no descriptors, no processes, a log that nobody reads, lost clients, others' children."""

import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tcpserver.parent.journal import QUEUE_BYTES
from tests.kit.server import (
    ENVIRON,
    PATIENCE,
    Server,
    children,
    compiled,
    descriptors,
    masked,
    needs_root,
    read_all,
    until,
)
from tests.kit.support import own_uid, peer, script

C = "/usr/bin/tcpserver"
HELLO = ["127.0.0.1", "0", "echo", "hello"]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
WAYS = {"spawn": ["-RHl0"], "fork": ["-RHl0", "-B", "> "]}


def served(server: Server) -> bool:
    return server.ask().endswith(b"hello\n")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> list[str]:
    return WAYS[request.param]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_it_waits_and_logs_it_once(way: list[str]) -> None:
    with Server([*way, *HELLO]) as server:
        assert served(server)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (descriptors(server.pid), limits[1]))
        with server.connect() as client:
            server.wait_for_log(rb"accept")
            before, began = cpu_seconds(server.pid), time.monotonic()
            time.sleep(1.0)
            assert cpu_seconds(server.pid) - before < (time.monotonic() - began) / 2  # it waits, and does not spin
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
            assert read_all(client).endswith(b"hello\n")
        assert served(server)
        assert server.log() == b"tcpserver: warning: unable to accept: process cannot open more files\n"


@pytest.mark.peer
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ENFILE", b"system cannot open more files"),
        ("ENOBUFS", b"out of buffer space"),
        ("ENOMEM", b"out of memory"),
        ("ECONNABORTED", b"connection aborted"),
        ("EPROTO", b"protocol error"),
        ("EINTR", b""),
        ("EAGAIN", b""),
    ],
)
def test_errors_of_accept_are_logged_once_and_waited_out(error: str, words: bytes, tmp_path: Path) -> None:
    strace = [peer("/usr/bin/strace"), "-D", "-o", str(tmp_path / "trace"), "-e", "trace=accept4"]
    with Server(["-RHl0", *HELLO], before=[*strace, "-e", f"inject=accept4:error={error}:when=1..3"]) as server:
        assert served(server)
        assert served(server)
        warning = b"tcpserver: warning: unable to accept: " + words + b"\n"
        assert server.log() == (warning if words else b"")
        assert (tmp_path / "trace").read_bytes().count(b"(INJECTED)") == 3


def crowded(program: str, way: list[str]) -> bytes:
    """The log of a server whose user may have two processes: itself, and the first of four clients until it leaves."""
    words = ["-v", *way, "-u", own_uid(), "-g", own_uid(), "127.0.0.1", "0", "cat"]
    with Server(words, program, preexec=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))) as server:
        with server.connect() as first:
            first.sendall(b"x")
            until(lambda: b"x" in first.recv(10))
            for times in (1, 2):
                assert server.ask() in (b"", b"> ")
                server.wait_for_log(rb"unable to fork", times)
        server.wait_for_log(rb"^tcpserver: end \d+ status 0\n.*0/40$")
        assert server.ask(b"y").endswith(b"y")
        return masked(server.wait_for_log(rb"^tcpserver: end \d+ status 0\n.*0/40$", 2))


@needs_root
def test_without_processes_a_connection_is_dropped_and_the_next_is_served(way: list[str]) -> None:
    log = crowded(script("tcpserver"), way)
    assert log.count(b"tcpserver: warning: dropping connection, unable to fork: temporary failure\n") == 2


@pytest.mark.peer
@needs_root
def test_without_processes_the_log_of_a_fork_is_the_originals() -> None:
    assert crowded(script("tcpserver"), WAYS["fork"]) == crowded(peer(C), WAYS["fork"])


@needs_root
def test_without_threads_a_client_is_served_without_a_name() -> None:
    words = ["-vRhl0", "-u", own_uid(), "-g", own_uid(), "127.0.0.1", "0", "env"]
    with Server(words, preexec=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))) as server:
        answer = server.ask()
        assert b"TCPREMOTEIP=127.0.0.1\n" in answer
        assert b"TCPREMOTEHOST" not in answer


# -- the log


def stalled(words: list[str]) -> tuple[Server, int]:
    """A server whose log is a pipe that nobody reads, and the end to read."""
    reader, writer = os.pipe()
    server = Server(words, stderr=writer)
    os.close(writer)
    return server, reader


def read_now(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while part := os.read(descriptor, 1 << 20):
            data += part
    except BlockingIOError:
        pass
    return data


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_that_nobody_reads_stops_nobody_and_the_lost_lines_are_counted(tmp_path: Path, log_format: str) -> None:
    cdb = compiled(tmp_path / "cdb", "127.0.0.2:deny\n:allow\n")
    server, reader = stalled(["-vRHl0", "--log-format", log_format, "-x", str(cdb), *HELLO])
    with server:
        clients = 8000 if log_format == "text" else 2500
        for _ in range(clients):
            assert server.ask(source="127.0.0.2") == b""
        for _ in range(20):
            assert served(server)
        found = read_now(reader)
        assert found.count(b"deny") < clients
        deadline = time.monotonic() + PATIENCE
        while not (lost := re.findall(rb"dropped (\d+) log lines: nobody read them", found)):
            assert time.monotonic() < deadline
            found += read_now(reader)
        kept = found[: found.index(b"dropped ")].count(b"deny")
        assert clients <= kept + int(lost[0]) <= clients + 100 + 20 * 6  # those of the twenty may be lost, too
        assert len(found) < 65536 * 2 + QUEUE_BYTES + 10_000
        assert served(server)
    os.close(reader)


@pytest.mark.slow
def test_children_that_log_are_not_stopped_either() -> None:
    server, reader = stalled(["-vRHl0", "-c2", "-B", "> ", *HELLO])
    with server:
        for _ in range(700):  # 65536 bytes are full after some 300
            assert served(server)
    os.close(reader)


def test_a_program_never_finds_its_standard_error_unwilling_to_wait() -> None:
    """O_NONBLOCK belongs to the open file, which the server shares with its programs."""
    server, reader = stalled(["-vRHl0", "127.0.0.1", "0", "sh", "-c", "cat /proc/self/fdinfo/2 >&0"])
    with server:
        flags = int(re.findall(rb"flags:\t(\d+)", server.ask())[0], 8)
        assert not flags & os.O_NONBLOCK
    os.close(reader)


def test_a_log_reader_that_dies_does_not_stop_the_server(way: list[str]) -> None:
    server, reader = stalled(["-v", *way, *HELLO])
    with server:
        assert served(server)
        os.close(reader)
        for _ in range(3):
            assert served(server)


OTHER_ACCOUNT = """if True:
    import os, sys
    from tcpserver.parent import journal

    def refuse(path, *more):
        raise PermissionError(13, path)

    journal.os.open = refuse  # a pipe that root has made: /proc/self/fd/2 can be opened by root alone
    log = journal.Journal(lambda number: b"lost %d\\n" % number)
    for number in range(50000):
        log.write(b"line %d\\n" % number)
    os.write(1, b"full")
    os.read(0, 1)
    while log.waiting:
        log.flush()
"""


def test_a_pipe_of_another_account_that_nobody_reads_stops_nobody() -> None:
    """As with a supervisor that runs as root, and a server that does not."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", OTHER_ACCOUNT], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout
    assert select.select([process.stdout], [], [], PATIENCE)[0], "it waits for the reader"
    _, log = process.communicate(b"x", PATIENCE)
    lines = log.splitlines()
    assert lines[-1].startswith(b"lost ")
    assert lines[:-1] == [b"line %d" % number for number in range(50000 - int(lines[-1].split()[1]))]


def test_a_full_disk_does_not_stop_the_server(way: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with Server(["-v", *way, *HELLO], stderr=full) as server:
        os.close(full)
        for _ in range(3):
            assert served(server)


@pytest.mark.slow
def test_a_socket_as_log_is_written_to_and_never_waited_for() -> None:
    """systemd gives its services such a log. It cannot be opened a second time."""
    reader, writer = socket.socketpair()
    with Server(["-vRHl0", "127.0.0.1", "0", "true"], stderr=writer.fileno()) as server, reader, writer:
        for _ in range(1000):
            server.ask()
        reader.settimeout(PATIENCE)
        assert reader.recv(100).startswith(b"tcpserver: status: 0/40\n")


# -- clients and children


def test_clients_that_vanish_do_not_stop_the_server(way: list[str]) -> None:
    with Server(["-v", *way, "-c5", *HELLO]) as server, ExitStack() as stack:
        for _ in range(30):
            server.connect().close()
            with server.connect() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        silent = [stack.enter_context(server.connect()) for _ in range(3)]
        assert served(server)
        assert all(client.recv(100) for client in silent)
        server.wait_for_log(rb"^tcpserver: status: 0/5$")
        assert b"Traceback" not in server.log()


def test_silent_clients_hold_their_slots_and_nothing_else() -> None:
    with Server(["-vRHl0", "-c2", "127.0.0.1", "0", "cat"]) as server, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(server.connect())
        server.wait_for_log(rb"^tcpserver: status: 2/2$")
        waiting = server.connect()
        waiting.sendall(b"x")
        stack.close()
        assert waiting.recv(1) == b"x"
        waiting.close()


def test_children_that_somebody_else_left_are_reaped_and_not_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = ["sh", "-c", 'cat "$0" & exec "$@"', str(tmp_path / "fifo")]
    with Server(["-vRHl0", "127.0.0.1", "0", "cat"], before=before) as server, server.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        (tmp_path / "fifo").write_bytes(b"")
        log = server.wait_for_log(rb"^tcpserver: end \d+ status 0$")
        assert log.endswith(b"status: 1/40\n")  # cat is still there
        assert len(children(server.pid)) == 1


def test_a_child_is_reaped_whatever_ends_it(way: list[str]) -> None:
    with Server(["-v", *way, "127.0.0.1", "0", "cat"]) as server:
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
            with server.connect() as client:
                client.sendall(b"x")
                until(lambda c=client: c.recv(1) == b"x")
                pid = children(server.pid)[0]
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, number)
                with suppress(ProcessLookupError):  # SIGKILL does not wait to be continued
                    os.kill(pid, signal.SIGCONT)
                server.wait_for_log(rb"^tcpserver: end %d status" % pid)
        until(lambda: not children(server.pid))


def resident(pid: int) -> int:
    """kB in memory."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


@pytest.mark.slow
def test_thousands_of_connections_leave_memory_and_descriptors_flat(tmp_path: Path) -> None:
    cdb = compiled(tmp_path / "cdb", "127.0.0.2:deny\n:allow\n")
    words = ["-vRHl0", "-c100", "-C50:421 no", "--rate", "1000000/1", "-x", str(cdb), *HELLO]
    log = os.open(os.devnull, os.O_WRONLY)
    with Server(words, stderr=log) as server:
        os.close(log)

        def crowd(clients: int) -> None:
            for number in range(clients):
                server.ask(source=f"127.0.0.{2 if number % 4 else 3}")

        crowd(400)
        memory, open_now = resident(server.pid), descriptors(server.pid)
        crowd(3000)
        until(lambda: not children(server.pid))
        assert resident(server.pid) <= memory + 256
        assert descriptors(server.pid) <= open_now + 1  # the rules file, once it is trusted


def test_an_idle_server_is_small() -> None:
    with Server(["-RHl0", *HELLO]) as server:
        assert served(server)
        assert resident(server.pid) < 20_000


def test_nothing_is_left_behind_when_it_cannot_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [script("tcpserver"), "-RHl0", "127.0.0.1", str(taken.getsockname()[1]), "true"]
        done = subprocess.run(words, stderr=subprocess.PIPE, env=ENVIRON, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (111, b"tcpserver: fatal: unable to bind: address already used\n")
