"""Run the server of examples/quickstart; with --check a server of its own, and a round of mail through it.

Whatever ends this process (Ctrl-C, SIGTERM, a terminal that is closed), its server and all sessions end with it.
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
from pathlib import Path
from typing import IO, Any, NoReturn

EXAMPLES = Path(__file__).resolve().parent
PROGRAMS = EXAMPLES.parent / ".venv" / "bin"
HOME = EXAMPLES.parent / ".quickstart"
ADDRESS = "127.0.0.1"
PATIENCE = 3  # seconds from SIGTERM to SIGKILL
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# In the environment of whoever starts this, they would change who may relay, or what the server believes of its start.
FOREIGN = ("RELAYCLIENT", "DATABYTES", "SMTPAUTH", "SMTPAUTHFILE", "SMTPS", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET")

TEXT = """\
quickstart: {address} port {port} takes mail for example.com from everybody, and for all domains from 127.0.0.1
quickstart: the rules are in {rules}, control files and mail in {home}
quickstart: Ctrl-C ends it. Four commands to try in another terminal:
  {python} {send} {port} 127.0.0.1 someone@elsewhere.example  # taken: 127.0.0.1 may relay
  {python} {send} {port} 127.0.0.2 someone@elsewhere.example  # refused: 127.0.0.2 may not
  cat {home}/Maildir/new/*
  {relaytest} {address}:{port} --from-ip 127.0.0.2 --pause 0  # is it an open relay?"""


def main() -> int:
    """The exit code: 0 or 1 for --check, the server's where it ends by itself, 128 + the signal's number else."""
    # From here on signals wait to be fetched: none can come between the start of a process and the note of its number.
    ends = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}  # nohup's word counts
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})
    try:
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, wanted_port(), ends)
        with tempfile.TemporaryDirectory(prefix="quickstart-") as home:
            return check(Path(home), ends)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"quickstart: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def wanted_port() -> int:
    """$PORT, if it can be had."""
    text = os.environ.get("PORT") or "2525"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        fatal(100, f"PORT is not a number from 1 to 65535: {text}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, int(text)))
        except OSError as error:
            fatal(111, f"port {text} of {ADDRESS} cannot be had: {error.strerror}. Choose another: PORT=2626")
    return int(text)


def prepare(home: Path) -> None:
    """Give the server its home: control files, which are the user's from then on, and the compiled rules."""
    if (home / "control").is_dir():
        print(f"quickstart: using the control files and the mail in {home}")
    else:
        home.mkdir(exist_ok=True)
        shutil.rmtree(home / "control.new", ignore_errors=True)
        shutil.copytree(EXAMPLES / "control", home / "control.new")
        (home / "control.new").rename(home / "control")
    with (EXAMPLES / "tcp.smtp").open("rb") as rules:
        command = [PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"]
        status = subprocess.run(command, stdin=rules, check=False).returncode
    if status:
        fatal(status, f"tcprules does not take {EXAMPLES}/tcp.smtp, see above")


def start(home: Path, port: int, log: IO[bytes] | None) -> subprocess.Popen[str]:
    """tcpserver in a process group of its own. Its first line of output is its port, and says that it listens."""
    environ = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    environ["PATH"] = f"{PROGRAMS}:{environ.get('PATH', os.defpath)}"
    environ["QMAILHOME"] = str(home)
    environ["QMAILQUEUE"] = str(PROGRAMS / "maildir-queue")
    environ["QUEUE_MAILDIR"] = str(home / "Maildir")
    # no names are asked for: loopback needs none, and there may be no DNS
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
        preexec_fn=unblock,
    )


def unblock() -> None:
    """Programs start with no signal blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(home: Path, port: int, ends: set[signal.Signals]) -> int:
    """Serve until a signal comes or the server ends by itself."""
    prepare(home)
    server = start(home, port, None)
    try:
        if listening_port(server):
            show(home, port)
        return wait_for(server, ends)
    finally:
        end(server.pid)


def check(home: Path, ends: set[signal.Signals]) -> int:
    """Serve for one round of mail. The server's log is shown if anything in it went wrong."""
    prepare(home)
    with tempfile.TemporaryFile() as log:
        server = start(home, 0, log)
        try:
            port = listening_port(server)
            status = wait_for(start_round(server.pid, port, home), ends) if port else 1
        finally:
            end(server.pid)
        if status:
            log.seek(0)
            sys.stderr.write(log.read().decode("ascii", "replace"))
        return status


def start_round(group: int, port: int, home: Path) -> subprocess.Popen[bytes]:
    """The round of mail, in the process group of the server, to end with it."""
    command = [sys.executable, str(EXAMPLES / "check.py"), str(port), str(home / "Maildir")]
    return subprocess.Popen(command, process_group=group, preexec_fn=unblock)


def listening_port(server: subprocess.Popen[str]) -> int:
    """The port, once the server listens; 0 if it has ended instead, with its own words on why."""
    assert server.stdout is not None
    return int(server.stdout.readline() or 0)


def show(home: Path, port: int) -> None:
    """Say where things lie, and what can be tried."""
    paths = {"python": PROGRAMS / "python3", "send": EXAMPLES / "send.py", "rules": EXAMPLES / "tcp.smtp", "home": home}
    paths["relaytest"] = PROGRAMS / "relaytest"
    print(TEXT.format(address=ADDRESS, port=port, **{name: shlex.quote(str(path)) for name, path in paths.items()}))
    sys.stdout.flush()


def wait_for(process: "subprocess.Popen[Any]", ends: set[signal.Signals]) -> int:
    """The exit code of the process, or 128 + the number of the signal that was sent to this one."""
    while process.poll() is None:
        number = signal.sigwait({*ends, signal.SIGCHLD})
        if number in ends:
            return 128 + number
    return process.returncode


def end(group: int) -> None:
    """End the server and its sessions: SIGTERM for the whole group, and after a while SIGKILL."""
    deadline = time.monotonic() + PATIENCE
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            reap()
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nobody is left


def reap() -> None:
    """Take note of all children that have ended: until then they count as members of their group."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    sys.exit(main())
