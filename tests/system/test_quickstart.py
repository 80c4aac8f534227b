"""examples/quickstart on a copy of the tree: from nothing to a relay that is not open, and to nothing again."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from threading import Thread

import pytest

from tests.kit.examples import copy_tree, programs_of
from tests.kit.support import ROOT, free_port

pytestmark = pytest.mark.slow

OUTSIDE = "someone@elsewhere.example"
REFUSED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
UNKNOWN = "550 sorry, no mailbox here by that name (#5.1.1)"
PATIENCE = 30  # seconds after which something that should happen will not


def environment(**changes):
    """The environment of a user's shell, without the variables that are set for the tests on this machine."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PORT", "PYTHON", "RELAYCLIENT")}
    return {**environ, **changes}


def quickstart(tree, *arguments, **changes):
    return subprocess.run(
        [tree / "examples" / "quickstart", *arguments], env=environment(**changes), capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    """A tree in which --check has been run once, without a compiler, and the result."""
    tree = copy_tree(tmp_path_factory.mktemp("quickstart"))
    return tree, quickstart(tree, "--check", PYTHON=sys.executable, CC="/bin/false")


@pytest.fixture
def tree(first_run):
    """The tree, as the first run has left it."""
    tree, _ = first_run
    yield tree
    shutil.rmtree(tree / ".quickstart", ignore_errors=True)
    shutil.copytree(ROOT / "examples", tree / "examples", dirs_exist_ok=True)


class Running:
    """A quick start that serves: its process, its port, the lines that it printed before the server's own."""

    def __init__(self, tree, port, process, output):
        self.tree, self.port, self.process, self.output = tree, port, process, output
        self.lines = []
        while not self.lines or "open relay?" not in self.lines[-1]:
            line = output.readline()
            assert line, self.lines
            if not line.startswith("tcpserver: "):
                self.lines.append(line.rstrip("\n"))

    def connect(self):
        """A session in its middle."""
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        assert connection.recv(100).startswith(b"220 ")
        return connection


@contextmanager
def serving(tree, *wrapper):
    port = free_port()
    command = [*wrapper, tree / "examples" / "quickstart"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment(PORT=str(port)), text=True, **pipe)
    try:
        yield Running(tree, port, process, process.stdout)
    finally:
        process.terminate()
        process.communicate()


def drain(descriptor):
    """Read up to the end."""
    with open(descriptor, "rb") as file:
        while file.read1():
            pass


def assert_nothing_is_left(running):
    assert programs_of(running.tree) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), PATIENCE)


# the round


def test_the_first_run_makes_everything_without_a_compiler_and_its_checks_succeed(first_run):
    tree, result = first_run
    assert (result.returncode, result.stderr) == (0, "")
    making, installing, *round_ = result.stdout.splitlines()
    assert making.startswith(f"quickstart: making {tree}/.venv with Python 3.")
    assert installing == f"quickstart: installing into {tree}/.venv"
    assert len(round_) == 4
    assert re.fullmatch(rf"quickstart: ok: 127\.0\.0\.1 to {OUTSIDE}: 250 ok \d+ qp \d+, stored", round_[0])
    assert round_[1] == f"quickstart: ok: 127.0.0.2 to {OUTSIDE}: {REFUSED}, not stored"
    assert re.fullmatch(r"quickstart: ok: 127\.0\.0\.2 to someone@example\.com: 250 ok \d+ qp \d+, stored", round_[2])
    assert round_[3] == f"quickstart: ok: 127.0.0.2 to nobody@example.com: {UNKNOWN}, not stored"
    assert sorted(path.name for path in tree.iterdir() if path.name.startswith(".")) == [".venv"]


def test_a_second_run_prints_what_it_uses_again(tree):
    result = quickstart(tree, "--check", PYTHONWARNINGS="default::ResourceWarning")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == f"quickstart: using {tree}/.venv"
    assert result.stdout.count("quickstart: ok: ") == 4


def test_a_check_leaves_no_processes_and_no_files(tree, tmp_path):
    assert quickstart(tree, "--check", TMPDIR=str(tmp_path)).returncode == 0
    assert programs_of(tree) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["RELAYCLIENT", "DATABYTES", "SPPCONFFILE"])
def test_variables_of_the_user_do_not_reach_the_server(tree, variable):
    assert quickstart(tree, "--check", **{variable: "1"}).returncode == 0


