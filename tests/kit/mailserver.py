"""A whole server for tests: tcpserver, qmail-smtpd and maildir-queue on a free port of 127.0.0.1.

127.0.0.1 may relay, 127.0.0.3 is denied, all other clients may send only to example.com.
"""

import os
import re
import smtplib
import subprocess
from pathlib import Path

RULES = '127.0.0.1:allow,RELAYCLIENT=""\n127.0.0.3:deny\n:allow\n'


class Server:
    """A server that runs within a with statement. `programs` is the directory of our console scripts."""

    def __init__(self, home: Path, programs: Path, options: list[str]) -> None:
        (home / "control").mkdir(parents=True)
        (home / "control" / "me").write_text("mail.example.com\n")
        (home / "control" / "rcpthosts").write_text("example.com\n")
        self.home = home
        self.maildir = home / "Maildir"
        self.cdb = home / "tcp.smtp.cdb"
        subprocess.run([programs / "tcprules", self.cdb, home / "tcp.smtp.tmp"], input=RULES, text=True, check=True)
        environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "QMAILHOME": str(home),
            "QMAILQUEUE": str(programs / "maildir-queue"),
            "QUEUE_MAILDIR": str(self.maildir),
        }
        command = [str(programs / "tcpserver"), "-1", "-q", "-H", "-R", "-l", "localhost", *options]
        command += ["-x", str(self.cdb), "127.0.0.1", "0", "qmail-smtpd"]
        self.process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()

    def smtp(self, client: str = "127.0.0.1") -> smtplib.SMTP:
        """Return a session of a client with this address."""
        return smtplib.SMTP("127.0.0.1", self.port, "client.example", 60, source_address=(client, 0))

    def bodies(self) -> list[bytes]:
        """Return the messages as they were sent, sorted, without the envelope's lines and qmail-smtpd's Received."""
        texts = [path.read_bytes() for path in self.maildir.glob("new/*")]
        return sorted(re.sub(rb"^Return-Path: .*\n(Delivered-To: .*\n)*Received: .*\n  by .*\n", b"", t) for t in texts)
