"""sendmail-queue and addresses of UTF-8: only with control/smtputf8, and only for a sendmail that offers SMTPUTF8."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from qmail_smtpd.queue.capability import offers_smtputf8
from qmail_smtpd.smtp.mailbox import utf8_mailbox
from tests.kit.server import PATIENCE, room_for
from tests.kit.support import peer, script

STAND_IN = """#!{python} -IS
import os, sys
if sys.argv[1:] == ["-bs"]:
    {answer}
else:
    os.read(0, 65536)
    with open("calls", "ab") as file:
        file.write(b" ".join(map(os.fsencode, sys.argv[1:])) + b"\\n")
"""
OFFERS = "print('220 x\\\\r\\\\n250-x\\\\r\\\\n250-SIZE 1\\\\r\\\\n250 SMTPUTF8\\\\r\\\\n221 x')".replace("\\\\", "\\")
ENVELOPE = "Fjürgen@s.test\0Tü.x@münchen.test\0\0".encode()


def queue(home: Path, answer: str, envelope: bytes = ENVELOPE, utf8: bool = True, mode: int = 0o755) -> int:
    """Run sendmail-queue with a sendmail whose -bs runs this statement. Return its exit code."""
    (home / "control").mkdir(exist_ok=True)
    (home / "control/rcpthosts").touch()
    if utf8:
        (home / "control/smtputf8").touch()
    sendmail = home / "sendmail"
    sendmail.write_text(STAND_IN.format(python=sys.executable, answer=answer))
    sendmail.chmod(mode)
    files = []
    for content in (b"text\n", envelope):
        files.append(os.memfd_create("input"))
        os.pwrite(files[-1], content, 0)
    environ = {"PATH": os.environ["PATH"], "SENDMAIL": str(sendmail)}
    done = subprocess.run([script("sendmail-queue")], stdin=files[0], stdout=files[1], env=environ, cwd=home)
    for descriptor in files:
        os.close(descriptor)
    return done.returncode


def test_a_sendmail_that_offers_smtputf8_gets_the_addresses_as_they_are(tmp_path: Path) -> None:
    assert queue(tmp_path, OFFERS) == 0
    assert (tmp_path / "calls").read_text() == "-i -f jürgen@s.test -- ü.x@münchen.test\n"


@pytest.mark.parametrize(
    "answer", [OFFERS.replace("SMTPUTF8", "8BITMIME"), "pass", "sys.exit(64)", "print('x' * 99999)"]
)
def test_any_other_sendmail_does_not_get_the_message(tmp_path: Path, answer: str) -> None:
    assert queue(tmp_path, answer) == 31
    assert not (tmp_path / "calls").exists()


def test_a_sendmail_that_cannot_be_started_is_no_refusal(tmp_path: Path) -> None:
    assert queue(tmp_path, OFFERS, mode=0o644) == 55
    with room_for(0), pytest.raises(OSError, match="Too many open files"):
        offers_smtputf8(b"/bin/true", monotonic() + PATIENCE)


def test_without_the_control_file_an_address_of_8_bits_is_refused(tmp_path: Path) -> None:
    assert queue(tmp_path, OFFERS, utf8=False) == 31
    assert not (tmp_path / "calls").exists()


def test_a_sendmail_is_not_asked_about_ascii_addresses(tmp_path: Path) -> None:
    assert queue(tmp_path, "open('asked', 'w')", b"Fs@s.test\0Tu@u.test\0\0") == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("address", ["ü@x.test", "a.ü+b@münchen.test", "用户@例子.广告", "u@ü.test", "e\u0301@x.test"])
def test_an_address_of_letters_is_one_argument(address: str) -> None:
    assert utf8_mailbox(address.encode()) == address.encode()


@pytest.mark.parametrize(
    "address",
    [
        *("ü", "ü@", "@ü.test", "ü b@x.test", "ü,b@x.test", "ü@x,ü.test", '"ü"@x.test', "ü@[1.2]", "..ü@x.test"),
        *("ü\uff0cb@x.test", "ü\u2028@x.test", "ü\x85@x.test", "ü\u200b@x.test", "ü@x\uff20y.test", "\u00a0@x.test"),
    ],
)
def test_a_character_that_a_mailer_may_read_otherwise_is_refused(address: str) -> None:
    assert utf8_mailbox(address.encode()) is None
    assert utf8_mailbox(address.encode() + b"\xff") is None


@pytest.mark.peer
def test_postfix_and_its_like_are_recognised_by_their_answer(tmp_path: Path) -> None:
    answer = subprocess.run(
        [peer("/usr/sbin/sendmail"), "-bs"], input=b"EHLO x\r\nQUIT\r\n", capture_output=True
    ).stdout
    assert offers_smtputf8(b"/usr/sbin/sendmail", monotonic() + 30) == (b"SMTPUTF8" in answer)
