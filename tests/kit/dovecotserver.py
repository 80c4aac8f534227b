"""Debian's Dovecot with its own configuration, on free ports of loopback, for one user. Needs root."""

import os
import pwd
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.kit.ports import free_port
from tests.kit.server import until
from tests.kit.support import peer

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Dovecot")
OWNER = "nobody"  # of the mail

BASE = """base_dir = {top}/run
log_path = {top}/log
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
protocols = pop3 imap
listen = 127.0.0.1
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = {top}/users
}}
userdb {{
  driver = static
  args = uid={owner} gid=nogroup home={top}/mail/%u
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


class Dovecot:
    """A running Dovecot: `with Dovecot(configuration) as dovecot`.

    Its user joe has the password secret and `maildir`.
    """

    def __init__(self, more: str = "") -> None:
        self.program = peer("/usr/sbin/dovecot")
        self.folder = tempfile.TemporaryDirectory(prefix="dovecot-")  # every user may enter it, unlike pytest's
        self.top = Path(self.folder.name)
        self.top.chmod(0o755)
        self.maildir = self.top / "mail/joe/Maildir"
        for part in ("new", "cur", "tmp"):
            (self.maildir / part).mkdir(parents=True)
        self.own()
        (self.top / "users").write_text("joe:{PLAIN}secret\n")
        self.pop3, self.imap = free_port(), free_port()
        text = BASE.format(top=self.top, owner=OWNER, pop3=self.pop3, imap=self.imap)
        (self.top / "dovecot.conf").write_text(text + more.replace("TOP", str(self.top)))

    def own(self) -> None:
        """Give the mail to its owner."""
        owner = pwd.getpwnam(OWNER)
        subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", self.top / "mail"], check=True)

    def __enter__(self) -> "Dovecot":
        self.process = subprocess.Popen(
            [self.program, "-F", "-c", self.top / "dovecot.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until(self.listens, lambda: (self.log(), self.process.poll()))
        return self

    def listens(self) -> bool:
        try:
            for port in (self.pop3, self.imap):
                socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        log = self.top / "log"
        return log.read_text() if log.exists() else ""

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()
        until(lambda: self.stopped(), self.log)
        self.folder.cleanup()

    def stopped(self) -> bool:
        """Whether all of Dovecot's processes have ended: it closes its sockets last."""
        try:
            socket.create_connection(("127.0.0.1", self.pop3)).close()
        except OSError:
            return True
        return False
