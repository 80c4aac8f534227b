"""Run the three servers of examples/submission; with --check servers of its own, and a round of logins and mail.

Whatever ends this process (Ctrl-C, SIGTERM, a terminal that is closed), its servers and all sessions end with it.
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

from quickstart import ADDRESS, EXAMPLES, FOREIGN, PROGRAMS, SIGNALS, end, unblock

HOME = EXAMPLES.parent / ".submission"
SERVICES = ("smtp", "submission", "submissions")  # ports 25, 587 and 465, in this order everywhere
PORTS = "2525 2587 2465"
PASSWORD = "tanstaaf"  # noqa: S105  # of the users of a server that only this host can reach
USERS = {"joe@example.com": "SCRAM-SHA-256", "old@example.com": "PLAIN"}  # the second one's client knows only CRAM-MD5
PATIENCE = 20  # seconds until a server listens
RULES = ":allow\n"  # nobody relays for his address

TEXT = """\
submission: {address} ports {smtp} (as 25), {submission} (as 587), {submissions} (as 465, TLS); Ctrl-C ends them
submission: users {users}, password {password}; control files, certificate and mail in {home}
submission: four commands to try in another terminal:
  swaks --server {address}:{submission} --tls --auth PLAIN --auth-user joe@example.com --auth-password {password} {mail}
  swaks --server {address}:{submission} --tls {mail}  # refused: no login
  swaks --server {address}:{smtp} --tls {mail}  # refused: no login, and not for example.com
  CHECKUSERS_FILE={home}/control/users {checkusers} --set you@example.com
"""
MAIL = "--from joe@example.com --to someone@elsewhere.example"


def main() -> int:
    """The exit code: 0 or 1 for --check, a server's where one ends by itself, 128 + the signal's number else."""
    ends = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})  # fetched by wait_for, see quickstart.py
    try:
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, wanted_ports(), ends)
        with tempfile.TemporaryDirectory(prefix="submission-") as home:
            return check(Path(home), ends)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"submission: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def wanted_ports() -> list[int]:
    """$PORTS, if they can be had."""
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
                fatal(
                    111,
                    f'port {word} of {ADDRESS} cannot be had: {error.strerror}. Choose others: PORTS="2626 2688 2566"',
                )
    return [int(word) for word in words]


def free_ports() -> list[int]:
    """Three that nobody has now."""
    probes = [socket.socket() for _ in SERVICES]
    for probe in probes:
        probe.bind((ADDRESS, 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def prepare(home: Path) -> None:
    """Give the servers their home: control files, a certificate, the users, rules. They are the user's from then on."""
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
    """control/servercert.pem, with its key in it, signed by itself: a real site has one from an authority."""
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
    """Run a program to its end. What it says is of interest only if that is a bad one."""
    done = subprocess.run(command, input=text, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        fatal(111, f"{command[0]} has failed, see above")


def start(home: Path, ports: list[int], log: IO[bytes] | None, more: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """The services by their run scripts, in a process group that the first one leads."""
    environ = {key: value for key, value in os.environ.items() if key not in FOREIGN} | more
    environ |= {
        "PATH": f"{PROGRAMS}:{environ.get('PATH', os.defpath)}",
        "QMAILHOME": str(home),
        "QMAILQUEUE": str(PROGRAMS / "maildir-queue"),
        "QUEUE_MAILDIR": str(home / "Maildir"),
        "RULES": str(home / "tcp.smtp.cdb"),
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
            preexec_fn=unblock,
        )
        servers.append(server)
    return servers


def all_listen(servers: list[subprocess.Popen[bytes]], ports: list[int]) -> bool:
    """Wait until they do. False if one has ended instead, with its own words on why."""
    deadline = time.monotonic() + PATIENCE
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


def serve(home: Path, ports: list[int], ends: set[signal.Signals]) -> int:
    """Serve until a signal comes or a server ends by itself."""
    home.mkdir(exist_ok=True)
    prepare(home)
    servers = start(home, ports, None, {})
    try:
        if all_listen(servers, ports):
            show(home, ports)
        return wait_for_any(servers, ends)
    finally:
        end(servers[0].pid)


def check(home: Path, ends: set[signal.Signals]) -> int:
    """Serve for one round. The servers' log is shown if anything in it went wrong."""
    prepare(home)
    ports = free_ports()
    with tempfile.TemporaryFile() as log:
        servers = start(home, ports, log, {"AUTHSLEEP": "0"})  # the round has wrong passwords, and nobody guesses
        try:
            status = 1
            if all_listen(servers, ports):
                command = [sys.executable, EXAMPLES / "submission_check.py", *map(str, ports), home, PASSWORD]
                status = wait_for_any(
                    [subprocess.Popen(command, process_group=servers[0].pid, preexec_fn=unblock)], ends
                )
        finally:
            end(servers[0].pid)
        if status:
            log.seek(0)
            sys.stderr.write(log.read().decode("ascii", "replace"))
        return status


def wait_for_any(processes: list[subprocess.Popen[bytes]], ends: set[signal.Signals]) -> int:
    """The exit code of the first that ends, or 128 + the number of the signal that was sent to this one."""
    while True:
        for process in processes:
            if process.poll() is not None:
                return process.returncode
        number = signal.sigwait({*ends, signal.SIGCHLD})
        if number in ends:
            return 128 + number


def show(home: Path, ports: list[int]) -> None:
    """Say where things lie, and what can be tried."""
    values = {"home": shlex.quote(str(home)), "checkusers": shlex.quote(str(PROGRAMS / "checkusers"))}
    named = dict(zip(SERVICES, ports, strict=True))
    text = TEXT.format(address=ADDRESS, users=" ".join(USERS), password=PASSWORD, mail=MAIL, **values, **named)
    sys.stdout.write(text)  # in one piece: the servers write to the same place
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
