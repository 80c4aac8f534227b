"""Run the server of examples/quickstart. With --check, send test mail through a temporary server and exit.

With --report, show in a browser the report of the last run's sessions.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the server and all sessions.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

EXAMPLES = Path(__file__).resolve().parent
PROGRAMS = EXAMPLES.parent / ".venv" / "bin"
HOME = EXAMPLES.parent / ".quickstart"
ADDRESS = "127.0.0.1"
KILL_DELAY = 3  # seconds from SIGTERM to SIGKILL
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# Removed from the environment: these variables would change which clients may relay, or how the server starts.
NOT_INHERITED = (
    "RELAYCLIENT",
    "RCPTCHECK",
    "DATABYTES",
    "SMTPAUTH",
    "SMTPAUTHFILE",
    "SMTPAUTHSOCKET",
    "SMTPS",
    "SPPCONFFILE",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
)

BANNER = """\
quickstart: {address} port {port} accepts mail for someone@example.com from all, and for all domains from 127.0.0.1
quickstart: the rules are in {rules}, control files and mail in {home}
quickstart: Ctrl-C stops it. Four commands to try in another terminal:
  {python} {send} {port} 127.0.0.1 someone@elsewhere.example  # accepted: 127.0.0.1 may relay
  {python} {send} {port} 127.0.0.2 someone@elsewhere.example  # refused: 127.0.0.2 may not relay
  cat {home}/Maildir/new/*
  {relaytest} {address}:{port} --from-ip 127.0.0.2 --pause 0  # is it an open relay?
quickstart: examples/quickstart --report shows in a browser what they did"""
REPORT_TIME = 20  # seconds that the report at the end may take


def main() -> int:
    """Return the exit code: 0 or 1 for --check, the server's if it exits by itself, else 128 + the signal number."""
    # The signals stay blocked, and wait_for fetches them: none can interrupt between the start of a process and the
    # assignment of its pid. A signal that is ignored stays ignored (SIGHUP under nohup).
    stop_signals = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stop_signals, signal.SIGCHLD})
    try:
        if sys.argv[1:] == ["--report"]:
            return report(HOME)
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, requested_port(), stop_signals)
        with tempfile.TemporaryDirectory(prefix="quickstart-") as home:
            return check(Path(home), stop_signals)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"quickstart: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def requested_port() -> int:
    """Return $PORT. End with 100 if it is not a port number, with 111 if it is not available."""
    text = os.environ.get("PORT") or "2525"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        fatal(100, f"PORT is not a number from 1 to 65535: {text}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, int(text)))
        except OSError as error:
            fatal(111, f"unable to use port {text} of {ADDRESS}: {error.strerror}. Choose another: PORT=2626")
    return int(text)


def prepare(home: Path) -> None:
    """Create the control files unless they exist (users may have edited them), and compile the rules."""
    if (home / "control").is_dir():
        print(f"quickstart: using the control files and the mail in {home}")
    else:
        home.mkdir(exist_ok=True)
        shutil.rmtree(home / "control.new", ignore_errors=True)
        shutil.copytree(EXAMPLES / "control", home / "control.new")
        shutil.copy(EXAMPLES / "validrcptto", home / "control.new")
        (home / "control.new").rename(home / "control")
    with (EXAMPLES / "tcp.smtp").open("rb") as rules:
        command = [PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"]
        status = subprocess.run(command, stdin=rules, check=False).returncode
    if status:
        fatal(status, f"tcprules refused {EXAMPLES}/tcp.smtp: see its message above")


def start(home: Path, port: int, log: IO[bytes] | None) -> subprocess.Popen[str]:
    """Start tcpserver in its own process group. It prints its port as the first line when it listens (-1)."""
    environ = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    environ["PATH"] = f"{PROGRAMS}:{environ.get('PATH', os.defpath)}"
    environ["QMAILHOME"] = str(home)
    environ["QMAILQUEUE"] = str(PROGRAMS / "maildir-queue")
    environ["QUEUE_MAILDIR"] = str(home / "Maildir")
    environ["SMTPD_LOG"] = "all"  # for the report
    # -H, -l: no DNS lookups. Loopback addresses need no names, and the host may have no DNS.
    options = ["-1", "-v", "-H", "-R", "-l", "localhost", "-x", str(home / "tcp.smtp.cdb")]
    options += ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
    return subprocess.Popen(
        [PROGRAMS / "tcpserver", *options, ADDRESS, str(port), "qmail-smtpd"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environ,
        process_group=0,
        preexec_fn=unblock_signals,
    )


def unblock_signals() -> None:
    """Unblock all signals in a new child: it would inherit the blocked signals of this process."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(home: Path, port: int, stop_signals: set[signal.Signals]) -> int:
    """Serve until a stop signal arrives or the server exits by itself. Return the exit code."""
    prepare(home)
    with copied_log(home) as log:
        server = start(home, port, log)
        log.close()
        try:
            if listening_port(server):
                print_banner(home, port)
            return wait_for(server, stop_signals)
        finally:
            stop_group([server])


@contextmanager
def copied_log(home: Path) -> Iterator[IO[bytes]]:
    """Yield a pipe whose lines are shown, and kept in a file for the report. Print a link to the report at the end.

    tee has its own process group, so that it has the last lines when the server is stopped.
    """
    read, write = os.pipe()
    tee = subprocess.Popen(["tee", str(home / "log")], stdin=read, stdout=2, process_group=0)
    os.close(read)
    try:
        with open(write, "wb") as log:
            yield log
    finally:
        try:
            tee.wait(KILL_DELAY)
        except subprocess.TimeoutExpired:
            tee.kill()
            tee.wait()
        link_report(home)


def link_report(home: Path) -> None:
    """Write the report of the sessions, and print where it is, unless there is nothing to show or nobody to read."""
    if make_report(home):
        try:
            os.write(1, f"quickstart: the report of its sessions: {(home / 'report.html').as_uri()}\n".encode())
        except OSError:
            pass  # the terminal is closed


def make_report(home: Path) -> bool:
    """Write the page. Return False if there is no log, or if it cannot be read or written."""
    if not (home / "log").exists():
        return False
    command = [PROGRAMS / "relayreport", "--html", home / "report.html", home / "log"]
    try:
        return subprocess.run(command, process_group=0, timeout=REPORT_TIME, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def report(home: Path) -> int:
    """Write the report of the last run's sessions, print where it is, and open it if there is a browser."""
    if not (home / "log").exists():
        fatal(111, "there are no sessions yet: start examples/quickstart first")
    if not make_report(home):
        return 111
    link = (home / "report.html").as_uri()
    print(f"quickstart: {link}")
    if any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(link)
    return 0


def check(home: Path, stop_signals: set[signal.Signals]) -> int:
    """Run check.py against a temporary server. Return the exit code; if not 0, print the server's log."""
    prepare(home)
    with tempfile.TemporaryFile() as log:
        processes: list[subprocess.Popen[Any]] = [start(home, 0, log)]
        status = 1
        try:
            if port := listening_port(processes[0]):
                processes.append(start_check(processes[0].pid, port, home))
                status = wait_for(processes[1], stop_signals)
        finally:
            stop_group(processes)
        if status:
            log.seek(0)
            sys.stderr.write(log.read().decode("ascii", "replace"))
        return status


def start_check(group: int, port: int, home: Path) -> subprocess.Popen[bytes]:
    """Start check.py in the server's process group, so that stop_group stops it too."""
    command = [sys.executable, str(EXAMPLES / "check.py"), str(port), str(home / "Maildir")]
    return subprocess.Popen(command, process_group=group, preexec_fn=unblock_signals)


def listening_port(server: subprocess.Popen[str]) -> int:
    """Wait until the server listens and return its port; return 0 if it has exited (its own message says why)."""
    assert server.stdout is not None
    return int(server.stdout.readline() or 0)


def print_banner(home: Path, port: int) -> None:
    """Print where the files are and which commands to try."""
    paths = {"python": PROGRAMS / "python3", "send": EXAMPLES / "send.py", "rules": EXAMPLES / "tcp.smtp", "home": home}
    paths["relaytest"] = PROGRAMS / "relaytest"
    print(BANNER.format(address=ADDRESS, port=port, **{name: shlex.quote(str(path)) for name, path in paths.items()}))
    sys.stdout.flush()


def wait_for(process: "subprocess.Popen[Any]", stop_signals: set[signal.Signals]) -> int:
    """Return the exit code of the process, or 128 + the number of a stop signal that arrives first."""
    while process.poll() is None:
        number = signal.sigwait({*stop_signals, signal.SIGCHLD})
        if number in stop_signals:
            return 128 + number
    return process.returncode


def stop_group(processes: "list[subprocess.Popen[Any]]") -> None:
    """Stop the processes and their sessions: SIGTERM, and SIGKILL after KILL_DELAY. The first one leads their group."""
    group = processes[0].pid
    deadline = time.monotonic() + KILL_DELAY
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            reap()
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # no process is left in the group
    for process in processes:
        process.wait()
        if process.stdout:
            process.stdout.close()


def reap() -> None:
    """Reap all ended children: killpg still finds a zombie in its group."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(main())
