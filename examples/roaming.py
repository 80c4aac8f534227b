"""Run the two servers of examples/roaming. With --check, test logins and mail on temporary servers and exit.

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
from pathlib import Path
from typing import IO, NoReturn

from quickstart import ADDRESS, EXAMPLES, NOT_INHERITED, PROGRAMS, SIGNALS, stop_group, unblock_signals
from submission import wait_for_any, wait_until_listening

HOME = EXAMPLES.parent / ".roaming"
SERVICES = ("smtp-after-pop", "pop3")
PORTS = "2525 2110"
USER, PASSWORD = "joe@example.com", "tanstaaf"  # only this host can reach the servers
WINDOW = 2400  # seconds that relaying is allowed after a login
CHECK_WINDOW = 6  # for --check, which waits until relaying is refused again

# qmail-pop3d does not run as root. Without capabilities, the account nobody cannot reach a checkout in root's home.
# qmail-pop3d therefore keeps those of a user namespace. If the host refuses a namespace, as in many containers, it
# keeps the four that it needs. Without no_setuid_fixup, access(2) would ignore them.
CAPABILITIES = "+dac_override,+fowner,+setgid,+setuid"
AS_NOBODY = (
    ["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"],
    ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--securebits=+no_setuid_fixup"]
    + [f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"],
)
RELAY_VARIABLES = ("RELAY_STORE", "RELAY_DIR", "RELAY_SECONDS", "RELAY_PROXIES", "CHECKUSERS_FILE", "POP3S", "USER")

RULES = """\
127.0.0.1:allow,RELAYCLIENT=""
127.0.0.5:allow,DATABYTES="2000"
127.0.0.7:deny
:allow
"""
BANNER = """\
roaming: {address} ports {smtp} (SMTP) and {pop3} (POP3), user {user}, password {password}; Ctrl-C stops them
roaming: after a POP3 login its address may relay for {minutes} minutes; control files, logins and mail are in {home}
roaming: four commands to try in another terminal:
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # refused
  {python} {fetch} {pop3} 127.0.0.5 {user} {password}
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # accepted now
  QMAILHOME={home} {list}
"""


def main() -> int:
    """Return the exit code: 0 or 1 for --check, a server's if one exits by itself, else 128 + the signal number."""
    stop_signals = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stop_signals, signal.SIGCHLD})  # see quickstart.py, main
    try:
        if sys.argv[1:] != ["--check"]:
            return serve(HOME, requested_ports(), stop_signals)
        with tempfile.TemporaryDirectory(prefix="roaming-") as home:
            return check(Path(home), stop_signals)
    except OSError as error:
        fatal(111, error)


