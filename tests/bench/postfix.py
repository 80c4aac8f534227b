"""Debian's Postfix for bench_store.py: an instance of its own that takes mail on a port of loopback, and holds it all.

On hold a message is stored, with cleanup's fsync of its file, and no delivery takes its share of the machine. smtpd
does not fsync the directory, which maildir-queue and aiosmtpd_store.py do.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

MAIN = """\
compatibility_level = 3.6
queue_directory = {top}/queue
data_directory = {top}/data
maillog_file_prefixes = {top}
maillog_file = {top}/log
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.example.com
mydestination = example.com
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
inet_protocols = ipv4
smtpd_peername_lookup = no
smtpd_client_restrictions = check_client_access static:HOLD
smtpd_client_event_limit_exceptions = static:all
"""

MASTER = """\
127.0.0.1:{port} inet n - n - 100 smtpd
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
"""


class Postfix:
    """A running instance; `port` is where it listens."""

    top = Path()  # of the instance that runs: there is one at a time

    def __init__(self) -> None:
        Postfix.top = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.top.chmod(0o755)
        for name in ("conf", "queue", "data"):
            (self.top / name).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(self.top / "data", owner.pw_uid, owner.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self.top / "conf" / "main.cf").write_text(MAIN.format(top=self.top))
        (self.top / "conf" / "master.cf").write_text(MASTER.format(port=self.port))
        self.control("start")

    def control(self, word: str) -> None:
        subprocess.run(["postfix", "-c", self.top / "conf", word], capture_output=True, check=True)

    @classmethod
    def take(cls) -> int:
        """How many messages it holds. They are removed."""
        files = [path for path in cls.top.glob("queue/hold/**/*") if path.is_file()]
        for path in files:
            path.unlink()
        return len(files)

    def stop(self) -> None:
        self.control("stop")
        shutil.rmtree(self.top)
