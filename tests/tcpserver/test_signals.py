"""How tcpserver starts and stops: signals as 0.88, --drain, the socket of a service manager, readiness."""

import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.consolescript import EXECUTE, install_script
from tests.kit.server import ENVIRON, PATIENCE, Server, children, hasty, listens, read_all, refusal, until
from tests.kit.support import peer, script
from tests.kit.tracer import traced

C = "/usr/bin/tcpserver"
ACTIVATE = "/usr/bin/systemd-socket-activate"
ECHO = ["127.0.0.1", "0", "cat"]
PROGRAMS = ["ours", pytest.param("C", marks=pytest.mark.peer)]


def program(which: str) -> str:
    return script("tcpserver") if which == "ours" else peer(C)


def alive(client: socket.socket) -> bool:
    """Whether the session still echoes."""
    client.sendall(b"x")
    return client.recv(1) == b"x"


@pytest.mark.parametrize("which", PROGRAMS)
@pytest.mark.parametrize("options", [["-c40"], ["-c1"]], ids=["with room", "at the limit"])
def test_sigterm_ends_the_server_and_no_session(which: str, options: list[str]) -> None:
    with Server(["-vRHl0", *options, *ECHO], program(which)) as server, server.connect() as client:
        assert alive(client)
        assert server.stop(signal.SIGTERM) == 0
        assert not listens(server.port)
        assert alive(client)  # the session goes on without the server
        assert b"tcpserver: end" not in server.log()


DEADLY = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGALRM", "SIGUSR2", "SIGXCPU"]


@pytest.mark.parametrize("which", PROGRAMS)
@pytest.mark.parametrize("name", DEADLY)
def test_other_signals_kill(which: str, name: str) -> None:
    with Server(["-RHl0", *ECHO], program(which), preexec=without_core) as server, server.connect() as client:
        assert alive(client)
        assert server.stop(signal.Signals[name]) == -signal.Signals[name]
        assert alive(client)


def without_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize("which", PROGRAMS)
@pytest.mark.parametrize("name", ["SIGPIPE", "SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH"])
def test_some_signals_do_nothing(which: str, name: str) -> None:
    with Server(["-RHl0", *ECHO], program(which)) as server:
        for _ in range(3):
            server.send(signal.Signals[name])
        with server.connect() as client:
            assert alive(client)


def ignoring() -> None:
    """As nohup, or a shell without job control in front of `&`, starts its programs."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


@pytest.mark.parametrize("which", PROGRAMS)
def test_a_signal_that_is_ignored_at_the_start_stays_so_but_sigterm(which: str) -> None:
    with Server(["-vRHl0", *ECHO], program(which), preexec=ignoring) as server:
        for name in ("SIGHUP", "SIGINT", "SIGQUIT"):
            server.send(signal.Signals[name])
        with server.connect() as client:
            assert alive(client)
        server.wait_for_log(rb"^tcpserver: end \d+ status 0$")
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("options", [[], ["-Bx"]], ids=["spawn", "fork"])
def test_a_program_does_not_ignore_the_signals_that_its_server_ignores(options: list[str]) -> None:
    words = ["-RHl0", *options, "127.0.0.1", "0", "cat", "/proc/self/status"]
    with Server(words, preexec=ignoring) as server:
        answer = server.ask()
        assert int(re.findall(rb"SigIgn:\t(\w+)", answer)[0], 16) & 0x7FFFFFFF == 0
        assert b"SigBlk:\t0000000000000000\n" in answer


WAYS_TO_FORK = {"call": ["-vRHl0", "--preload", "qmail-smtpd"], "ask": ["-vRhl0"]}


@pytest.mark.peer
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("way", WAYS_TO_FORK)
def test_a_signal_for_a_child_that_was_forked_this_moment_is_not_one_for_the_server(way: str, name: str) -> None:
    number = int(signal.Signals[name])
    with Server([*WAYS_TO_FORK[way], "127.0.0.1", "0", script("qmail-smtpd")]) as server:
        # set_robust_list is the first thing that glibc does in a child
        with traced(server.pid, "-o", os.devnull, "-e", f"inject=set_robust_list:signal={name}"):
            for _ in range(3):
                assert server.ask() == b""
            log = server.wait_for_log(rb"^tcpserver: end \d+ status %d$" % number, 3)
        assert server.process.poll() is None
        assert b"connected" not in log  # SIGUSR1's answer
        assert server.stop(signal.SIGTERM) == 0


# -- --drain


def test_drain_lets_sessions_end_and_lets_nobody_in() -> None:
    with Server(["-vRHl0", "--drain", "600", *ECHO]) as server:
        first, second = server.connect(), server.connect()
        assert alive(first)
        assert alive(second)
        server.send(signal.SIGTERM)
        until(lambda: not listens(server.port))
        assert alive(first)
        first.close()
        server.wait_for_log(rb"^tcpserver: end")
        assert alive(second)
        server.send(signal.SIGTERM)  # a second SIGTERM changes nothing
        assert alive(second)
        second.close()
        assert server.process.wait(PATIENCE) == 0
        assert server.log().endswith(b"status: 0/40\n")


def test_drain_without_sessions_ends_at_once() -> None:
    with Server(["-RHl0", "--drain", "600", *ECHO]) as server:
        assert server.stop() == 0


def test_drain_at_the_limit_lets_nobody_in_that_waits() -> None:
    with Server(["-vRHl0", "-c1", "--drain", "600", *ECHO]) as server, server.connect() as first:
        assert alive(first)
        with server.connect() as waiting:
            server.send(signal.SIGTERM)
            assert read_all(waiting) == b""
        first.close()
        assert server.process.wait(PATIENCE) == 0
        assert server.log().count(b"tcpserver: ok") == 1


def test_sessions_that_outlive_the_drain_are_terminated() -> None:
    with Server(["-vRHl0", "--drain", "0", *ECHO]) as server, server.connect() as client:
        assert alive(client)
        assert server.stop() == 0
        assert read_all(client) == b""
        assert re.search(rb"(?m)^tcpserver: end \d+ status 15$", server.log())


def test_sessions_that_outlive_the_termination_are_killed(tmp_path: Path) -> None:
    words = ["-vRHl0", "--drain", "0", "127.0.0.1", "0", "sh", "-c", "trap '' TERM; cat; cat"]
    with Server(words, hasty(tmp_path)) as server, server.connect() as client:
        assert alive(client)
        pid = children(server.pid)[0]
        assert server.stop() == 0
        assert b"tcpserver: end %d status 9\n" % pid in server.log()


def test_a_drain_that_begins_among_many_clients_ends_well() -> None:
    for _ in range(2):
        with Server(["-vRHl0", "-C1:421 no", "--drain", "5", "127.0.0.1", "0", "true"]) as server:
            crowd = os.fork()
            if not crowd:
                try:
                    while True:
                        server.connect().close()
                except OSError:
                    pass
                os._exit(0)
            server.wait_for_log(rb"^tcpserver: ", 50)
            assert server.stop() == 0
            os.waitpid(crowd, 0)
            assert b"Traceback" not in server.log()


def test_a_client_that_comes_at_the_moment_of_the_drain_does_not_disturb_it() -> None:
    """One poll reports both: when the client's turn comes, the listener is already closed."""
    with Server(["-vRHl0", "--drain", "600", *ECHO]) as server, server.connect() as first:
        assert alive(first)
        server.send(signal.SIGSTOP)
        until(lambda: b"T (stopped)" in Path(f"/proc/{server.pid}/status").read_bytes())
        with server.connect() as second:
            server.send(signal.SIGTERM)
            server.send(signal.SIGCONT)
            try:
                second.shutdown(socket.SHUT_WR)  # poll may have returned already for the client alone: it is served
            except OSError:
                pass
            assert read_all(second) == b""
        assert alive(first)
        first.close()
        assert server.process.wait(PATIENCE) == 0


