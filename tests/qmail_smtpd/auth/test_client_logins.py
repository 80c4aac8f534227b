"""What real clients do at the offer of docs/clients.md, and after a failure: the rows that can be run here."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.postfixserver import Postfix
from tests.kit.server import Server, until
from tests.kit.support import needs_channel_binding, peer, script
from tests.kit.tlspeer import certify

pytestmark = pytest.mark.peer
SENDER, OUTSIDE = "joe@example.com", "someone@elsewhere.test"
TEXT = f"From: {SENDER}\r\nTo: {OUTSIDE}\r\nSubject: t\r\n\r\nhello\r\n"
OFFER = {"SMTPAUTH": "LOGIN CRAM-MD5 PLAIN SCRAM-SHA-256"}
SMTPLIB = f"""
import smtplib, ssl, sys
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60)
smtp.starttls(context=ssl._create_unverified_context())
smtp.login("joe", sys.argv[2])
smtp.sendmail("{SENDER}", "{OUTSIDE}", "Subject: t\\n\\nhello\\n")
smtp.quit()
"""
Command = Callable[[int, str], list[str]]


def smtplib(port: int, password: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", SMTPLIB, str(port), password]


def curl(port: int, password: str) -> list[str]:
    words = [peer("/usr/bin/curl"), "-sSk", "--ssl", "-u", f"joe:{password}", "--mail-from", SENDER]
    return [*words, "--mail-rcpt", OUTSIDE, "-T", "-", f"smtp://127.0.0.1:{port}"]


def swaks(port: int, password: str) -> list[str]:
    words = [peer("/usr/bin/swaks"), "--server", f"127.0.0.1:{port}", "--tls", "--auth", "--auth-user", "joe"]
    return [*words, "--auth-password", password, "--from", SENDER, "--to", OUTSIDE]


def msmtp(port: int, password: str) -> list[str]:
    words = [peer("/usr/bin/msmtp"), "--file=/dev/null", "--host=127.0.0.1", f"--port={port}", "--tls=on"]
    words += ["--tls-certcheck=off", "--auth=on", "--user=joe", f"--passwordeval=echo {password}"]
    return [*words, f"--from={SENDER}", OUTSIDE]


# client -> the mechanisms that it tries (none: it gives up before AUTH), the exit codes after 535 and 454 to AUTH, and
# after 454 to STARTTLS
CLIENTS: dict[Command, tuple[list[str], int, int]] = {
    smtplib: (["CRAM-MD5", "PLAIN", "LOGIN"], 1, 1),
    curl: (["CRAM-MD5"], 67, 0),
    swaks: (["CRAM-MD5", "LOGIN", "PLAIN"], 28, 29),
    msmtp: ([], 70, 76) if needs_channel_binding("/usr/bin/msmtp") else (["PLAIN"], 77, 76),
}
EACH = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)


class Host:
    """A server that logs everything, with and without usable TLS, and with and without a verdict about passwords."""

    def __init__(self, home: Path, certificate: bool, environ: dict[str, str]) -> None:
        make_home(home, {**CONTROL, "users": "joe:{PLAIN}secret\n", "authcleartext": ""})
        (home / "control/users").chmod(0o600)
        if certificate:
            certify(home / "control")
        else:
            (home / "control/servercert.pem").write_text("broken\n")
        programs = str(Path(script("qmail-smtpd")).parent)
        environ = {"PATH": f"{programs}:/usr/bin:/bin", "QMAILHOME": str(home), "SMTPD_LOG": "all", **environ, **OFFER}
        self.server = Server(["-RHl0", "127.0.0.1", "0", "qmail-smtpd"], environ={**environ, "AUTHSLEEP": "0"})
        self.port = self.server.port

    def watch(self, act: Callable[[], object]) -> bytes:
        """Return what is logged about the session that the action causes."""
        before = len(self.server.log())
        act()
        until(lambda: b" event=end " in self.server.log()[before:], lambda: self.server.log()[before:])
        return self.server.log()[before:]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    top = tmp_path_factory.mktemp("hosts")
    users = {"SMTPAUTHFILE": "control/users"}
    hosts = {
        "usable": Host(top / "usable", True, users),
        "unasked": Host(top / "unasked", True, {"SMTPAUTHSOCKET": "/nonexistent/socket"}),
        "no TLS": Host(top / "no-tls", False, users),
    }
    yield hosts
    for host in hosts.values():
        host.server.__exit__()


def run(words: list[str]) -> int:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(words, input=TEXT, env=environ, capture_output=True, text=True, timeout=90).returncode


def logins(log: bytes) -> list[tuple[str, str]]:
    """Return result and mechanism of each login."""
    found = re.findall(rb" event=login .*result=(\w+) (?:reason=\S+ )?mechanism=(\S+)", log)
    return [(result.decode(), mechanism.decode()) for result, mechanism in found]


@EACH
def test_a_client_uses_the_mechanism_of_the_table(hosts: dict[str, Host], client: Command) -> None:
    host = hosts["usable"]
    log = host.watch(lambda: run(client(host.port, "secret")))
    mechanisms = CLIENTS[client][0][:1]
    assert logins(log) == [("yes", mechanism) for mechanism in mechanisms]
    assert (b" event=queued " in log) is bool(mechanisms)


@EACH
@pytest.mark.parametrize(("name", "password"), [("usable", "wrong"), ("unasked", "secret")], ids=["535", "454"])
def test_after_a_failed_login_a_client_does_what_the_table_says(
    hosts: dict[str, Host], client: Command, name: str, password: str
) -> None:
    mechanisms, code, _ = CLIENTS[client]
    codes: list[int] = []
    log = hosts[name].watch(lambda: codes.append(run(client(hosts[name].port, password))))
    assert logins(log) == [("no", mechanism) for mechanism in mechanisms]
    assert codes == [code]
    assert b" event=accepted " not in log


@EACH
def test_after_a_refused_starttls_a_client_does_what_the_table_says(hosts: dict[str, Host], client: Command) -> None:
    host = hosts["no TLS"]
    codes: list[int] = []
    log = host.watch(lambda: codes.append(run(client(host.port, "secret"))))
    assert codes == [CLIENTS[client][2]]
    assert (b" event=queued " in log) == (codes == [0])


# Postfix

POSTFIX = """\
relayhost = [127.0.0.1]:{port}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ [127.0.0.1]:{port}=joe:{password} }}
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = may
defer_transports =
"""
SERVICES = "smtp unix - - n - - smtp\ntlsmgr unix - - n 1000? 1 tlsmgr\nbounce unix - - n - 0 bounce\n"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: Postfix")
@pytest.mark.parametrize(
    ("name", "password", "result", "status"),
    [
        ("usable", "secret", "yes", "sent"),
        ("usable", "wrong", "no", "deferred"),
        ("unasked", "secret", "no", "deferred"),
        ("no TLS", "secret", "yes", "sent"),
    ],
    ids=["right", "535", "454", "no TLS"],
)
def test_postfix_logs_in_by_scram_and_keeps_its_mail_after_a_failure(
    hosts: dict[str, Host], name: str, password: str, result: str, status: str
) -> None:
    peer("/usr/lib/postfix/sbin/smtp")
    host = hosts[name]
    postfix = Postfix(POSTFIX.format(port=host.port, password=password))
    with (postfix.top / "conf/master.cf").open("a") as file:
        file.write(SERVICES)
    with postfix:

        def send() -> None:
            words = ["-f", SENDER, "-t", OUTSIDE, f"127.0.0.1:{postfix.port}"]
            subprocess.run([peer("/usr/sbin/smtp-source"), *words], check=True)

        log = host.watch(send)
        until(lambda: f"status={status} " in (postfix.top / "log").read_text())
    assert logins(log) == [(result, "SCRAM-SHA-256")]
