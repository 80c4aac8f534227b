"""Logins per second, in sessions of EHLO, AUTH PLAIN, QUIT: `python tests/bench/bench_login.py [ROUNDS [SESSIONS]]`.

tcpserver --preload qmail-smtpd with an exec'd checker, a preloaded one, and $SMTPAUTHFILE in process, for each scheme;
for comparison the same session without AUTH. 20 clients at once on loopback, medians of the rounds, CPU of the whole
server. For schemes with an expensive hash only a tenth of the sessions is run.
"""

import os
import smtplib
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path

from load import Server, measure, settle
from scramp import ScramClient

from qmail_smtpd.auth.secret import make

PROGRAMS = Path(sys.executable).parent
USER, PASSWORD = b"joe@example.com", b"correct horse battery staple"
LOGIN = b"AUTH PLAIN " + b64encode(b"\0%b\0%b" % (USER, PASSWORD)) + b"\r\n"
ACCEPTED = 235
EHLO, QUIT = b"EHLO client.example\r\n", b"QUIT\r\n"
QUICK = ["-1", "-q", "-c", "100", "-H", "-R", "-l", "0"]
WHERE = ["127.0.0.1", "0"]
PRELOAD = ["--preload", "qmail-smtpd"]
LIGHT = [("PLAIN", None)]
HEAVY = [("SCRAM-SHA-256", 4096), ("SCRAM-SHA-256", 600_000), ("BLF-CRYPT", 5), ("BLF-CRYPT", 12), ("ARGON2ID", 3)]


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def make_home(home: Path) -> dict[tuple[str, int | None], Path]:
    """Create a qmail home, a poppasswd file, and a users file for each scheme."""
    (home / "control").mkdir()
    (home / "control/me").write_text("mx.example.com\n")
    (home / "control/rcpthosts").write_text("example.com\n")
    (home / "control/authcleartext").touch()
    files = {}
    for scheme, rounds in LIGHT + HEAVY:
        files[scheme, rounds] = home / f"{scheme}-{rounds}"
        files[scheme, rounds].write_bytes(b"%b:%b\n" % (USER, make(scheme.encode(), PASSWORD, rounds)))
    (home / "poppasswd").write_bytes(USER + b":" + PASSWORD + b"\n")
    for path in (home / "poppasswd", *files.values()):
        path.chmod(0o600)
    return files


def with_checker(checker: str, file: str) -> dict[str, list[str]]:
    """Return the servers with a checker, exec'd and preloaded.

    `file` is the variable assignment for the checker's file.
    """
    tcpserver, smtpd, program = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd", checker))
    last = [*WHERE, smtpd, program, "/usr/bin/true"]
    return {
        "exec'd": ["/usr/bin/env", file, tcpserver, *QUICK, *PRELOAD, *last],
        "preloaded": ["/usr/bin/env", file, tcpserver, *QUICK, *PRELOAD, "--preload", checker, *last],
    }


def in_process(file: Path) -> list[str]:
    tcpserver, smtpd = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd"))
    return ["/usr/bin/env", f"SMTPAUTHFILE={file}", tcpserver, *QUICK, *PRELOAD, *WHERE, smtpd]


def show(servers: dict[str, list[str]], rounds: int, sessions: int, script: list[bytes]) -> None:
    for name, figure in measure(servers, rounds, sessions, script=script).items():
        print(f"{name:40}{figure.cost:9.2f} ms CPU{figure.rate:9.1f} sessions/s")


def show_scram(argv: list[str], sessions: int) -> None:
    """Measure SCRAM itself, one client after another. The server neither gets the password nor computes the hash."""
    server = Server(argv)
    before, started = server.cpu(), time.perf_counter()
    for _ in range(sessions):
        client = ScramClient(["SCRAM-SHA-256"], USER.decode(), PASSWORD.decode())
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as smtp:
            challenge = smtp.docmd("AUTH SCRAM-SHA-256", b64(client.get_client_first()))[1]
            client.set_server_first(b64decode(challenge).decode())
            smtp.docmd(b64(client.get_client_final()))
            assert smtp.docmd("")[0] == ACCEPTED
    seconds = time.perf_counter() - started
    settle(server)
    cost = (server.cpu() - before) / sessions * 1000
    server.stop()
    print(
        f"{'in process, SCRAM-SHA-256 by SCRAM':40}{cost:9.2f} ms CPU{sessions / seconds:9.1f} sessions/s, one by one"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sessions = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = make_home(home)
        os.environ.update(QMAILHOME=folder, SMTPAUTH="", SMTPD_LOG="none")
        print(f"medians of {rounds} rounds, {sessions} sessions each (a tenth of it for hashes), 20 at once")
        show({"no login": in_process(home / "none")}, rounds, sessions, [EHLO, QUIT])
        servers_by_mode = with_checker("cmd5checkpw", f"POPPASSWD={home}/poppasswd")
        servers = {f"cmd5checkpw, {mode}": argv for mode, argv in servers_by_mode.items()}
        show(servers, rounds, sessions, [EHLO, LOGIN, QUIT])
        for (scheme, work), file in files.items():
            name = f"{scheme} {work}" if work else scheme
            servers = {
                f"checkusers, {name}, {mode}": argv
                for mode, argv in with_checker("checkusers", f"CHECKUSERS_FILE={file}").items()
            }
            servers[f"in process, {name}"] = in_process(file)
            show(servers, rounds, sessions if work is None else sessions // 10, [EHLO, LOGIN, QUIT])
        show_scram(in_process(files["SCRAM-SHA-256", 4096]), sessions)


if __name__ == "__main__":
    main()