# -- fd: and readiness


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def passed(descriptor: int, words: list[str], **environ: str) -> Server:
    """A server that finds the descriptor at 3, as a service manager passes it. `$$` is the server's own pid."""
    pid = environ.pop("LISTEN_PID", None)
    before = ["sh", "-c", f'LISTEN_PID={pid}; export LISTEN_PID; exec "$@"', "sh"] if pid else []
    return Server(
        words, before=before, environ=environ, preexec=lambda: os.dup2(descriptor, 3) and None, pass_fds=[3, descriptor]
    )


@pytest.mark.parametrize("pid", [None, "$$"])
def test_the_socket_of_a_service_manager_is_taken(listener: socket.socket, pid: str | None) -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"} | ({"LISTEN_PID": pid} if pid else {})
    look = "env; ls -l /proc/$$/fd"
    for options in ([], ["-Bx"]):
        with passed(listener.fileno(), ["-RHl0", *options, "fd:", "sh", "-c", look], **environ) as server:
            assert server.port == listener.getsockname()[1]
            answer = server.ask()
            assert b"TCPLOCALPORT=%d\n" % server.port in answer
            assert b"LISTEN_" not in answer
            assert b" 3 -> " not in answer


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, b"$LISTEN_FDS is not 1"),
        ({"LISTEN_FDS": "0"}, b"$LISTEN_FDS is not 1"),
        ({"LISTEN_FDS": "2"}, b"$LISTEN_FDS is not 1"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, b"$LISTEN_PID names another process"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "x"}, b"$LISTEN_PID names another process"),
    ],
    ids=str,
)
def test_a_socket_that_is_not_meant_for_this_process_is_not_taken(environ: dict[str, str], why: bytes) -> None:
    message, status = refusal(["-RHl0", "fd:", "true"], script("tcpserver"), environ)
    assert (message, status) == (b"tcpserver: fatal: unable to use fd: " + why + b"\n", 111)


