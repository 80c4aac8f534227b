"""TLS compared with Postfix's smtpd, with one certificate, in one run: `python tests/bench/bench_tls.py [ROUNDS
[SESSIONS]]`.

Handshakes: EHLO, STARTTLS, QUIT. Resumed: the same, but each client resumes its previous TLS session. Submissions:
EHLO, STARTTLS, AUTH PLAIN, one message of 4 kB, which is stored durably before it is accepted. Our qmail-smtpd,
loaded with its queue program (the default) and with --exec, checks the password in $SMTPAUTHFILE; Postfix, as root,
uses Dovecot. A certificate of P-256, TLS 1.3, four clients at once on loopback, in turns, medians; CPU of all
processes.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from figures import Figure, Row, arguments, pair, show
from load import Server, settled
from postfix import Postfix, postfix_peer
from tlsload import LOGIN, certify, visit

PROGRAMS = Path(sys.executable).parent
QUICK = ["-1", "-q", "-c", "100", "-b", "100", "-RHl0"]
WHERE = ["127.0.0.1", "0", str(PROGRAMS / "qmail-smtpd")]
AT_ONCE = 4
POSTFIX = "Postfix"
USER = "joe:{PLAIN}secret"
LINE = b"The quick brown fox jumps over the lazy dog, and again and again: 0123456789.\r\n"
TEXT = b"Subject: small\r\n\r\n" + LINE * (4096 // len(LINE)) + b".\r\n"
MESSAGE = [LOGIN, b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.net>\r\n", b"DATA\r\n", TEXT]
KINDS: dict[str, tuple[list[bytes], bool]] = {
    "handshakes": ([], False),
    "resumed": ([], True),
    "submissions": (MESSAGE, False),
}

AIMS = {("loaded", "handshakes"): ">= 0.8 x", ("loaded", "submissions"): ">= 0.8 x"}  # for the rate

Started = tuple[int, list[int], Callable[[], int], Callable[[], None]]  # port, processes, take the mail, stop


def start_tcpserver(folder: Path, options: list[str]) -> Started:
    """Start tcpserver with these options."""
    server = Server([str(PROGRAMS / "tcpserver"), *QUICK, *options, *WHERE])

    def take() -> int:
        files = list((folder / "Maildir/new").glob("*"))
        for file in files:
            file.unlink()
        return len(files)

    return server.port, [server.process.pid], take, server.stop


def start_postfix(tls: tuple[Path, Path, str]) -> Started:
    """Start Postfix and Dovecot."""
    postfix = Postfix(tls)
    return postfix.port, postfix.processes(), Postfix.take, postfix.stop


def run(start: Callable[[], Started], sessions: int) -> dict[str, Figure | None]:
    """Run one round. Return the figures of each kind; None if the server does not resume sessions."""
    port, processes, take, stop = start()
    figures: dict[str, Figure | None] = {}
    for kind, (script, resume) in KINDS.items():
        visit(port, AT_ONCE * 3, AT_ONCE, script, resume)
        take()
        before = settled(*processes)
        seconds, resumed = visit(port, sessions, AT_ONCE, script, resume)
        spent = settled(*processes) - before
        assert take() == (sessions if script else 0), "messages are missing"
        resumes = not resume or resumed >= sessions - AT_ONCE
        figures[kind] = Figure(sessions / seconds, spent / sessions * 1000) if resumes else None
    stop()
    return figures


def medians(runs: list[dict[str, Figure | None]]) -> dict[str, Figure | None]:
    """Return the medians of the rounds for each kind; None if the server did not resume sessions in all of them."""
    results: dict[str, Figure | None] = {}
    for kind in KINDS:
        found = [figures[kind] for figures in runs]
        whole = [figure for figure in found if figure]
        complete = len(whole) == len(found)
        results[kind] = Figure(*map(median, zip(*whole, strict=True))) if complete else None
    return results


def rows(rounds: int, sessions: int) -> list[Row]:
    sessions = max(sessions // AT_ONCE, 1) * AT_ONCE
    peer = postfix_peer(with_tls=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "control").mkdir()
        for file, text in {"me": "mx.example.com\n", "rcpthosts": "example.com\n", "users": USER + ":::::\n"}.items():
            (folder / "control" / file).write_text(text)
        (folder / "control/users").chmod(0o600)
        tls = (*certify(folder), USER + "\n")
        os.environ.update(QMAILHOME=name, QMAILQUEUE=str(PROGRAMS / "maildir-queue"), SMTPD_LOG="none")
        os.environ.update(QUEUE_MAILDIR=f"{name}/Maildir", SMTPAUTHFILE="control/users")
        ways: dict[str, Callable[[], Started]] = {
            "loaded": lambda: start_tcpserver(folder, []),
            "--exec": lambda: start_tcpserver(folder, ["--exec"]),
        }
        if not peer.missing:
            ways[POSTFIX] = lambda: start_postfix(tls)
        runs: dict[str, list[dict[str, Figure | None]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, start in ways.items():
                runs[name].append(run(start, sessions))
    results = {name: medians(of_way) for name, of_way in runs.items()}
    their = results.pop(POSTFIX, {})
    return [
        row
        for name, figures in results.items()
        for kind, figure in figures.items()
        for row in pair(f"tls: {kind}, {name}", figure, their.get(kind), peer, AIMS.get((name, kind), "-"))
    ]


def main() -> None:
    rounds, sessions = arguments(5, 400)
    show(rows(rounds, sessions), f"medians of {rounds} rounds, {sessions} sessions each, {AT_ONCE} clients at once")


if __name__ == "__main__":
    main()
