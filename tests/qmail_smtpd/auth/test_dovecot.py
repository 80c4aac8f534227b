"""Dovecot reads the users file with the lines of docs/checkusers.md, and accepts what checkusers has written."""

import re
import subprocess

import pytest

from tests.kit.peers.dovecotserver import Dovecot, dovecot_version, needs_root
from tests.kit.support import ROOT, peer, script

pytestmark = [pytest.mark.peer, needs_root]
SCHEMES = ["SCRAM-SHA-256", "ARGON2ID", "BLF-CRYPT", "PLAIN"]
GROUP = "mail"  # instead of qmaild, which does not exist on every host


def passdb() -> str:
    """Return the lines that the documentation has for the installed version."""
    text = (ROOT / "docs/checkusers.md").read_text()
    (block,) = re.findall(rf"^    # Dovecot {re.escape(dovecot_version())}\n(?:    .*\n)+", text, re.MULTILINE)
    lines = block.replace("/var/qmail/control/users", "TOP/control/users").replace("qmaild", GROUP)
    return "".join(line[4:] for line in lines.splitlines(keepends=True))


def checkusers(dovecot: Dovecot, *words: str) -> None:
    environ = {"CHECKUSERS_FILE": str(dovecot.top / "control/users")}
    subprocess.run([script("checkusers"), *words], input=b"secret\n", env=environ, check=True)
    subprocess.run(["chgrp", GROUP, dovecot.top / "control/users"], check=True)


def log_in(dovecot: Dovecot, user: str, password: str = "secret") -> int:
    """Log in by POP3. Return curl's exit code: 67 if the login is refused."""
    url = f"pop3://127.0.0.1:{dovecot.pop3}/"
    words = [peer("/usr/bin/curl"), "-sS", "--max-time", "20", "--login-options", "AUTH=PLAIN"]
    return subprocess.run([*words, "-u", f"{user}:{password}", url], capture_output=True).returncode


def home(*users: str) -> Dovecot:
    """Return a Dovecot, not yet started, with mail directories for these users."""
    dovecot = Dovecot(passdb=passdb())
    (dovecot.top / "control").mkdir()
    for user in users:
        (dovecot.top / "mail" / user / "Maildir").mkdir(parents=True, exist_ok=True)
    dovecot.own()
    return dovecot


def test_dovecot_accepts_what_checkusers_has_written() -> None:
    dovecot = home(*(scheme.lower() for scheme in SCHEMES))
    for scheme in SCHEMES:
        checkusers(dovecot, "--set", scheme.lower(), "--scheme", scheme)
    assert (dovecot.top / "control/users").stat().st_mode & 0o777 == 0o640
    with dovecot:
        for scheme in SCHEMES:
            assert log_in(dovecot, scheme.lower()) == 0, (scheme, dovecot.log())
            assert log_in(dovecot, scheme.lower(), "wrong") == 67


def test_dovecot_changes_names_to_lower_case() -> None:
    dovecot = home("joe", "ann")
    for user in ("joe", "Ann"):
        checkusers(dovecot, "--set", user, "--scheme", "PLAIN")
    with dovecot:
        assert log_in(dovecot, "JOE") == 0
        assert log_in(dovecot, "Ann") == 67
