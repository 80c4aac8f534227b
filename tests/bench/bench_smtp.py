"""Whole SMTP sessions compared with C, in one run: `python tests/bench/bench_smtp.py [ROUNDS [SESSIONS]]`.

`tcpserver --preload qmail-smtpd`, with and without --reuse, and Debian's tcpserver with smtpfront-echo (package
mailfront): EHLO, MAIL, two RCPT, QUIT, each sent after the reply to the one before. 20 clients at once on loopback,
medians of the rounds. The bounds are the ratios of the C qmail-smtpd to smtpfront-echo.
"""

import os
import sys
import tempfile
from pathlib import Path

from load import measure

PROGRAMS = Path(sys.executable).parent
SMTPFRONT = "/usr/sbin/smtpfront-echo"
MAY_RELAY = ["/usr/bin/env", "PLUGINS=accept", "RELAYCLIENT="]  # without it smtpfront-echo refuses the session at MAIL
SCRIPT = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<sender@client.example>\r\n",
    b"RCPT TO:<one@example.com>\r\n",
    b"RCPT TO:<two@example.com>\r\n",
    b"QUIT\r\n",
]
QUICK = ["-1", "-q", "-c", "100", "-H", "-R", "-l", "0"]
WHERE = ["127.0.0.1", "0"]
MAX_CPU, MIN_RATE = 0.31, 3.0


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sessions = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    with tempfile.TemporaryDirectory() as home:
        os.makedirs(f"{home}/control")
        Path(f"{home}/control/me").write_text("mx.example.com\n")
        Path(f"{home}/control/rcpthosts").write_text("example.com\n")
        os.environ.update(QMAILHOME=home, SMTPD_LOG="none")
        ours, smtpd = str(PROGRAMS / "tcpserver"), str(PROGRAMS / "qmail-smtpd")
        servers = {
            "smtpfront-echo": [*MAY_RELAY, "/usr/bin/tcpserver", *QUICK, *WHERE, SMTPFRONT],
            "preloaded": [ours, *QUICK, "--preload", "qmail-smtpd", *WHERE, smtpd],
            "the same, --reuse 100": [ours, *QUICK, "--preload", "qmail-smtpd", "--reuse", "100", *WHERE, smtpd],
            "exec'd": [ours, *QUICK, *WHERE, smtpd],
        }
        figures = measure(servers, rounds, sessions, script=SCRIPT)
    print(f"medians of {rounds} rounds, {sessions} sessions each, 20 at once; bounds for preloaded")
    echo = figures["smtpfront-echo"]
    for name, figure in figures.items():
        ratios = f"CPU ratio {figure.cost / echo.cost:5.2f} (<= {MAX_CPU}), rate ratio {figure.rate / echo.rate:5.2f}"
        print(f"{name:22}{figure.cost:8.3f} ms CPU{figure.rate:8.0f} sessions/s   {ratios} (>= {MIN_RATE})")


if __name__ == "__main__":
    main()