def fatal(status: int, text: object) -> NoReturn:
    print(f"roaming: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def requested_ports() -> list[int]:
    """Return $PORTS. End with 100 if they are not two port numbers, with 111 if one is not available."""
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
                text = f"unable to use port {word} of {ADDRESS}: {error.strerror}"
                fatal(111, f'{text}. Choose others: PORTS="2626 2211"')
    return [int(word) for word in words]


def reserve_ports() -> list[socket.socket]:
    """Return a socket for each service, bound to a free port: no other program gets it, but our servers may listen."""
    reserved = [socket.socket() for _ in SERVICES]
    for port in reserved:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind((ADDRESS, 0))
    return reserved


def prepare(home: Path, window: int) -> None:
    """Create control files, a user with mail, a store and rules, unless they exist. `window` is for relayseconds."""
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
    (new / "relayproxies").write_text("127.0.0.1 ::1\n")  # not the default 127.0.0.0/8: the test clients are in it
    add_user(home, new / "users")
    run([PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"], RULES)
    new.rename(home / "control")


def add_user(home: Path, users: Path) -> None:
    """Add the test user with a password, and with one message in its Maildir."""
    run([PROGRAMS / "checkusers", "--set", USER], PASSWORD + "\n", {"CHECKUSERS_FILE": str(users)})
    users.write_text(f"{users.read_text().rstrip()}::::{home}/joe\n")
    for part in ("new", "cur", "tmp"):
        (home / "joe" / "Maildir" / part).mkdir(parents=True, exist_ok=True)
    welcome = home / "joe/Maildir/new/1.welcome"
    welcome.write_text(f"To: {USER}\nSubject: welcome\n\nHello.\n")
    os.utime(welcome, (0, 0))  # qmail-pop3d does not list messages of the current second


def run(command: list[str | Path], text: str, variables: dict[str, str] | None = None) -> None:
    """Run a program with PATH and these variables. If it fails, print its error output and end with 111."""
    environ = {"PATH": os.environ.get("PATH", os.defpath)} | (variables or {})
    result = subprocess.run(command, input=text, env=environ, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.stderr.write(result.stderr)
        fatal(111, f"{command[0]} failed: see its message above")


def start(home: Path, ports: list[int], log: IO[bytes] | None) -> list[subprocess.Popen[bytes]]:
    """Start the run script of each service, all in one process group. Its leader is the first one."""
    environ = {key: value for key, value in os.environ.items() if key not in (*NOT_INHERITED, *RELAY_VARIABLES)}
    environ |= {
        "PATH": f"{PROGRAMS}:{environ.get('PATH', os.defpath)}",
        "QMAILHOME": str(home),
        "QMAILQUEUE": str(PROGRAMS / "maildir-queue"),
        "QUEUE_MAILDIR": str(home / "Maildir"),
        "RULES": str(home / "tcp.smtp.cdb"),
        "ADDRESS": ADDRESS,
        "ACCOUNT": pwd.getpwuid(os.getuid()).pw_name,
    }
    before = as_nobody() if os.geteuid() == 0 else []
    servers: list[subprocess.Popen[bytes]] = []
    for service, port in zip(SERVICES, ports, strict=True):
        other_account = before and service == "pop3"
        server = subprocess.Popen(
            [*(before if other_account else []), EXAMPLES / service / "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ | {"PORT": str(port)} | ({"ACCOUNT": "nobody"} if other_account else {}),
            process_group=servers[0].pid if servers else 0,
            preexec_fn=unblock_signals,
        )
        servers.append(server)
    return servers


def as_nobody() -> list[str]:
    """Return the command that runs another one as nobody. End with 111 if this host allows none."""
    for command in AS_NOBODY:
        if shutil.which(command[0]) and not subprocess.run([*command, "true"], capture_output=True).returncode:
            return command
    fatal(111, "the POP3 server does not run as root, and this host refuses unshare and setpriv: use another account")


def serve(home: Path, ports: list[int], stop_signals: set[signal.Signals]) -> int:
    """Serve until a stop signal arrives or a server exits by itself. Return the exit code."""
    home.mkdir(exist_ok=True)
    prepare(home, WINDOW)
    servers = start(home, ports, None)
    try:
        if wait_until_listening(servers, ports):
            print_banner(home, ports)
        return wait_for_any(servers, stop_signals)
    finally:
        stop_group(servers)


def check(home: Path, stop_signals: set[signal.Signals]) -> int:
    """Run roaming_check.py against temporary servers. Return the exit code; if not 0, print their log."""
    prepare(home, CHECK_WINDOW)
    reserved = reserve_ports()
    ports: list[int] = [port.getsockname()[1] for port in reserved]
    with tempfile.TemporaryFile() as log:
        servers = start(home, ports, log)
        processes = [*servers]
        status = 1
        try:
            if wait_until_listening(servers, ports):
                arguments = [*map(str, ports), str(home), USER, PASSWORD, str(CHECK_WINDOW)]
                command = [sys.executable, str(EXAMPLES / "roaming_check.py"), *arguments]
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


def print_banner(home: Path, ports: list[int]) -> None:
    """Print where the files are and which commands to try."""
    paths = {
        "python": PROGRAMS / "python3",
        "send": EXAMPLES / "send.py",
        "fetch": EXAMPLES / "fetch.py",
        "list": PROGRAMS / "relay-list",
        "home": home,
    }
    values = {name: shlex.quote(str(path)) for name, path in paths.items()}
    smtp, pop3 = ports
    login = {"user": USER, "password": PASSWORD, "minutes": WINDOW // 60}
    sys.stdout.write(BANNER.format(address=ADDRESS, smtp=smtp, pop3=pop3, **login, **values))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
