"""Run the server of examples/quickstart. With --check, send test mail through a temporary server and exit.

With --report, show in a browser the report of the last run's sessions.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the server and all sessions.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from processes import (
    KILL_DELAY,
    Processes,
    block_signals,
    start_beside,
    stop_group,
    unblock_signals,
    wait_for_any,
)
from servers import ADDRESS, EXAMPLES, PROGRAMS, environment, fatal, is_port, print_log, require_free_port

HOME = EXAMPLES.parent / ".quickstart"

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
    stop_signals = block_signals()
    try:
        if sys.argv[1:] == ["--report"]:
            return report(HOME)
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, requested_port(), stop_signals)
        with tempfile.TemporaryDirectory(prefix="quickstart-") as home:
            return check(Path(home), stop_signals)
    except OSError as error:
        fatal(111, error)


def requested_port() -> int:
    """Return $PORT. End with 100 if it is not a port number, with 111 if it is not available."""
    text = os.environ.get("PORT") or "2525"
    if not is_port(text):
        fatal(100, f"PORT is not a number from 1 to 65535: {text}")
    require_free_port(text, "Choose another: PORT=2626")
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
    environ = environment(home) | {"SMTPD_LOG": "all"}  # for the report
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


def serve(home: Path, port: int, stop_signals: set[signal.Signals]) -> int:
    """Serve until a stop signal arrives or the server exits by itself. Return the exit code."""
    prepare(home)
    with copied_log(home) as log:
        server = start(home, port, log)
        log.close()
        try:
            if listening_port(server):
                print_banner(home, port)
            return wait_for_any([server], stop_signals)
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
    command: list[str | Path] = [PROGRAMS / "relayreport", "--html", home / "report.html", home / "log"]
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
        processes: Processes = [start(home, 0, log)]
        status = 1
        try:
            if port := listening_port(processes[0]):
                start_beside(processes, [sys.executable, EXAMPLES / "check.py", str(port), home / "Maildir"])
                status = wait_for_any(processes[1:], stop_signals)
        finally:
            stop_group(processes)
        if status:
            print_log(log)
        return status


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


if __name__ == "__main__":
    sys.exit(main())