def made(kind: str, directory: Path) -> socket.socket | int:
    match kind:
        case "file":
            return os.open(directory / "file", os.O_RDWR | os.O_CREAT)
        case "datagrams":
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        case "not listening":
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        case _:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            found.bind(str(directory / "socket"))
            found.listen()
            return found


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("file", b"not a socket"),
        ("datagrams", b"descriptor 3 is not a listening TCP socket"),
        ("not listening", b"descriptor 3 is not a listening TCP socket"),
        ("local", b"descriptor 3 is not a listening TCP socket"),
    ],
)
def test_a_descriptor_that_is_no_listening_tcp_socket_is_refused(kind: str, why: bytes, tmp_path: Path) -> None:
    found = made(kind, tmp_path)
    descriptor = found if isinstance(found, int) else found.fileno()
    server = passed(descriptor, ["-RHl0", "fd:", "true"], LISTEN_FDS="1")
    try:
        assert server.process.wait(PATIENCE) == 111
        assert server.log() == b"tcpserver: fatal: unable to use fd: " + why + b"\n"
    finally:
        server.__exit__()
        os.close(descriptor) if isinstance(found, int) else found.close()


def test_no_socket_at_all_is_refused() -> None:
    message, status = refusal(["-RHl0", "fd:", "true"], script("tcpserver"), {"LISTEN_FDS": "1"})
    assert (message, status) == (b"tcpserver: fatal: unable to use fd: file descriptor not open\n", 111)


def test_fd_without_a_program_is_misuse() -> None:
    message, status = refusal(["fd:"], script("tcpserver"), {"LISTEN_FDS": "1"})
    assert message.startswith(b"tcpserver: usage: ")
    assert status == 100


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_reported_when_clients_are_served(tmp_path: Path, abstract: bool) -> None:
    name = f"@tcpserver-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1) if abstract else name)
        manager.settimeout(PATIENCE)
        with Server(["-RHl0", "127.0.0.1", "0", "env"], environ={"NOTIFY_SOCKET": name}) as server:
            assert manager.recv(100) == b"READY=1"
            assert b"NOTIFY_SOCKET" not in server.ask()


def test_a_manager_that_does_not_listen_does_not_stop_the_server(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with Server(["-RHl0", *ECHO], environ=environ) as server, server.connect() as client:
        assert alive(client)


def test_readiness_is_not_reported_before_the_program_is_loaded(tmp_path: Path) -> None:
    """Otherwise the manager would start units that depend on the server, although it may still fail."""
    install_script(tmp_path, "broken", "import nosuchmodule\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PYTHONPATH": str(tmp_path)}
        message, status = refusal(["-RHl0", "--preload", "broken", *ECHO], script("tcpserver"), environ)
        assert status == 111
        assert message.startswith(b"tcpserver: fatal: unable to preload broken: ")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.parametrize("which", PROGRAMS)
def test_1_prints_the_port_and_then_closes_the_output(which: str) -> None:
    with subprocess.Popen(
        [program(which), "-1RHl0", "127.0.0.1", "0", "true"], stdout=subprocess.PIPE, env=ENVIRON
    ) as process:
        assert process.stdout
        try:
            assert re.fullmatch(rb"[1-9]\d*\n", process.stdout.read())
        finally:
            process.kill()


@pytest.mark.parametrize("which", PROGRAMS)
def test_1_with_output_that_cannot_be_written_does_not_stop_the_server(which: str, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    reader, writer = os.pipe()
    os.close(reader)
    for stdout in (writer, os.open("/dev/full", os.O_WRONLY)):
        process = subprocess.Popen(
            [program(which), "-1RHl0", "127.0.0.1", str(port), "true"], stdout=stdout, env=ENVIRON
        )
        os.close(stdout)
        try:
            until(lambda: listens(port))
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(not os.path.exists(ACTIVATE), reason="no systemd here")
def test_systemds_own_activation_works(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    words = [ACTIVATE, "-l", f"127.0.0.1:{port}", script("tcpserver"), "-RHl0", "fd:", "env"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, env=ENVIRON) as process:
        try:
            until(lambda: listens(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                answer = read_all(client)
            assert b"TCPLOCALPORT=%d\n" % port in answer
            assert b"LISTEN_" not in answer
        finally:
            process.kill()


@pytest.mark.parametrize("options", [["-H"], ["-h"], ["-H", "--reuse", "3"]], ids=["call", "ask", "reuse"])
def test_signals_that_come_while_the_server_forks_are_not_lost(tmp_path: Path, options: list[str]) -> None:
    """During a fork it has the signal actions of its children: a SIGCHLD could be discarded, a SIGTERM could kill."""
    home = tmp_path
    install_script(home, "obey", EXECUTE)
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-Rl0", *options, "--preload", "obey", "-c", "30", "127.0.0.1", "0", "obey"]
    with Server([*words], environ=environ) as server:
        for turn in range(40):
            clients = [server.connect() for _ in range(8)]
            for client in clients:
                server.send(signal.SIGUSR1)
                server.send(signal.SIGCHLD)
                client.sendall(b"print('here')\n\n")
            for client in clients:
                assert read_all(client) == b"here\n"
                client.close()
            server.wait_for_log(rb"^tcpserver: end ", 8 * (turn + 1))
        assert server.log().count(b"tcpserver: pid ") == server.log().count(b"tcpserver: end ") == 320
        assert b"tcpserver: status: 0/30\n" in server.log()[-200:]
        crowd = [server.connect() for _ in range(20)]
        assert server.stop() == 0
        for client in crowd:
            client.close()
