"""Debian's Postfix for the benchmarks: a separate instance on a port of loopback that accepts mail and holds it.

With TLS (bench_tls.py) it requires logins, which an instance of Dovecot checks. A message on hold is stored, with
cleanup's fsync of its file, and no delivery uses the machine. smtpd does not fsync the directory; maildir-queue and
aiosmtpd_store.py do.
"""

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from figures import Peer, installed

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

TLS_MAIN = """\
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {top}/auth
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""

TLS_MASTER = "tlsmgr unix - - n 1000? 1 tlsmgr\n"

DOVECOT = """\
protocols =
base_dir = {top}/dovecot
log_path = {top}/dovecot.log
ssl = no
passdb {{
  driver = passwd-file
  args = {top}/users
}}
service auth {{
  client_limit = 1000
  unix_listener {top}/auth {{
    mode = 0666
  }}
}}
service anvil {{
  client_limit = 1003
}}
"""


def postfix_peer(with_tls: bool = False) -> Peer:
    """Return Postfix as a peer, with Dovecot for its logins, or with the reason why it cannot be run here."""
    peer = installed("Postfix", "/usr/sbin/postfix", "postfix")
    if not peer.missing and os.geteuid():
        return peer._replace(missing="only root can start it")
    if not peer.missing and with_tls and not dovecot_is_2_3():
        return peer._replace(missing="it needs Dovecot 2.3 for logins")
    return peer


def dovecot_is_2_3() -> bool:
    """Whether the installed Dovecot understands the configuration above."""
    if not shutil.which("dovecot"):
        return False
    return subprocess.run(["dovecot", "--version"], capture_output=True, check=True).stdout.startswith(b"2.3.")


class Postfix:
    """A running instance on `port`. `tls` has a certificate, its key, and a line of a passwd-file."""

    top = Path()  # of the only running instance

    def __init__(self, tls: tuple[Path, Path, str] | None = None) -> None:
        Postfix.top = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.top.chmod(0o755)
        for name in ("conf", "queue", "data"):
            (self.top / name).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(self.top / "data", owner.pw_uid, owner.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        main, master = MAIN.format(top=self.top), MASTER.format(port=self.port)
        self.dovecot = tls is not None
        if tls:
            main += TLS_MAIN.format(top=self.top, certificate=tls[0], key=tls[1])
            master += TLS_MASTER
            (self.top / "users").write_text(tls[2])
            (self.top / "dovecot.conf").write_text(DOVECOT.format(top=self.top))
            subprocess.run(["dovecot", "-c", self.top / "dovecot.conf"], check=True)
        (self.top / "conf" / "main.cf").write_text(main)
        (self.top / "conf" / "master.cf").write_text(master)
        self.control("start")
        atexit.register(self.stop)

    def processes(self) -> list[int]:
        """Return the first process of each tree."""
        files = [self.top / "queue/pid/master.pid", *([self.top / "dovecot/master.pid"] if self.dovecot else [])]
        return [int(file.read_text()) for file in files]

    def control(self, word: str) -> None:
        subprocess.run(["postfix", "-c", self.top / "conf", word], capture_output=True, check=True)

    @classmethod
    def take(cls) -> int:
        """Return the number of messages on hold, and remove them."""
        files = [path for path in cls.top.glob("queue/hold/**/*") if path.is_file()]
        for path in files:
            path.unlink()
        return len(files)

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self.control("stop")
        if self.dovecot:
            subprocess.run(["doveadm", "-c", self.top / "dovecot.conf", "stop"], check=True)
        shutil.rmtree(self.top)
