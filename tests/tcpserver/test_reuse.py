"""--reuse: one process for one client after the other. Nothing of a client is there for the next one.

test_launch.py shows that a program finds the same in each of its turns as a program that was exec'd.
"""

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cdblib
import pytest

from tcpserver.child.reset import FullReset
from tcpserver.child.script import Script
from tcpserver.child.worker import Plan, Worker
from tcpserver.log import Lines
from tcpserver.process import SignalActions
from tcpserver.settings import Settings
from tests.kit import cdbfile, forked
from tests.kit.consolescript import EXECUTE, install_script
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, children, compiled, has_ended, needs_root, open_to_all, read_all, until
from tests.kit.support import script
from tests.kit.tlspeer import Client, certify, trusting

OTHER = EXECUTE.replace("serve_client", "nothing")
MESS = """import os, signal, sys, threading
os.environ['RELAYCLIENT'] = os.environ['LEFT'] = 'left'
del os.environ['PATH']
os.chdir('/')
os.umask(0)
sys.argv.append('left')
sys.excepthook = print
for number in (1, 2, 3, 13, 14, 15, 17): signal.signal(number, signal.SIG_IGN)
signal.signal(10, print)
signal.pthread_sigmask(signal.SIG_BLOCK, {12, 14})
signal.alarm(1)
sys.stdin.readline()
sys.stdout.write('unflushed')
sys.stderr.write('a line\\n')
"""
LOOK = """import os, signal, sys
print(sorted((k, v) for k, v in os.environ.items() if not k.endswith('PORT')), os.getcwd(), os.umask(0), sys.argv)
print([getattr(signal.getsignal(n), '__name__', signal.getsignal(n)) for n in range(1, 32)], sys.excepthook)
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.alarm(0), sys.stdin.read())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scripts")
    install_script(directory, "obey", EXECUTE)
    install_script(directory, "other", OTHER)
    return directory


@contextmanager
def crowd_of(server: Server, number: int) -> Iterator[list[socket.socket]]:
    """This many clients at once."""
    with ExitStack() as open_clients:
        yield [open_clients.enter_context(server.connect()) for _ in range(number)]


@contextmanager
def serving(home: Path, *options: str, program: str = "obey") -> Iterator[Server]:
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-RHl0", "--preload", "obey", "--preload", "other", *options, "127.0.0.1", "0", program]
    with Server(words, environ=environ, cwd=home) as server:
        yield server


def ask(server: Server, code: str = "import os; print(os.getpid())", data: bytes = b"", source: str = "") -> bytes:
    """Serve one client. Return what it gets, once the server has noticed its end."""
    before = server.log().count(b"tcpserver: end ")
    answer = server.ask(code.encode() + b"\n\n" + data, source or None)
    server.wait_for_log(rb"^tcpserver: end ", before + 1)
    return answer


def test_a_process_serves_as_many_clients_as_it_may(home: Path) -> None:
    with serving(home, "--reuse", "3") as server:
        pids = [int(ask(server)) for _ in range(7)]
        assert len(set(pids)) == 3
        assert pids == [pids[0]] * 3 + [pids[3]] * 3 + [pids[6]]
        log = server.log()
        for pid in set(pids):
            for line in (b"tcpserver: pid %d from ", b"tcpserver: ok %d ", b"tcpserver: end %d status 0\n"):
                assert log.count(line % pid) == pids.count(pid)
        assert log.endswith(b"tcpserver: status: 0/40\n")


@pytest.mark.parametrize(
    ("options", "program"), [(["--reuse", "1"], "obey"), ([], "other"), (["--reuse", "9"], "other")]
)
def test_without_reuse_or_for_a_program_that_does_not_offer_it_each_client_has_a_process(
    home: Path, options: list[str], program: str
) -> None:
    with serving(home, *options, program=program) as server:
        assert len({ask(server) for _ in range(3)}) == 3


def test_nothing_of_one_client_is_there_for_the_next(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "rules.cdb", '127.0.0.2:allow,RELAYCLIENT="",BASE="two"\n127.:allow,BASE="any"\n')
    with serving(home, "-x", str(rules), "--reuse", "1") as server:
        expected = ask(server, LOOK, b"mine", "127.0.0.3")
    with serving(home, "-x", str(rules), "--reuse", "9") as server:
        pid = ask(server, source="127.0.0.3")
        assert ask(server, MESS, b"first\nleft in the buffer\n", "127.0.0.2") == b"unflushed"
        assert ask(server, LOOK, b"mine", "127.0.0.3") == expected
        time.sleep(1.2)  # the alarm would have fired
        assert ask(server, source="127.0.0.3") == pid


LEFT = {
    "another user": "import os; os.setresuid(65534, 65534, 65534)",
    "another log": "import os; os.dup2(os.open('/dev/null', 1), 2)",
    "a signal that waits": "import os, signal; signal.pthread_sigmask(0, [15]); os.kill(os.getpid(), 15)",
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
    "a child": "import os, time; os.fork() or (os.close(0), os.close(1), time.sleep(0.5), os._exit(0))",
    "a child that has ended": "import os; os.fork() or os._exit(0)",
    "a descriptor": "import os; os.dup(2)",
    "no descriptor 2": "import os; os.close(2)",
    "other streams": "import io, sys; sys.stdout = io.StringIO()",
    "a detached stream": "import sys; sys.stdin.detach(); sys.stdin = None",
    "something to do at the end": "import atexit; atexit.register(print, 'done')",
    "words for stderr": "status = 'text'",
    "an exception": "raise ValueError",
    "an exit": "import sys; sys.exit(3)",
    "another program": "import os; from tcpserver import chain; chain.become([b'/bin/true'], dict(os.environb))",
}


NEEDS_ROOT = {"another user": needs_root}


@pytest.mark.parametrize("what", [pytest.param(what, marks=NEEDS_ROOT.get(what, ())) for what in LEFT])
def test_a_process_that_cannot_be_put_back_serves_nobody_else(home: Path, what: str) -> None:
    with serving(home, "--reuse", "9") as server:
        pid = ask(server)
        assert (
            ask(server, f"import os, sys; print(os.getpid(), flush=True); {LEFT[what]}").splitlines()[0] + b"\n" == pid
        )
        assert ask(server) != pid


def session(server: Server, source: str, *lines: str) -> list[str]:
    """A whole SMTP session; the reply to each line."""
    before = server.log().count(b"tcpserver: end ")
    replies = []
    with server.connect(source=source) as client, client.makefile("rwb") as wire:
        replies.append(wire.readline().decode())
        for line in lines:
            wire.write(f"{line}\r\n".encode())
            wire.flush()
            while (reply := wire.readline().decode())[3:4] == "-":
                pass
            replies.append(reply)
    server.wait_for_log(rb"^tcpserver: end ", before + 1)
    return replies


@contextmanager
def smtp(home: Path, *options: str) -> Iterator[Server]:
    words = ["-v", "-RHl0", "--preload", "qmail-smtpd", "--preload", "maildir-queue", "--reuse", "50", *options]
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home)}
    with Server([*words, "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as server:
        yield server


def pids(server: Server) -> list[bytes]:
    """The processes that the clients had, in their order."""
    return [line.split()[2] for line in server.log().splitlines() if line.startswith(b"tcpserver: pid ")]


OUTSIDE = ("HELO x", "MAIL FROM:<a@b.example>", "RCPT TO:<x@outside.example>", "QUIT")


def test_who_may_relay_does_not_open_the_relay_for_the_next_client(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    rules = compiled(tmp_path / "rules.cdb", '127.0.0.2:allow,RELAYCLIENT=""\n127.0.0.4:deny\n:allow\n')
    with smtp(mail, "-x", str(rules)) as server:
        for _ in range(10):
            assert [reply[:3] for reply in session(server, "127.0.0.2", *OUTSIDE)] == [
                "220",
                "250",
                "250",
                "250",
                "221",
            ]
            assert [reply[:3] for reply in session(server, "127.0.0.3", *OUTSIDE)] == [
                "220",
                "250",
                "250",
                "553",
                "221",
            ]
            assert server.ask(source="127.0.0.4") == b""
        # A client that goes away in the middle leaves no sender and no recipient behind.
        session(server, "127.0.0.2", *OUTSIDE[:3])
        replies = session(server, "127.0.0.3", "DATA", "RCPT TO:<u@example.com>", "QUIT")
        assert [reply[:3] for reply in replies] == ["220", "503", "503", "221"]
        assert len(set(pids(server))) == 1


def test_each_client_has_what_the_control_files_say_now(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    with smtp(mail) as server:
        assert session(server, "127.0.0.2", *OUTSIDE)[3].startswith("553")
        (mail / "control/rcpthosts").write_text("outside.example\n")
        (mail / "control/smtpgreeting").write_text("new\n")
        replies = session(server, "127.0.0.2", *OUTSIDE)
        assert replies[0] == "220 new ESMTP\r\n"
        assert replies[3].startswith("250")
        assert len(set(pids(server))) == 1


def test_messages_of_several_clients_are_queued_by_one_process(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    with smtp(mail) as server:
        for number in range(5):
            replies = session(server, "127.0.0.2", "HELO x", f"MAIL FROM:<{number}@b.example>",
                              "RCPT TO:<u@example.com>", "DATA", f"{number}\r\n.", "QUIT")  # fmt: skip
            assert replies[5].startswith("250 ok ")
        assert len(set(pids(server))) == 1
    queued = sorted((mail / "dump").glob("*.e"))
    assert [file.read_bytes() for file in queued] == [b"F%d@b.example\0Tu@example.com\0\0" % n for n in range(5)]


def test_a_process_to_which_a_password_may_have_been_sent_serves_nobody_else(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    rules = compiled(tmp_path / "rules.cdb", '127.0.0.2:allow,SMTPAUTHFILE="/nonexistent"\n:allow\n')
    with smtp(mail, "-x", str(rules)) as server:
        session(server, "127.0.0.3", "QUIT")
        session(server, "127.0.0.2", "EHLO x", "QUIT")  # AUTH is offered, and not used
        session(server, "127.0.0.2", "AUTH PLAIN AGpvZQBzZWNyZXQ=", "QUIT")
        session(server, "127.0.0.3", "AUTH PLAIN AGpvZQBzZWNyZXQ=", "QUIT")  # not offered, and sent all the same
        session(server, "127.0.0.3", "QUIT")
        found = pids(server)
        assert found[0] == found[1] == found[2]
        assert len({found[0], found[3], found[4]}) == 3


def test_a_process_that_has_seen_tls_alone_serves_on(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    certify(mail / "control")
    with smtp(mail) as server:
        for _ in range(2):
            before = server.log().count(b"tcpserver: end ")
            with server.connect(source="127.0.0.3") as connection:
                connection.sendall(b"EHLO x\r\nSTARTTLS\r\n")
                received = b""
                while b"220 ready for tls\r\n" not in received:
                    received += connection.recv(1000)
                client = Client((connection.fileno(),) * 2, trusting(mail / "control/servercert.pem")).handshake()
                client.send(b"QUIT\r\n")
                assert client.receive_all().startswith(b"221 ")
            server.wait_for_log(rb"^tcpserver: end ", before + 1)
        session(server, "127.0.0.3", "EHLO x", "QUIT")
        assert len(set(pids(server))) == 1


def test_an_idle_process_that_dies_is_no_client_and_is_replaced(home: Path) -> None:
    with serving(home, "--reuse", "9") as server:
        pid = int(ask(server))
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in children(server.pid))
        assert int(ask(server)) != pid
        assert server.log().count(b"tcpserver: end ") == 2
        assert server.log().endswith(b"tcpserver: status: 0/40\n")


def test_a_process_that_dies_of_a_signal_has_the_signal_as_its_status(home: Path) -> None:
    with serving(home, "--reuse", "9") as server:
        pid = ask(server)
        assert ask(server, "import os; os.kill(os.getpid(), 9)") == b""
        assert server.log().splitlines()[-2] == b"tcpserver: end %d status 9" % int(pid)
        assert ask(server) != pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_idle_processes_end_with_the_server_and_busy_ones_when_they_are_done(home: Path, number: int) -> None:
    with serving(home, "--reuse", "9") as server, server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.sendall(b"import os; print(os.getpid(), flush=True); os.read(0, 1); print('done')\n\n")
        idle, busy = (int(client.recv(100)) for client in (first, second))
        first.sendall(b"x")
        read_all(first)
        server.wait_for_log(rb"^tcpserver: end ")
        server.stop(number)
        until(lambda: has_ended(idle))
        second.sendall(b"x")
        assert read_all(second) == b"done\n"
        until(lambda: has_ended(busy))
        assert server.log().count(b"Traceback") == server.log().count(b"fatal") == 0


def test_drain_ends_when_the_last_client_has_gone_whoever_is_idle(home: Path) -> None:
    with serving(home, "--reuse", "9", "--drain", "60") as server, server.connect() as client:
        client.sendall(b"import os; print('here', flush=True); os.read(0, 1)\n\n")
        assert client.recv(100) == b"here\n"
        server.send(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        client.sendall(b"x")
        assert server.process.wait(20) == 0


def test_many_clients_at_once_are_counted_and_most_processes_end_afterwards(home: Path) -> None:
    with serving(home, "--reuse", "9", "-c", "70", "-b", "200") as server, crowd_of(server, 80) as crowd:
        for client in crowd:
            client.sendall(b"import os; print('here', flush=True); os.read(0, 1)\n\n")
        assert [client.recv(100) for client in crowd[:70]] == [b"here\n"] * 70
        time.sleep(0.2)
        assert server.log().count(b"tcpserver: pid ") == 70
        for client in crowd:
            client.sendall(b"x")
            read_all(client)
        server.wait_for_log(rb"^tcpserver: end ", 80)
        until(lambda: len(children(server.pid)) <= 50)
        log = server.log()
        assert log.count(b"tcpserver: pid ") == log.count(b"tcpserver: ok ") == log.count(b"tcpserver: end ") == 80
        assert log.endswith(b"tcpserver: status: 0/70\n")


def test_one_client_at_once_from_an_address_however_many_come(home: Path) -> None:
    with serving(home, "--reuse", "9", "-C", "1") as server, crowd_of(server, 20):
        server.wait_for_log(rb"^tcpserver: (ok|deny) ", 20)
        assert server.log().count(b"tcpserver: ok ") == 1
        assert server.log().count(b" limit-address\n") == 19


def test_rules_that_set_more_than_a_socket_carries_at_once(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "rules.cdb", f'127.0.0.2:allow,A="{"x" * 40000}",B="{"y" * 40000}"\n:allow\n')
    with serving(home, "--reuse", "9", "-x", str(rules)) as server:
        ask(server)
        code = "import os; print(len(os.environ.get('A', '')) + len(os.environ.get('B', '')))"
        assert [ask(server, code, source=f"127.0.0.{n}") for n in (2, 3, 2)] == [b"80000\n", b"0\n", b"80000\n"]


def test_a_process_whose_client_broke_the_search_in_the_rules_serves_on(home: Path, tmp_path: Path) -> None:
    """The client is dropped, and the rules file is closed: with it open the process could not be put back."""
    broken = b"127.0.0.2"
    slots = [(cdbfile.djb_hash(broken), 1 << 20)] * 2  # its record lies beyond the end of the file
    (tmp_path / "cdb").write_bytes(cdbfile.with_table(broken, slots))
    with serving(home, "-B.", "--reuse", "9", "-x", str(tmp_path / "cdb")) as server:
        pid = ask(server)
        assert ask(server, source="127.0.0.2") == b"."
        assert b"protocol error" in server.log()
        assert ask(server) == pid


def test_nothing_grows_in_the_server_or_in_a_process(home: Path) -> None:
    with serving(home, "--reuse", "1000") as server:
        pid = int(ask(server))
        descriptors = [os.listdir(f"/proc/{process}/fd") for process in (server.pid, pid)]
        for _ in range(200):
            assert int(ask(server)) == pid
        assert [os.listdir(f"/proc/{process}/fd") for process in (server.pid, pid)] == descriptors


def test_a_client_sees_the_end_of_its_session_while_others_go_on(home: Path) -> None:
    with serving(home, "--reuse", "9") as server, crowd_of(server, 10) as crowd:
        for client in crowd:
            client.sendall(b"import os; print('here', flush=True); os.read(0, 1)\n\n")
        for client in crowd:
            client.recv(100)
        for client in crowd:
            client.sendall(b"x")
            client.settimeout(10)
            assert client.recv(1) == b""


def test_a_client_with_a_large_environment_does_not_end_the_other_processes(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "rules.cdb", f'127.0.0.2:allow,A="{"x" * 70000}"\n:allow\n')
    with serving(home, "--reuse", "9", "-x", str(rules)) as server:
        pid = ask(server)
        assert ask(server, source="127.0.0.2") != pid
        assert ask(server) in (pid, b"%d\n" % children(server.pid)[-1])
        assert int(pid) in children(server.pid)


def limited(files: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@pytest.mark.parametrize("files", [100, 300])
def test_where_descriptors_are_few_clients_are_served_all_the_same_and_none_is_lost(home: Path, files: int) -> None:
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-RHl0", "--preload", "obey", "--reuse", "50", "-c", "200", "-b", "300", "127.0.0.1", "0", "obey"]
    with Server(words, environ=environ, preexec=limited(files)) as server:
        for _ in range(3):
            with crowd_of(server, 120) as crowd:
                for client in crowd:
                    client.sendall(b"print('here')\n\n")
                assert [read_all(client) for client in crowd] == [b"here\n"] * 120
        server.wait_for_log(rb"^tcpserver: end ", 360)
        assert b"dropping" not in server.log()
        idle = len(children(server.pid))
        assert idle <= max(0, files - 256)
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < 12 + idle


@needs_root
def test_an_account_that_cannot_come_back_serves_each_client_by_itself(home: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-RHl0", "-u0", "-g0", "--preload", "obey", "--reuse", "9", "127.0.0.1", "0", "obey"]
    with Server(words, environ=environ, cwd=closed) as server:
        assert ask(server) == ask(server)
    words[2:4] = ["-u65534", "-g65534"]
    open_to_all(home)
    with Server(words, environ=environ, cwd=closed) as server:
        assert ask(server) != ask(server)
        warning = b"tcpserver: warning: no --reuse: a process could not return to the current directory\n"
        assert server.log().startswith(warning)


@needs_root
def test_what_reuse_needs_is_loaded_before_root_is_given_up(home: Path) -> None:
    """The library of this Python may be in a directory that only root may search."""
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-RHl0", "-u65534", "-g65534", "--preload", "obey", "--reuse", "9", "127.0.0.1", "0", "obey"]
    open_to_all(home)
    with Server(words, environ=environ, cwd=Path("/")) as server:
        assert ask(server) == ask(server)


TWO = (
    EXECUTE
    + """
