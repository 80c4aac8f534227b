"""The filter in the docs, by fail2ban itself: it bans who guesses, and nobody whom a guesser names."""

import re
import subprocess
from pathlib import Path

import pytest
from checker import Checker
from mailhome import CLIENT, CONTROL, lay_home, talk
from support import ROOT, peer
from test_checkpassword import JOE, plain

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
    log = tmp_path / "log"
    log.write_text("".join(f"{stamp}{line}\n" for line in lines))
    command = [program, "--out", "<ip>", str(log), str(filter_of_the_docs(tmp_path))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    # three guesses; the fourth AUTH, though right, is one too many for control/maxauth
    assert found.stdout.split() == ["192.0.2.1"] * 4, (found.stdout, found.stderr)