def test_a_check_of_an_open_relay_fails_and_shows_what_was_wrong(tree):
    (tree / "examples" / "tcp.smtp").write_text(':allow,RELAYCLIENT=""\n')
    result = quickstart(tree, "--check")
    assert result.returncode == 1
    assert re.search(rf"^quickstart: NOT OK: 127\.0\.0\.2 to {OUTSIDE}: 250 ok .*, stored$", result.stdout, re.M)
    assert result.stdout.count("quickstart: ok: ") == 3
    assert "tcpserver: " in result.stderr


def test_rules_that_do_not_compile_are_named(tree):
    (tree / "examples" / "tcp.smtp").write_text("127.0.0.1:alow\n")
    result = quickstart(tree)
    assert result.returncode == 100
    assert "tcprules: fatal: " in result.stderr
    line = f"quickstart: fatal: tcprules refused {tree}/examples/tcp.smtp: see its message above\n"
    assert result.stderr.endswith(line)


# the server


def test_it_prints_in_under_ten_lines_where_files_are_and_what_to_try(tree):
    with serving(tree) as running:
        text = "\n".join(running.lines)
        assert len(running.lines) < 9  # and two more where it has to make .venv first
        assert f"127.0.0.1 port {running.port} accepts mail" in text
        assert f"{tree}/examples/tcp.smtp" in text
        assert f"{tree}/.quickstart" in text
        commands = [line for line in running.lines if line.startswith("  ")]
        Thread(target=drain, args=[os.dup(running.output.fileno())]).start()  # each refusal is logged
        results = [subprocess.run(command, shell=True, capture_output=True, text=True) for command in commands]
    taken, refused, shown, asked = results
    assert (taken.returncode, taken.stdout[:7]) == (0, "250 ok ")
    assert (refused.returncode, refused.stdout) == (1, REFUSED + "\n")
    assert shown.stdout.startswith(f"Return-Path: <me@home.example>\nDelivered-To: {OUTSIDE}\nReceived: ")
    assert shown.stdout.endswith("\nSubject: quick start\n\nHello.\n")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "\nrelaytest: closed: " in asked.stdout


def test_control_files_and_mail_of_an_earlier_run_are_kept(tree):
    with serving(tree) as running:
        pass
    (tree / ".quickstart" / "control" / "me").write_text("changed.example\n")
    with serving(tree) as running:
        assert running.lines[1] == f"quickstart: using the control files and the mail in {tree}/.quickstart"
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as connection:
            assert connection.recv(100) == b"220 changed.example ESMTP\r\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_with_its_sessions(tree, number):
    with serving(tree) as running, running.connect() as session:
        running.process.send_signal(number)
        assert running.process.wait(PATIENCE) == 128 + number
        assert session.recv(100) == b""
        assert_nothing_is_left(running)


@pytest.mark.parametrize("how", ["ctrl-c", "close"])
def test_the_terminal_ends_it_with_its_sessions(tree, how):
    port = free_port()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(tree / "examples" / "quickstart", ["quickstart"], environment(PORT=str(port)))
    with open(os.dup(terminal), errors="replace") as output:
        running = Running(tree, port, None, output)
    with running.connect() as session:
        if how == "ctrl-c":
            os.write(terminal, b"\x03")
        else:
            os.close(terminal)
        _, status = os.waitpid(pid, 0)
        number = signal.SIGINT if how == "ctrl-c" else signal.SIGHUP
        assert os.waitstatus_to_exitcode(status) == 128 + number
        assert session.recv(100) == b""
        assert_nothing_is_left(running)


def test_nohup_keeps_it_when_the_terminal_is_closed(tree):
    with serving(tree, "nohup") as running:
        running.process.send_signal(signal.SIGHUP)
        running.connect().close()


# the report


def test_it_ends_with_a_link_to_the_report_of_its_sessions_which_report_opens(tree, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    with serving(tree) as running:
        with running.connect() as session:
            session.sendall(b"HELO me.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@elsewhere.example>\r\nQUIT\r\n")
            while session.recv(100):
                pass
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE) == 130
        last = running.output.read().splitlines()[-1]
    page = tree / ".quickstart" / "report.html"
    assert last == f"quickstart: the report of its sessions: {page.as_uri()}"
    assert "<b>1</b> connections" in page.read_text()
    page.unlink()
    result = quickstart(tree, "--report", BROWSER=f"{browser} %s")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == f"quickstart: {page.as_uri()}"
    assert "127.0.0.1" in page.read_text()
    assert (tmp_path / "opened").read_text() == f"{page.as_uri()}\n"


def test_a_report_before_the_first_run_is_a_clear_line(tree):
    result = quickstart(tree, "--report")
    assert result.returncode == 111
    assert result.stderr == "quickstart: fatal: there are no sessions yet: start examples/quickstart first\n"


# what it refuses


