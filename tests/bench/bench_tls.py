"""TLS compared with Postfix's smtpd, with one certificate, in one run: `python tests/bench/bench_tls.py [ROUNDS
[SESSIONS]]`.

Handshakes: EHLO, STARTTLS, QUIT. Resumed: the same, but each client resumes its previous TLS session. Submissions:
EHLO, STARTTLS, AUTH PLAIN, one message of 4 kB, which is stored durably before it is accepted. Our qmail-smtpd,
preloaded with its queue program and exec'd, checks the password in $SMTPAUTHFILE; Postfix, as root, uses Dovecot. A
certificate of P-256, TLS 1.3, four clients at once on loopback, in turns, medians; CPU of all processes.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from load import Server
from postfix import Postfix
from tlsload import LOGIN, certify, settled, visit

PROGRAMS = Path(sys.executable).parent
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-H", "-R", "-l", "0"]
PRELOAD = ["--preload", "qmail-smtpd", "--preload", "maildir-queue"]
WHERE = ["127.0.0.1", "0", str(PROGRAMS / "qmail-smtpd")]
AT_ONCE = 4
USER = "joe:{PLAIN}secret"
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
TEXT = b"Subject: small\r\n\r\n" + LINE * (4096 // len(LINE)) + b".\r\n"
MESSAGE = [LOGIN, b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.net>\r\n", b"DATA\r\n", TEXT]
KINDS: dict[str, tuple[list[bytes], bool]] = {
    "handshakes": ([], False),
    "resumed": ([], True),
    "submissions": (MESSAGE, False),
}

Started = tuple[int, list[int], Callable[[], int], Callable[[], None]]  # port, processes, take the mail, stop


def ours(folder: Path, options: list[str]) -> Started:
    """Start tcpserver with these options."""
    server = Server([str(PROGRAMS / "tcpserver"), *QUICK, *options, *WHERE])

    def take() -> int:
        files = list((folder / "Maildir/new").glob("*"))
        for file in files:
            file.unlink()
        return len(files)

    return server.port, [server.process.pid], take, server.stop


def theirs(tls: tuple[Path, Path, str]) -> Started:
    """Start Postfix and Dovecot."""
    postfix = Postfix(tls)
    return postfix.port, postfix.processes(), Postfix.take, postfix.stop


def run(start: Callable[[], Started], sessions: int) -> dict[str, tuple[float, float]]:
    """Run one round. Return sessions per second, and milliseconds of CPU per session, for each kind."""
    port, processes, take, stop = start()
    figures = {}
    for kind, (script, resume) in KINDS.items():
        visit(port, AT_ONCE * 3, AT_ONCE, script, resume)
        take()
        before = sum(map(settled, processes))
        seconds, resumed = visit(port, sessions, AT_ONCE, script, resume)
        spent = sum(map(settled, processes)) - before
        assert take() == (sessions if script else 0), "messages are missing"
        figures[kind] = sessions / seconds, spent / sessions * 1000
        if resume and resumed < sessions - AT_ONCE:
            figures[kind] = 0.0, 0.0  # it does not resume sessions
    stop()
    return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sessions = (int(sys.argv[2]) if len(sys.argv) > 2 else 400) // AT_ONCE * AT_ONCE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "control").mkdir()
        for file, text in {"me": "mx.example.com\n", "rcpthosts": "example.com\n", "users": USER + ":::::\n"}.items():
            (folder / "control" / file).write_text(text)
        (folder / "control/users").chmod(0o600)
        tls = (*certify(folder), USER + "\n")
        os.environ.update(QMAILHOME=name, QMAILQUEUE=str(PROGRAMS / "maildir-queue"), SMTPD_LOG="none")
        os.environ.update(QUEUE_MAILDIR=f"{name}/Maildir", SMTPAUTHFILE="control/users")
        available: dict[str, Callable[[], Started]] = {
            "preloaded": lambda: ours(folder, PRELOAD),
            "exec'd": lambda: ours(folder, []),
        }
        if os.geteuid() or not (shutil.which("postfix") and shutil.which("dovecot")):
            print("left out: Postfix and Dovecot (only root can start them)", file=sys.stderr)
        else:
            available["Postfix"] = lambda: theirs(tls)
        results: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in available}
        for _ in range(rounds):
            for name, start in available.items():
                results[name].append(run(start, sessions))
    print(f"medians of {rounds} rounds, {sessions} sessions each, {AT_ONCE} clients at once; sessions/s, ms of CPU")
    for name, runs in results.items():
        for kind in KINDS:
            rate, cost = (median(figures[kind][index] for figures in runs) for index in (0, 1))
            print(f"{name:12}{kind:14}" + (f"{rate:8.0f}/s{cost:10.2f} ms" if rate else "     none"))


if __name__ == "__main__":
    main()
