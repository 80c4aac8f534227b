"""A separate Postfix that listens on loopback and delivers nothing, for tests of what it accepts."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.kit.server import until
from tests.kit.support import free_port

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
local_recipient_maps =
alias_maps =
inet_protocols = ipv4
smtpd_peername_lookup = no
smtpd_client_event_limit_exceptions = static:all
defer_transports = smtp local
{more}
"""

# postlogd of Postfix 3.7 waits for itself, for ever, if ten lines are there before it reads the first one
# (net.unix.max_dgram_qlen). So it must be running before there is a client.
MASTER = """\
127.0.0.1:{port} inet n - n - 100 smtpd
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
defer unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
"""


class Postfix:
    """A Postfix that runs within a with statement. `more` has further lines of main.cf."""

    def __init__(self, more: str) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.top.chmod(0o755)
        for name in ("conf", "queue", "data"):
            (self.top / name).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(self.top / "data", owner.pw_uid, owner.pw_gid)
        self.port = free_port()
        (self.top / "conf" / "main.cf").write_text(MAIN.format(top=self.top, more=more))
        (self.top / "conf" / "master.cf").write_text(MASTER.format(port=self.port))

    def __enter__(self) -> "Postfix":
        self.control("start")
        until(lambda: b"daemon started" in (self.top / "log").read_bytes())  # see MASTER
        return self

    def __exit__(self, *_: object) -> None:
        self.control("stop")
        shutil.rmtree(self.top)

    def control(self, word: str) -> None:
        subprocess.run(["postfix", "-c", self.top / "conf", word], capture_output=True, check=True)