def test_a_busy_port_is_a_clear_line(tree):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        result = quickstart(tree, PORT=str(port))
    assert result.returncode == 111
    line = f"unable to use port {port} of 127.0.0.1: Address already in use. Choose another: PORT=2626"
    assert result.stderr == f"quickstart: fatal: {line}\n"


@pytest.mark.parametrize("port", ["0", "65536", "smtp", "-1", "25 ", "٢٥"])
def test_a_port_that_is_none_is_a_clear_line(tree, port):
    result = quickstart(tree, PORT=port)
    assert result.returncode == 100
    assert result.stderr == f"quickstart: fatal: PORT is not a number from 1 to 65535: {port}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["2525"], ["--check", "x"], ["--check --check"]])
def test_anything_but_check_is_a_usage_error(tree, arguments):
    result = quickstart(tree, *arguments)
    assert (result.returncode, result.stdout) == (100, "")
    assert result.stderr == "usage: examples/quickstart [ --check | --report ]\n"


# which Python


def tools(directory, **programs):
    """A PATH that has what a bare system has, and the named programs as shell scripts."""
    path = directory / "bin"
    path.mkdir()
    for name in ("sh", "dirname", "cat", "env", "tr", "rm"):
        (path / name).symlink_to(shutil.which(name))
    for name, text in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
    return str(path)


OLD = 'if [ "$1" = -V ]; then echo Python 3.8.18; else exit 1; fi'
WITHOUT_VENV = f'PYTHONPATH="$(dirname "$0")/lib" exec {sys.executable} "$@"'


@pytest.fixture
def bare_tree(tmp_path):
    return copy_tree(tmp_path)


def test_an_old_python_is_a_clear_line(bare_tree, tmp_path):
    result = quickstart(bare_tree, "--check", PATH=tools(tmp_path, python3=OLD))
    assert result.returncode == 100
    assert result.stderr == (
        "quickstart: fatal: Python 3.11 or later is needed, but python3 is Python 3.8.18. Choose another: PYTHON=...\n"
    )
    assert not (bare_tree / ".venv").exists()


def test_no_python_is_a_clear_line(bare_tree, tmp_path):
    result = quickstart(bare_tree, "--check", PATH=tools(tmp_path))
    assert result.returncode == 100
    assert result.stderr == (
        "quickstart: fatal: Python 3.11 or later is needed, but python3 was not found. Choose another: PYTHON=...\n"
    )


def test_a_python_of_the_users_that_is_none_is_a_clear_line(bare_tree, tmp_path):
    result = quickstart(bare_tree, "--check", PYTHON=str(tmp_path / "no python"))
    assert result.returncode == 100
    assert result.stderr == (
        f"quickstart: fatal: Python 3.11 or later is needed, but {tmp_path}/no python was not found."
        " Choose another: PYTHON=...\n"
    )


def test_a_python_without_venv_is_a_clear_line(bare_tree, tmp_path):
    path = tools(tmp_path, python3=WITHOUT_VENV)
    (tmp_path / "bin" / "lib").mkdir()
    (tmp_path / "bin" / "lib" / "ensurepip.py").write_text("raise ImportError\n")
    result = quickstart(bare_tree, "--check", PATH=path)
    assert result.returncode == 100
    assert result.stderr == (
        "quickstart: fatal: no venv module in python3: on Debian or Ubuntu install python3-venv,"
        " or choose another Python: PYTHON=...\n"
    )
    assert not (bare_tree / ".venv").exists()


@pytest.mark.parametrize("newer", [f"python3.{minor}" for minor in range(11, 16)])
def test_a_newer_python_is_found_beside_an_old_one(bare_tree, tmp_path, newer):
    # it stops where pip would begin: the first line shows which Python it uses
    broken = f'case "$*" in *ensurepip*) ;; "-m venv"*) exit 1;; *) exec {sys.executable} "$@";; esac'
    result = quickstart(bare_tree, "--check", PATH=tools(tmp_path, python3=OLD, **{newer: broken}))
    assert result.returncode == 100
    assert result.stdout.startswith(f"quickstart: making {bare_tree}/.venv with Python 3.")
    assert result.stderr == f"quickstart: fatal: unable to make {bare_tree}/.venv\n"
    assert not (bare_tree / ".venv").exists()


def test_a_venv_without_a_python_is_a_clear_line(bare_tree):
    (bare_tree / ".venv").mkdir()
    result = quickstart(bare_tree, "--check")
    assert result.returncode == 100
    assert result.stderr == (
        f"quickstart: fatal: {bare_tree}/.venv has no Python 3.11 or later with pip: remove it and try again\n"
    )
