"""Whole SMTP sessions compared with C, in one run: `python tests/bench/bench_smtp.py [ROUNDS [SESSIONS]]`.

EHLO, MAIL, two RCPT, QUIT, each sent after the reply to the one before. 20 clients at once on loopback, medians of the
rounds, CPU of the whole process tree. Ours is the plain line, `tcpserver -RHl0 ... qmail-smtpd`, and the same line with
--reuse 1 (a process for each client), with --exec, with rules, and with rules and names (neither -H nor -l). The peers
run under Debian's tcpserver: the C qmail-smtpd that $QMAIL_SMTPD names, and smtpfront-echo (package mailfront). The
aims beside smtpfront-echo are the ratios that the C qmail-smtpd has reached.

The home that the C qmail-smtpd was compiled for needs control/me and control/rcpthosts, which lists example.com.
$QMAIL_SMTPD_VERSION is the version that the table shows for it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import Peer, Row, arguments, installed, pair, show
from load import measure

PROGRAMS = Path(sys.executable).parent
OURS = str(PROGRAMS / "tcpserver")
SMTPD = str(PROGRAMS / "qmail-smtpd")
THEIRS = "/usr/bin/tcpserver"
SMTPFRONT = "/usr/sbin/smtpfront-echo"
MAY_RELAY = ["/usr/bin/env", "PLUGINS=accept", "RELAYCLIENT="]  # without it smtpfront-echo refuses the session at MAIL
SCRIPT = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<sender@client.example>\r\n",
    b"RCPT TO:<one@example.com>\r\n",
    b"RCPT TO:<two@example.com>\r\n",
    b"QUIT\r\n",
]
NAMES = ["-1", "-q", "-c", "100"]
QUICK = [*NAMES, "-RHl0"]
WHERE = ["127.0.0.1", "0"]
SECONDS = 20  # for one session of the C program on a busy machine
C, C_RULES, ECHO = "C", "C, rules", "echo"  # the peers
# Way of ours -> its peer, and the aims for rate and CPU.
BESIDE_C = {
    "plain line": (C, ">= 2.0 x", "<= 0.5 x"),
    "plain line, --reuse 1": (C, ">= 0.6 x", "<= 1.8 x"),
    "plain line, --exec": (C, "-", "-"),
    "plain line, -x rules": (C_RULES, ">= 2.0 x", "<= 0.5 x"),
    "-x rules, names (theirs: -RHl0)": (C_RULES, "-", "-"),
}
BESIDE_ECHO = {"plain line": (ECHO, ">= 3.0 x", "<= 0.31 x")}


def our_lines(rules: str) -> dict[str, list[str]]:
    return {
        "plain line": [OURS, *QUICK, *WHERE, SMTPD],
        "plain line, --reuse 1": [OURS, *QUICK, "--reuse", "1", *WHERE, SMTPD],
        "plain line, --exec": [OURS, *QUICK, "--exec", *WHERE, SMTPD],
        "plain line, -x rules": [OURS, *QUICK, "-x", rules, *WHERE, SMTPD],
        "-x rules, names (theirs: -RHl0)": [OURS, *NAMES, "-x", rules, *WHERE, SMTPD],
    }


def their_lines(peers: dict[str, Peer], rules: str) -> dict[str, list[str]]:
    """Return the command lines of the peers that can be run here."""
    program = os.environ.get("QMAIL_SMTPD", "")
    lines = {
        C: [THEIRS, *QUICK, *WHERE, program],
        C_RULES: [THEIRS, *QUICK, "-x", rules, *WHERE, program],
        ECHO: [*MAY_RELAY, THEIRS, *QUICK, *WHERE, SMTPFRONT],
    }
    return {name: line for name, line in lines.items() if not peers[name].missing}


def c_peer(server: Peer) -> Peer:
    """Return the C qmail-smtpd as a peer, with the reason if it cannot be run, or does not accept the session."""
    name = f"C qmail-smtpd {os.environ.get('QMAIL_SMTPD_VERSION', '')}".strip()
    path = os.environ.get("QMAIL_SMTPD")
    if not path:
        return Peer(name, "$QMAIL_SMTPD is not set")
    if server.missing:
        return Peer(name, server.missing)
    try:
        done = subprocess.run([path], input=b"".join(SCRIPT), capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Peer(name, "$QMAIL_SMTPD names no program, or one that does not end")
    refusals = [line.decode("latin-1") for line in done.stdout.splitlines() if not line.startswith(b"2")]
    if refusals or not done.stdout:
        return Peer(name, f"it does not accept the session: {refusals[0] if refusals else 'no reply'}")
    return Peer(f"{name}, {server.name}")


def available() -> dict[str, Peer]:
    server = installed("C tcpserver", THEIRS, "ucspi-tcp")
    c, echo = c_peer(server), installed("smtpfront-echo", SMTPFRONT, "mailfront")
    return {C: c, C_RULES: c, ECHO: echo._replace(missing=echo.missing or server.missing)}


def rows(rounds: int, sessions: int) -> list[Row]:
    peers = available()
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        rules = f"{home}/tcp.smtp.cdb"
        subprocess.run([PROGRAMS / "tcprules", rules, f"{home}/tmp"], input=b"192.0.2.:deny\n:allow\n", check=True)
        os.environ.update(QMAILHOME=home, SMTPD_LOG="none")
        figures = measure(their_lines(peers, rules) | our_lines(rules), rounds, sessions, script=SCRIPT)
    return [
        row
        for beside in (BESIDE_C, BESIDE_ECHO)
        for name, (peer, rate, cost) in beside.items()
        for row in pair(f"smtp: {name}", figures[name], figures.get(peer), peers[peer], rate, cost)
    ]


def main() -> None:
    rounds, sessions = arguments(5, 2000)
    show(rows(rounds, sessions), f"medians of {rounds} rounds, {sessions} sessions each, 20 at once")


if __name__ == "__main__":
    main()
