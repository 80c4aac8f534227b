"""Run the three servers of examples/submission. With --check, test logins and mail on temporary servers and exit.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the servers and all sessions.
"""

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NoReturn

from quickstart import ADDRESS, EXAMPLES, NOT_INHERITED, PROGRAMS, SIGNALS, stop_group, unblock_signals

HOME = EXAMPLES.parent / ".submission"
SERVICES = ("smtp", "submission", "submissions")  # in place of ports 25, 587 and 465; lists of ports have this order
PORTS = "2525 2587 2465"
PASSWORD = "tanstaaf"  # noqa: S105  # only this host can reach the servers
USERS = {"joe@example.com": "SCRAM-SHA-256", "old@example.com": "PLAIN"}  # PLAIN: for CRAM-MD5
START_TIMEOUT = 20  # seconds until all servers must listen
RULES = ":allow\n"  # no address may relay without a login

BANNER = """\
submission: {address} ports {smtp} (for 25), {submission} (for 587), {submissions} (for 465, TLS); Ctrl-C stops them
submission: users {users}, password {password}; control files, certificate and mail in {home}
submission: four commands to try in another terminal:
  swaks --server {address}:{submission} --tls --auth PLAIN --auth-user joe@example.com --auth-password {password} {mail}
  swaks --server {address}:{submission} --tls {mail}  # refused: no login
  swaks --server {address}:{smtp} --tls {mail}  # refused: no login, and recipient not at example.com
  CHECKUSERS_FILE={home}/control/users {checkusers} --set you@example.com
"""
MAIL = "--from joe@example.com --to someone@elsewhere.example"


def main() -> int:
    """Return the exit code: 0 or 1 for --check, a server's if one exits by itself, else 128 + the signal number."""
    stop_signals = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stop_signals, signal.SIGCHLD})  # see quickstart.py, main
    try:
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, requested_ports(), stop_signals)
        with tempfile.TemporaryDirectory(prefix="submission-") as home:
            return check(Path(home), stop_signals)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"submission: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def requested_ports() -> list[int]:
    """Return $PORTS. End with 100 if they are not three port numbers, with 111 if one is not available."""
    words = (os.environ.get("PORTS") or PORTS).split()
    if len(words) != len(SERVICES) or not all(
        word.isascii() and word.isdigit() and 0 < int(word) < 65536 for word in words
    ):
        fatal(100, f"PORTS are not three numbers from 1 to 65535: {' '.join(words)}")
    for word in words:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, int(word)))
            except OSError as error:
                text = f"unable to use port {word} of {ADDRESS}: {error.strerror}"
                fatal(111, f'{text}. Choose others: PORTS="2626 2688 2566"')
    return [int(word) for word in words]


def reserve_ports() -> list[socket.socket]:
    """Return a socket for each service, bound to a free port: no other program gets it, but our servers may listen."""
    reserved = [socket.socket() for _ in SERVICES]
    for port in reserved:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind((ADDRESS, 0))
    return reserved


def prepare(home: Path) -> None:
    """Create control files, a certificate, users and rules, unless they exist (users may have edited them)."""
    if (home / "control").is_dir():
        print(f"submission: using the control files, the users and the mail in {home}")
        return
    new = home / "control.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(EXAMPLES / "control", new)
    make_certificate(new)
    for user, scheme in USERS.items():
        command = [PROGRAMS / "checkusers", "--set", user, "--scheme", scheme]
        run(
            command,
            PASSWORD + "\n",
            {"CHECKUSERS_FILE": str(new / "users"), "PATH": os.environ.get("PATH", os.defpath)},
        )
    run([PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"], RULES)
    new.rename(home / "control")


def make_certificate(control: Path) -> None:
    """Create control/servercert.pem: the key and a self-signed certificate. A real site needs one from a CA."""
    if not shutil.which("openssl"):
        fatal(100, "openssl is needed to make a certificate: it is not in PATH")
    file = control / "servercert.pem"
    names = f"subjectAltName=IP:{ADDRESS},DNS:localhost"
    subject = ["-subj", "/CN=localhost", "-addext", names, "-days", "3650"]
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            *subject,
            "-keyout",
            file,
            "-out",
            control / "cert",
        ]
    )
    with file.open("ab") as pem:
        pem.write((control / "cert").read_bytes())
    (control / "cert").unlink()


