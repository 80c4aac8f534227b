"""The filter in the docs, by fail2ban itself: it bans who guesses, and nobody whom a guesser names."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.kit.checker import Checker
from tests.kit.login import JOE, plain
from tests.kit.mailhome import CLIENT, CONTROL, lay_home, talk
from tests.kit.support import ROOT, peer
from tests.kit.tlspeer import Smtp, certify

FRAMED = "203.0.113.66"  # whom the guesser would like to see banned
HELO = f"EHLO x ip={FRAMED} result=no reason=password \r\n"
NAMES = [
    "nobody",
    f"a\nqmail-smtpd: event=login pid=1 ip={FRAMED} result=no reason=password mechanism=PLAIN",
    f"ip={FRAMED}",
]


def filter_of_the_docs(folder: Path) -> Path:
    """The indented block that begins with [Definition]."""
    page = (ROOT / "docs/qmail-smtpd.md").read_text()
    block = re.search(r"^    \[Definition\]\n(?:    .*\n)+", page, re.MULTILINE)
    assert block
    file = folder / "qmail-smtpd.conf"
    file.write_text(re.sub("^    ", "", block[0], flags=re.MULTILINE))
    return file


@pytest.mark.peer
@pytest.mark.parametrize(
    "stamp", ["Nov 24 10:00:00 mx smtpd[4711]: ", "@40000000674300002f3b2c1c ", "2025-11-24 10:00:00 "]
)
def test_fail2ban_finds_each_guess_and_nothing_else(tmp_path: Path, stamp: str) -> None:
    program = peer("/usr/bin/fail2ban-regex")
    home, checker = lay_home(tmp_path / "home", CONTROL), Checker(tmp_path / "checker")
    env = {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0", "SMTPD_LOG": "all"}
    text = HELO + "".join(map(plain, NAMES)) + plain(JOE) + f"MAIL FROM:<ip={FRAMED}>\r\nQUIT\r\n"
    lines = talk(home, text, env, words=[checker.path, "true"]).stderr.decode().splitlines()
    lines += (
        talk(home, plain(JOE, "secret") + "QUIT\r\n", env, words=[checker.path, "true"]).stderr.decode().splitlines()
    )
    # three guesses; the fourth AUTH, though right, is one too many for control/maxauth
    assert banned(program, tmp_path, [stamp + line for line in lines]) == ["192.0.2.1"] * 4


@pytest.mark.peer
def test_fail2ban_finds_those_who_guess_under_tls(tmp_path: Path) -> None:
    program = peer("/usr/bin/fail2ban-regex")
    home, checker = lay_home(tmp_path / "home", CONTROL), Checker(tmp_path / "checker")
    certificate, key = certify(tmp_path)
    (home / "control/servercert.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    (home / "control/servercert.pem").chmod(0o600)
    with Smtp(home, {**CLIENT, "SMTPAUTH": "", "AUTHSLEEP": "0"}, [checker.path, "true"]) as smtp:
        smtp.reply()
        assert smtp.ask("STARTTLS").startswith("220 ")
        smtp.secure(certificate)
        assert smtp.ask(HELO.strip()).startswith("250-")
        assert [smtp.ask(plain(name).strip())[:3] for name in (*NAMES, JOE)] == ["535", "535", "535", "421"]
        lines = smtp.end().stderr.decode().splitlines()
    assert all(" tls=TLSv1.3 " in line for line in lines if "event=login" in line)
    assert banned(program, tmp_path, [f"2025-11-24 10:00:00 {line}" for line in lines]) == ["192.0.2.1"] * 4


def banned(program: str, folder: Path, lines: list[str]) -> list[str]:
    """Whom fail2ban finds in a log of these lines, by the filter of the docs."""
    log = folder / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    command = [program, "--out", "<ip>", str(log), str(filter_of_the_docs(folder))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()
