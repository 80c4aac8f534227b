"""Logins per second, in sessions of EHLO, AUTH PLAIN, QUIT: `python tests/bench/bench_login.py [ROUNDS [SESSIONS]]`.

qmail-smtpd with a checker, both loaded (the default) and both with --exec, and with $SMTPAUTHFILE in process, for each
scheme; with $SMTPAUTHSOCKET, if this is root and Dovecot is installed (CPU without Dovecot's); for comparison the same
session without AUTH. 20 clients at once on loopback, medians of the rounds, CPU of the whole server. For schemes with
an expensive hash only a tenth of the sessions is run.
"""

import os
import smtplib
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from figures import Figure, Row, alone, arguments, show
from load import Server, measure, settled
from scramp import ScramClient

from qmail_smtpd.auth.secret import make
from tests.kit.peers.dovecotserver import DOVECOT, Dovecot
from tests.kit.server import until

PROGRAMS = Path(sys.executable).parent
USER, PASSWORD = b"joe@example.com", b"correct horse battery staple"
LOGIN = b"AUTH PLAIN " + b64encode(b"\0%b\0%b" % (USER, PASSWORD)) + b"\r\n"
ACCEPTED = 235
EHLO, QUIT = b"EHLO client.example\r\n", b"QUIT\r\n"
QUICK = ["-1", "-q", "-c", "100", "-RHl0"]
WHERE = ["127.0.0.1", "0"]
LIGHT = [("PLAIN", None)]
HEAVY = [("SCRAM-SHA-256", 4096), ("SCRAM-SHA-256", 65_536), ("BLF-CRYPT", 5), ("BLF-CRYPT", 12), ("ARGON2ID", 3)]


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
    """Return the servers with a checker, exec'd and loaded.

    `file` is the variable assignment for the checker's file.
    """
    tcpserver, smtpd, program = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd", checker))
    last = [*WHERE, smtpd, program, "/usr/bin/true"]
    return {
        "loaded": ["/usr/bin/env", file, tcpserver, *QUICK, *last],
        "--exec": ["/usr/bin/env", file, tcpserver, *QUICK, "--exec", *last],
    }


def in_process(file: Path) -> list[str]:
    tcpserver, smtpd = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd"))
    return ["/usr/bin/env", f"SMTPAUTHFILE={file}", tcpserver, *QUICK, *WHERE, smtpd]


def by_dovecot(rounds: int, sessions: int) -> list[Row]:
    """Measure the logins that Dovecot decides, with the passwords in plain text."""
    if os.geteuid() or not os.path.exists(DOVECOT):
        return []
    tcpserver, smtpd = (str(PROGRAMS / name) for name in ("tcpserver", "qmail-smtpd"))
    listener = "service auth {\n  client_limit = 1000\n  unix_listener TOP/smtpd-auth {\n    mode = 0666\n  }\n}\n"
    dovecot = Dovecot(listener)
    (dovecot.top / "users").write_bytes(USER + b":{PLAIN}" + PASSWORD + b"\n")
    with dovecot:
        socket = dovecot.top / "smtpd-auth"
        until(socket.exists)
        argv = ["/usr/bin/env", f"SMTPAUTHSOCKET={socket}", tcpserver, *QUICK, *WHERE, smtpd]
        return figures({"Dovecot's socket": argv}, rounds, sessions, [EHLO, LOGIN, QUIT])


def figures(servers: dict[str, list[str]], rounds: int, sessions: int, script: list[bytes]) -> list[Row]:
    measured = measure(servers, rounds, sessions, script=script)
    return [row for name, figure in measured.items() for row in alone(f"login: {name}", figure)]


def scram(argv: list[str], sessions: int) -> list[Row]:
    """Measure SCRAM itself, one client after another. The server neither gets the password nor computes the hash."""
    server = Server(argv)
    before, started = settled(server.pid), time.perf_counter()
    for _ in range(sessions):
        client = ScramClient(["SCRAM-SHA-256"], USER.decode(), PASSWORD.decode())
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as smtp:
            challenge = smtp.docmd("AUTH SCRAM-SHA-256", b64(client.get_client_first()))[1]
            client.set_server_first(b64decode(challenge).decode())
            smtp.docmd(b64(client.get_client_final()))
            assert smtp.docmd("")[0] == ACCEPTED
    seconds = time.perf_counter() - started
    cost = (settled(server.pid) - before) / sessions * 1000
    server.stop()
    return alone("login: in process, SCRAM-SHA-256 by SCRAM, one by one", Figure(sessions / seconds, cost))


def rows(rounds: int, sessions: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = make_home(home)
        os.environ.update(QMAILHOME=folder, SMTPAUTH="", SMTPD_LOG="none")
        found = figures({"no login": in_process(home / "none")}, rounds, sessions, [EHLO, QUIT])
        checkers = with_checker("cmd5checkpw", f"POPPASSWD={home}/poppasswd")
        servers = {f"cmd5checkpw, {way}": argv for way, argv in checkers.items()}
        found += figures(servers, rounds, sessions, [EHLO, LOGIN, QUIT])
        found += by_dovecot(rounds, sessions)
        for (scheme, work), file in files.items():
            name = f"{scheme} {work}" if work else scheme
            checkers = with_checker("checkusers", f"CHECKUSERS_FILE={file}")
            servers = {f"checkusers, {name}, {way}": argv for way, argv in checkers.items()}
            servers[f"in process, {name}"] = in_process(file)
            count = sessions if work is None else max(sessions // 10, 1)
            found += figures(servers, rounds, count, [EHLO, LOGIN, QUIT])
        found += scram(in_process(files["SCRAM-SHA-256", 4096]), sessions)
    return found


def main() -> None:
    rounds, sessions = arguments(5, 500)
    note = f"medians of {rounds} rounds, {sessions} sessions each (a tenth of it for hashes), 20 at once"
    show(rows(rounds, sessions), note)


if __name__ == "__main__":
    main()
