"""Debian's Dovecot with its own configuration, on free ports of loopback, for one user. Needs root.

$DOVECOT_ROOT names a root file system (debootstrap) whose Dovecot is run instead of this host's: another version.
"""

import os
import pwd
import re
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.kit.server import until
from tests.kit.support import free_port, peer

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Dovecot")
DOVECOT = "/usr/sbin/dovecot"
ROOT = os.environ.get("DOVECOT_ROOT", "")
IN_ROOT = 'mkdir -p "$0$1" && mount --bind "$1" "$0$1" && root=$0 && shift && exec chroot "$root" "$@"'
OWNER = "nobody"  # of the mail

COMMON = """base_dir = {top}/run
log_path = {top}/log
ssl = no
auth_failure_delay = 0
listen = 127.0.0.1
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
BASE = {  # version -> the beginning of its configuration
    "2.3": """disable_plaintext_auth = no
protocols = pop3 imap
mail_location = maildir:~/Maildir
userdb {{
  driver = static
  args = uid={owner} gid=nogroup home={top}/mail/%u
}}
""",
    "2.4": """dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
auth_allow_cleartext = yes
protocols {{
  pop3 = yes
  imap = yes
}}
mail_driver = maildir
mail_path = ~/Maildir
userdb static {{
  fields {{
    uid = {owner}
    gid = nogroup
    home = {top}/mail/%{{user}}
  }}
}}
""",
}
PASSDB = {
    "2.3": "passdb {\n  driver = passwd-file\n  args = TOP/users\n}\n",
    "2.4": "passdb passwd-file {\n  passwd_file_path = TOP/users\n}\n",
}


def dovecot_version() -> str:
    """Return "2.3" or "2.4": the configuration syntax that the installed Dovecot has."""
    words = [peer(DOVECOT), "--version"] if not ROOT else ["chroot", ROOT, DOVECOT, "--version"]
    version = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return "2.3" if version.startswith("2.3.") else "2.4"


class Dovecot:
    """A running Dovecot: `with Dovecot(configuration) as dovecot`.

    Its user joe has the password secret and `maildir`. TOP in the configuration stands for its directory. `passdb`
    replaces the default, which reads TOP/users.
    """

    def __init__(self, more: str = "", passdb: str | None = None) -> None:
        self.version = dovecot_version()
        self.folder = tempfile.TemporaryDirectory(prefix="dovecot-")  # every user may enter it, unlike pytest's
        self.top = Path(self.folder.name)
        self.top.chmod(0o755)
        self.maildir = self.top / "mail/joe/Maildir"
        for part in ("new", "cur", "tmp"):
            (self.maildir / part).mkdir(parents=True)
        self.own()
        (self.top / "users").write_text("joe:{PLAIN}secret\n")
        self.pop3, self.imap = free_port(), free_port()
        text = (BASE[self.version] + COMMON).format(top=self.top, owner=OWNER, pop3=self.pop3, imap=self.imap)
        text += PASSDB[self.version] if passdb is None else passdb
        text = (text + more).replace("TOP", str(self.top))
        self.sockets = re.findall(rf"unix_listener ({re.escape(str(self.top))}/\S+)", text)
        (self.top / "dovecot.conf").write_text(text)

    def own(self) -> None:
        """Give the mail to its owner."""
        owner = pwd.getpwnam(OWNER)
        subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", self.top / "mail"], check=True)

    def __enter__(self) -> "Dovecot":
        before = ["unshare", "-m", "sh", "-c", IN_ROOT, ROOT, str(self.top)] if ROOT else []
        self.process = subprocess.Popen(
            [*before, DOVECOT, "-F", "-c", self.top / "dovecot.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            until(lambda: self.listens() or self.process.poll() is not None, self.log)
            assert self.process.stderr
            assert self.process.poll() is None, (self.process.stderr.read(), self.log())
        except BaseException:
            self.__exit__()
            raise
        return self

    def listens(self) -> bool:
        """Whether it listens everywhere: it opens one socket after the other."""
        try:
            for port in (self.pop3, self.imap):
                socket.create_connection(("127.0.0.1", port)).close()
            for path in self.sockets:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
        except OSError:
            return False
        return True

    def log(self) -> str:
        log = self.top / "log"
        return log.read_text() if log.exists() else ""

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.folder.cleanup()

    def stop(self) -> None:
        """End all processes. __enter__ starts them again."""
        self.process.terminate()
        self.process.communicate()
        until(lambda: self.stopped(), self.log)

    def stopped(self) -> bool:
        """Whether all processes of Dovecot have ended: they close their sockets last."""
        try:
            socket.create_connection(("127.0.0.1", self.pop3)).close()
        except OSError:
            return True
        return False