def other():
    os.write(1, b'other')
"""
)


def test_only_the_main_of_a_module_is_what_it_offers_to_call_again(home: Path, tmp_path: Path) -> None:
    found = install_script(tmp_path, "two", TWO)
    for name in ("entry_points.txt", "RECORD"):
        file = tmp_path / "two-1.dist-info" / name
        text = file.read_text().replace("two = two:main", "two-other = two:other")
        file.write_text(text.replace("bin/two", "bin/two-other"))
    other = found.rename(found.with_name("two-other"))
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    words = ["-v", "-RHl0", "--preload", "two-other", "--reuse", "9", "127.0.0.1", "0", str(other)]
    with Server(words, environ=environ) as server:
        assert [server.ask(), server.ask()] == [b"other"] * 2


def test_a_cdb_of_domains_does_not_keep_a_process_from_being_used_again(tmp_path: Path) -> None:
    mail = make_home(tmp_path / "home", CONTROL)
    with open(mail / "control/morercpthosts.cdb", "wb") as file, cdblib.Writer(file) as domains:
        domains.put(b"more.example", b"")
    with smtp(mail) as server:
        for _ in range(3):
            replies = session(server, "127.0.0.2", "MAIL FROM:<>", "RCPT TO:<x@more.example>", "RCPT TO:<x@z>", "QUIT")
            assert [reply[:3] for reply in replies] == ["220", "250", "250", "553", "221"]
        assert len(set(pids(server))) == 1


def test_idle_processes_die_of_an_interrupt_without_a_log_line(home: Path) -> None:
    with serving(home, "--reuse", "9") as server:
        pid = int(ask(server))
        before = server.wait_for_log(rb"^tcpserver: status: 0/")
        os.kill(pid, signal.SIGINT)
        until(lambda: pid not in children(server.pid))
        assert server.log() == before


@pytest.mark.parametrize("options", [["--reuse", "1"], ["--reuse", "9"]], ids=["call", "reuse"])
def test_the_server_logs_a_client_before_its_program_does(home: Path, options: list[str]) -> None:
    """Also if many clients come at once, and if an idle process gets the client."""
    with serving(home, *options, "-c", "70", "-b", "100") as server, crowd_of(server, 64) as crowd:
        for client in crowd:
            client.sendall(b"import os; os.write(2, b'program %d\\n' % os.getpid())\n\n")
        for client in crowd:
            read_all(client)
        log = server.wait_for_log(rb"^tcpserver: end ", 64)
        for pid in {line.split()[1] for line in log.splitlines() if line.startswith(b"program ")}:
            assert log.index(b"tcpserver: pid %s " % pid) < log.index(b"tcpserver: ok %s " % pid)
            assert log.index(b"tcpserver: ok %s " % pid) < log.index(b"program %s\n" % pid)


def test_clients_that_need_all_descriptors_do_not_make_the_server_pause(home: Path) -> None:
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "PYTHONPATH": str(home)}
    words = ["-v", "-RHl0", "--preload", "obey", "-c", "200", "-b", "300", "127.0.0.1", "0", "obey"]
    with Server(words, environ=environ, preexec=limited(20)) as server, crowd_of(server, 100) as crowd:
        for client in crowd:
            client.sendall(b"print('here')\n\n")
        assert [read_all(client) for client in crowd] == [b"here\n"] * 100
        assert b"unable to accept" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--reuse", "1"], ["--reuse", "5"]], ids=["call", "reuse"])
def test_processes_that_are_killed_at_any_moment_take_only_their_own_client_with_them(
    home: Path, options: list[str]
) -> None:
    """A process whose death is not known yet gets no client, and its descriptor is not used any more."""
    with serving(home, *options) as server:
        for number in range(120):
            with crowd_of(server, 8) as crowd:
                for client in crowd:
                    client.sendall(b"print('here')\n\n")
                for pid in children(server.pid)[number % 3 :: 2]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3])
                for client in crowd:
                    assert read_all(client) in (b"here\n", b"")
        until(lambda: server.log().endswith(b"tcpserver: status: 0/40\n"))
        assert server.log().count(b"Traceback") == server.log().count(b"\nKeyboardInterrupt\n")  # the program's
        assert b"dropping" not in server.log()
        assert ask(server, "print('still')") == b"still\n"


def test_an_interrupt_after_the_program_has_returned_is_no_error_of_the_program() -> None:
    def main() -> None:
        process = FullReset(lambda: 7)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert process.call({}) == 7
        os.kill(os.getpid(), signal.SIGINT)

    assert forked.run(main, ["program"]) == (b"", b"", -signal.SIGINT)


def executed(program: str, verbosity: int, path: Path) -> forked.Result:
    """What a worker does that executes its program, in a server with this PATH, after a client with another one."""

    def main() -> object:
        settings = Settings(program=[program], verbosity=verbosity, reuse=2)
        script = Script(lambda: 0, {"serve_client": lambda: 0})
        plan = Plan(settings, script, {b"PATH": bytes(path)}, Lines(), SignalActions(), -1)
        parent_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with parent_end:
            worker = Worker(plan, worker_end.detach())
            worker.process.call({b"PATH": b"/of/the/client/before"})
            os._exit(worker.execute({b"PATH": b"/of/this/client"}))

    return forked.run(main, [program])


def test_a_worker_that_executes_its_program_searches_in_the_path_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "program").write_text('#!/bin/sh\necho "$PATH"\n')
    (tmp_path / "program").chmod(0o755)
    assert executed("program", 1, tmp_path) == (b"/of/this/client\n", b"", 0)


@pytest.mark.parametrize(
    ("verbosity", "message"),
    [(1, b"tcpserver: warning: dropping connection, unable to run program: file does not exist\n"), (0, b"")],
    ids=["-Q", "-q"],
)
def test_a_worker_that_cannot_execute_its_program_logs_it_except_with_q(
    verbosity: int, message: bytes, tmp_path: Path
) -> None:
    """With -q 0.88 logs nothing, neither in the parent nor in a child (tcpserver.c closes buffer 2)."""
    assert executed("program", verbosity, tmp_path) == (b"", message, 111)