def run(command: list[str | Path], text: str = "", environ: dict[str, str] | None = None) -> None:
    """Run a program. If it fails, print its error output and end with 111."""
    result = subprocess.run(command, input=text, env=environ, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.stderr.write(result.stderr)
        fatal(111, f"{command[0]} failed: see its message above")


def start(home: Path, ports: list[int], log: IO[bytes] | None, extra: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """Start the run script of each service, all in one process group. Its leader is the first one."""
    environ = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED} | extra
    environ |= {
        "PATH": f"{PROGRAMS}:{environ.get('PATH', os.defpath)}",
        "QMAILHOME": str(home),
        "QMAILQUEUE": str(PROGRAMS / "maildir-queue"),
        "QUEUE_MAILDIR": str(home / "Maildir"),
        "RULES": str(home / "tcp.smtp.cdb"),
        "SMTPAUTH": "+cram",  # on port 25, for the user whose password is stored as PLAIN
        "ADDRESS": ADDRESS,
        "ACCOUNT": pwd.getpwuid(os.getuid()).pw_name,
    }
    servers: list[subprocess.Popen[bytes]] = []
    for service, port in zip(SERVICES, ports, strict=True):
        server = subprocess.Popen(
            [EXAMPLES / "services" / service / "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            env=environ | {"PORT": str(port)},
            process_group=servers[0].pid if servers else 0,
            preexec_fn=unblock_signals,
        )
        servers.append(server)
    return servers


def wait_until_listening(servers: list[subprocess.Popen[bytes]], ports: list[int]) -> bool:
    """Wait until all servers listen. Return False if one exits (its own message says why) or START_TIMEOUT is over."""
    deadline = time.monotonic() + START_TIMEOUT
    for server, port in zip(servers, ports, strict=True):
        while server.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((ADDRESS, port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            return False
    return True


def serve(home: Path, ports: list[int], stop_signals: set[signal.Signals]) -> int:
    """Serve until a stop signal arrives or a server exits by itself. Return the exit code."""
    home.mkdir(exist_ok=True)
    prepare(home)
    servers = start(home, ports, None, {})
    try:
        if wait_until_listening(servers, ports):
            print_banner(home, ports)
        return wait_for_any(servers, stop_signals)
    finally:
        stop_group(servers)


def check(home: Path, stop_signals: set[signal.Signals]) -> int:
    """Run submission_check.py against temporary servers. Return the exit code; if not 0, print their log."""
    prepare(home)
    reserved = reserve_ports()
    ports: list[int] = [port.getsockname()[1] for port in reserved]
    with tempfile.TemporaryFile() as log:
        servers = start(home, ports, log, {"AUTHSLEEP": "0"})  # no delay after the wrong passwords of the check
        processes = [*servers]
        status = 1
        try:
            if wait_until_listening(servers, ports):
                command = [sys.executable, EXAMPLES / "submission_check.py", *map(str, ports), home, PASSWORD]
                processes.append(subprocess.Popen(command, process_group=servers[0].pid, preexec_fn=unblock_signals))
                status = wait_for_any(processes[-1:], stop_signals)
        finally:
            stop_group(processes)
            for port in reserved:
                port.close()
        if status:
            log.seek(0)
            sys.stderr.write(log.read().decode("ascii", "replace"))
        return status


def wait_for_any(processes: list[subprocess.Popen[bytes]], stop_signals: set[signal.Signals]) -> int:
    """Return the exit code of the first process that exits, or 128 + the number of a stop signal that arrives first."""
    while True:
        for process in processes:
            if process.poll() is not None:
                return process.returncode
        number = signal.sigwait({*stop_signals, signal.SIGCHLD})
        if number in stop_signals:
            return 128 + number


def print_banner(home: Path, ports: list[int]) -> None:
    """Print where the files are and which commands to try."""
    values = {"home": shlex.quote(str(home)), "checkusers": shlex.quote(str(PROGRAMS / "checkusers"))}
    values |= {"users": " ".join(USERS), "password": PASSWORD, "mail": MAIL}
    text = BANNER.format(address=ADDRESS, **values, **dict(zip(SERVICES, ports, strict=True)))
    sys.stdout.write(text)  # one write, so that log lines of the servers do not come between
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
