"""Run the two servers of examples/roaming; with --check servers of its own, and a round of logins and mail.

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
from pathlib import Path
from typing import IO, NoReturn

from quickstart import ADDRESS, EXAMPLES, FOREIGN, PROGRAMS, SIGNALS, end, unblock
from submission import all_listen, wait_for_any

HOME = EXAMPLES.parent / ".roaming"
SERVICES = ("smtp-after-pop", "pop3")
PORTS = "2525 2110"
USER, PASSWORD = "joe@example.com", "tanstaaf"  # of a server that only this host can reach
WINDOW = 2400  # seconds after a login
SHORT = 6  # seconds in the round, which waits for the end
NOT_ROOT = ["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"]  # qmail-pop3d refuses to be root
NOT_OURS = (*FOREIGN, "RELAY_STORE", "RELAY_DIR", "RELAY_SECONDS", "RELAY_PROXIES", "CHECKUSERS_FILE", "POP3S", "USER")

RULES = """\
127.0.0.1:allow,RELAYCLIENT=""
127.0.0.5:allow,DATABYTES="2000"
127.0.0.7:deny
:allow
"""
TEXT = """\
roaming: {address} ports {smtp} (SMTP) and {pop3} (POP3), user {user}, password {password}; Ctrl-C ends them
roaming: who logs in may send to everywhere for {minutes} minutes; control files, logins and mail are in {home}
roaming: four commands to try in another terminal:
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # refused
  {python} {fetch} {pop3} 127.0.0.5 {user} {password}
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # taken now
  QMAILHOME={home} {list}
"""


def main() -> int:
    """The exit code: 0 or 1 for --check, a server's where one ends by itself, 128 + the signal's number else."""
    ends = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})  # fetched by wait_for_any, see quickstart.py
    try:
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, wanted_ports(), ends)
        with tempfile.TemporaryDirectory(prefix="roaming-") as home:
            return check(Path(home), ends)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"roaming: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def wanted_ports() -> list[int]:
    """$PORTS, if they can be had."""
    words = (os.environ.get("PORTS") or PORTS).split()
    if len(words) != len(SERVICES) or not all(
        word.isascii() and word.isdigit() and 0 < int(word) < 65536 for word in words
    ):
        fatal(100, f"PORTS are not two numbers from 1 to 65535: {' '.join(words)}")
    for word in words:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, int(word)))
            except OSError as error:
                text = f"port {word} of {ADDRESS} cannot be had: {error.strerror}"
                fatal(111, f'{text}. Choose others: PORTS="2626 2211"')
    return [int(word) for word in words]


def free_ports() -> list[int]:
    """As many as there are services, that nobody has now."""
    probes = [socket.socket() for _ in SERVICES]
    for probe in probes:
        probe.bind((ADDRESS, 0))
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def prepare(home: Path, window: int) -> None:
    """Make what the servers need, once: control files, a user with mail, a store, rules."""
    if (home / "control").is_dir():
        print(f"roaming: using the control files, the logins and the mail in {home}")
        return
    new = home / "control.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(EXAMPLES / "control", new)
    (home / "relay").mkdir(exist_ok=True)
    (home / "relay").chmod(0o2775)
    (new / "relaydir").write_text(f"{home}/relay\n")
    (new / "relayseconds").write_text(f"{window}\n")
    (new / "relayproxies").write_text("127.0.0.1 ::1\n")  # not all of 127.0.0.0/8: the clients are there
    add_user(home, new / "users")
    run([PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"], RULES)
    new.rename(home / "control")


def add_user(home: Path, users: Path) -> None:
    """Joe, his password, and his Maildir, in which a message waits."""
    run([PROGRAMS / "checkusers", "--set", USER], PASSWORD + "\n", {"CHECKUSERS_FILE": str(users)})
    users.write_text(f"{users.read_text().rstrip()}::::{home}/joe\n")
    for part in ("new", "cur", "tmp"):
        (home / "joe" / "Maildir" / part).mkdir(parents=True, exist_ok=True)
    welcome = home / "joe/Maildir/new/1.welcome"
    welcome.write_text(f"To: {USER}\nSubject: welcome\n\nHello.\n")
    os.utime(welcome, (0, 0))  # qmail-pop3d does not show what has come this very second


def run(command: list[str | Path], text: str, environ: dict[str, str] | None = None) -> None:
    """Run a program to its end. What it says is of interest only if that is a bad one."""
    whole = {"PATH": os.environ.get("PATH", os.defpath)} | (environ or {})
    done = subprocess.run(command, input=text, env=whole, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        fatal(111, f"{command[0]} has failed, see above")


def start(home: Path, ports: list[int], log: IO[bytes] | None) -> list[subprocess.Popen[bytes]]:
    """The services by their run scripts, in a process group that the first one leads."""
    environ = {key: value for key, value in os.environ.items() if key not in NOT_OURS}
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
        other = service == "pop3" and os.geteuid() == 0
        server = subprocess.Popen(
            [*(NOT_ROOT if other else []), EXAMPLES / service / "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ | {"PORT": str(port)} | ({"ACCOUNT": "nobody"} if other else {}),
            process_group=servers[0].pid if servers else 0,
            preexec_fn=unblock,
        )
        servers.append(server)
    return servers


def serve(home: Path, ports: list[int], ends: set[signal.Signals]) -> int:
    """Serve until a signal comes or a server ends by itself."""
    home.mkdir(exist_ok=True)
    prepare(home, WINDOW)
    servers = start(home, ports, None)
    try:
        if all_listen(servers, ports):
            show(home, ports)
        return wait_for_any(servers, ends)
    finally:
        end(servers[0].pid)


def check(home: Path, ends: set[signal.Signals]) -> int:
    """Serve for one round. The servers' log is shown if anything in it went wrong."""
    prepare(home, SHORT)
    ports = free_ports()
    with tempfile.TemporaryFile() as log:
        servers = start(home, ports, log)
        try:
            status = 1
            if all_listen(servers, ports):
                words = [*map(str, ports), str(home), USER, PASSWORD, str(SHORT)]
                command = [sys.executable, str(EXAMPLES / "roaming_check.py"), *words]
                status = wait_for_any(
                    [subprocess.Popen(command, process_group=servers[0].pid, preexec_fn=unblock)], ends
                )
        finally:
            end(servers[0].pid)
        if status:
            log.seek(0)
            sys.stderr.write(log.read().decode("ascii", "replace"))
        return status


def show(home: Path, ports: list[int]) -> None:
    """Say where things lie, and what can be tried."""
    paths = {
        "python": PROGRAMS / "python3",
        "send": EXAMPLES / "send.py",
        "fetch": EXAMPLES / "fetch.py",
        "list": PROGRAMS / "relay-list",
        "home": home,
    }
    values = {name: shlex.quote(str(path)) for name, path in paths.items()}
    smtp, pop3 = ports
    who = {"user": USER, "password": PASSWORD, "minutes": WINDOW // 60}
    sys.stdout.write(TEXT.format(address=ADDRESS, smtp=smtp, pop3=pop3, **who, **values))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
