"""The documented filter, run by fail2ban itself: it finds the address of a failed login, and no forged address."""

import re
import smtplib
import subprocess
from pathlib import Path

import pytest

from qmail_smtpd.auth.secret import make
from tests.kit.checker import Checker
from tests.kit.login import JOE, plain
from tests.kit.mailhome import CLIENT, CONTROL, make_home, talk
from tests.kit.server import Server
from tests.kit.support import ROOT, peer, script
from tests.kit.tlspeer import HOST, Smtp, certify

VICTIM = "203.0.113.66"  # the address that an attacker tries to get banned
HELO = f"EHLO x ip={VICTIM} result=no reason=password \r\n"
NAMES = [
    "nobody",
    f"a\nqmail-smtpd: event=login pid=1 ip={VICTIM} result=no reason=password mechanism=PLAIN",
    f"ip={VICTIM}",
]


def documented_filter(folder: Path) -> Path:
    """Write the indented block that begins with [Definition] to a file, and return its path."""
    page = (ROOT / "docs/qmail-smtpd.md").read_text()
    block = re.search(r"^    \[Definition\]\n(?:    .*\n)+", page, re.MULTILINE)
    assert block
    file = folder / "qmail-smtpd.conf"
    file.write_text(re.sub("^    ", "", block[0], flags=re.MULTILINE))
    return file


@pytest.mark.peer
@pytest.mark.parametrize(
    "prefix", ["Nov 24 10:00:00 mx smtpd[4711]: ", "@40000000674300002f3b2c1c ", "2025-11-24 10:00:00 "]
)
def test_fail2ban_finds_failed_logins_only(tmp_path: Path, prefix: str) -> None:
    program = peer("/usr/bin/fail2ban-regex")
    home, checker = make_home(tmp_path / "home", CONTROL), Checker(tmp_path / "checker")
    env = {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0", "SMTPD_LOG": "all"}
    text = HELO + "".join(map(plain, NAMES)) + plain(JOE) + f"MAIL FROM:<ip={VICTIM}>\r\nQUIT\r\n"
    lines = talk(home, text, env, words=[checker.path, "true"]).stderr.decode().splitlines()
    lines += (
        talk(home, plain(JOE, "secret") + "QUIT\r\n", env, words=[checker.path, "true"]).stderr.decode().splitlines()
    )
    # three failed logins; the fourth AUTH has the right password, but exceeds control/maxauth
    assert banned_addresses(program, tmp_path, [prefix + line for line in lines]) == ["192.0.2.1"] * 4


@pytest.mark.peer
@pytest.mark.parametrize("named", [False, True])
def test_fail2ban_finds_failed_logins_under_tls(tmp_path: Path, named: bool) -> None:
    """`named`: the log also has the name that the client has asked for."""
    program = peer("/usr/bin/fail2ban-regex")
    home, checker = make_home(tmp_path / "home", CONTROL), Checker(tmp_path / "checker")
    certificate, key = certify(tmp_path)
    (home / "control/servercert.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    (home / "control/servercert.pem").chmod(0o600)
    if named:
        (home / "control/servercerts").mkdir()
    with Smtp(home, {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0"}, [checker.path, "true"]) as smtp:
        smtp.reply()
        assert smtp.ask("STARTTLS").startswith("220 ")
        smtp.secure(certificate)
        assert smtp.ask(HELO.strip()).startswith("250-")
        assert [smtp.ask(plain(name).strip())[:3] for name in (*NAMES, JOE)] == ["535", "535", "535", "421"]
        lines = smtp.end().stderr.decode().splitlines()
    logins = [line for line in lines if "event=login" in line]
    assert all(" tls=TLSv1.3 " in line and line.endswith(f" sni={HOST}") is named for line in logins)
    assert banned_addresses(program, tmp_path, [f"2025-11-24 10:00:00 {line}" for line in lines]) == ["192.0.2.1"] * 4


@pytest.mark.peer
@pytest.mark.parametrize("checker", [True, False])
def test_fail2ban_ignores_a_scheme_that_the_mechanism_cannot_use(tmp_path: Path, checker: bool) -> None:
    """smtplib tries CRAM-MD5 first if it is offered, and then PLAIN with the same, right password."""
    program = peer("/usr/bin/fail2ban-regex")
    home = make_home(tmp_path / "home", {**CONTROL, "authcleartext": ""})
    users = home / "control/users"
    users.write_bytes(b"joe:" + make(b"SCRAM-SHA-256", b"secret", 4096) + b"\n")
    users.chmod(0o640)
    environ = {"QMAILHOME": str(home), "SMTPAUTH": "+cram", "AUTHSLEEP": "0"}
    words = [script("checkusers"), "true"] if checker else []
    if not checker:
        environ["SMTPAUTHFILE"] = str(users)
    with Server(["-vHRl0", "127.0.0.1", "0", script("qmail-smtpd"), *words], environ=environ) as server:
        for password in ("secret", "wrong"):
            with smtplib.SMTP("127.0.0.1", server.port) as client:
                try:
                    assert client.login("joe", password)[0] == 235
                    assert password == "secret"
                except smtplib.SMTPAuthenticationError:
                    assert password == "wrong"
        log = server.wait_for_log(rb"end \d+ status", times=2).decode()
    failures = re.findall(r"result=no reason=(\S+) mechanism=(\S+)", log)
    assert failures == [("scheme", "CRAM-MD5")] * 2 + [("password", "PLAIN"), ("password", "LOGIN")]
    lines = [f"2025-11-24 10:00:00 {line}" for line in log.splitlines()]
    assert banned_addresses(program, tmp_path, lines) == ["127.0.0.1"] * 2


def banned_addresses(program: str, folder: Path, lines: list[str]) -> list[str]:
    """Return the addresses that fail2ban finds in these log lines with the documented filter."""
    log = folder / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    command = [program, "--out", "<ip>", str(log), str(documented_filter(folder))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
