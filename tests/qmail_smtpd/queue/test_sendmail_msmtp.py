"""sendmail-queue with a real msmtp and a failing smarthost: a temporary refusal never becomes a permanent one."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.peers.smarthost import CLOSE, GREETING, MESSAGE, Smarthost
from tests.kit.support import free_port, peer, script

pytestmark = pytest.mark.peer

MSMTP = "/usr/bin/msmtp"
MESSAGE_TEXT = b"Received: from somewhere\nFrom: sender@example.com\nSubject: test\n\nhello\n"
CONFIGURATION = """\
account default
host {host}
port {port}
tls off
timeout 20
{more}
"""
LOGIN = "auth plain\nuser joe\npassword secret\n"
QUEUED, REFUSED, LATER, NOT_CONFIGURED = 0, 31, 71, 55


def queue(home: Path, *recipients: str, port: int, host: str = "127.0.0.1", more: str = "") -> int:
    """Run sendmail-queue with an msmtp that is configured in `home`. Return the exit code."""
    (home / ".msmtprc").write_text(CONFIGURATION.format(host=host, port=port, more=more))
    (home / ".msmtprc").chmod(0o600)
    envelope = "Fsender@example.com\0" + "".join(f"T{recipient}\0" for recipient in recipients) + "\0"
    files = []
    for content in (MESSAGE_TEXT, envelope.encode()):
        files.append(os.memfd_create("input"))
        os.pwrite(files[-1], content, 0)
    environ = {"HOME": str(home), "SENDMAIL": peer(MSMTP), "RELAYCLIENT": ""}
    result = subprocess.run([script("sendmail-queue")], stdin=files[0], stdout=files[1], env=environ, cwd=home)
    for descriptor in files:
        os.close(descriptor)
    return result.returncode


FAILURES = {  # the smarthost's failure -> the result for the message
    "nothing": ({}, QUEUED),
    "a busy server": ({GREETING: "421 4.3.2 later"}, LATER),
    "a server that wants no mail": ({GREETING: "554 5.7.1 no"}, LATER),
    "450 to the sender": ({"MAIL": "450 4.7.1 later"}, LATER),
    "550 to the sender": ({"MAIL": "550 5.7.1 no"}, REFUSED),
    "greylisting": ({"RCPT": "450 4.2.0 greylisted"}, LATER),
    "451 to the recipient": ({"RCPT": "451 4.7.1 greylisted"}, LATER),
    "550 to the recipient": ({"RCPT": "550 5.1.1 no such user"}, REFUSED),
    "450 to the second recipient": ({"RCPT 2": "450 4.2.0 greylisted"}, LATER),
    "550 to the second recipient": ({"RCPT 2": "550 5.1.1 no such user"}, REFUSED),
    "451 to DATA": ({"DATA": "451 4.3.0 later"}, LATER),
    "554 to DATA": ({"DATA": "554 5.6.0 no"}, REFUSED),
    "451 to the message": ({MESSAGE: "451 4.3.0 later"}, LATER),
    "452 to the message": ({MESSAGE: "452 4.3.1 full"}, LATER),
    "554 to the message": ({MESSAGE: "554 5.6.0 no"}, LATER),  # msmtp exits with 69, as for 451
    "a connection that ends after RCPT": ({"RCPT": CLOSE}, LATER),
    "a connection that ends after the message": ({MESSAGE: CLOSE}, LATER),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_only_a_permanent_refusal_of_the_smarthost_is_permanent(tmp_path: Path, failure: str) -> None:
    replies, status = FAILURES[failure]
    with Smarthost(replies) as smarthost:
        assert queue(tmp_path, "one@far.example", "two@far.example", port=smarthost.port) == status


@pytest.mark.parametrize("reply", ["454 4.7.0 later", "535 5.7.8 no"])
def test_a_failed_login_at_the_smarthost_is_temporary(tmp_path: Path, reply: str) -> None:
    with Smarthost({"AUTH": reply}) as smarthost:
        assert queue(tmp_path, "one@far.example", port=smarthost.port, more=LOGIN) == LATER
    assert smarthost.commands[1].startswith("AUTH PLAIN")
    assert smarthost.recipients == []


def test_a_smarthost_that_cannot_be_reached_is_temporary(tmp_path: Path) -> None:
    assert queue(tmp_path, "one@far.example", port=free_port()) == LATER
    assert queue(tmp_path, "one@far.example", port=25, host="smarthost.invalid") == LATER


def test_a_broken_configuration_is_temporary(tmp_path: Path) -> None:
    assert queue(tmp_path, "one@far.example", port=25, more="what is this") == NOT_CONFIGURED


def test_recipients_reach_the_smarthost_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    kept = ["a+b@far.example", "a%b@far.example", "|a/b@far.example", "a@[192.0.2.1]"]
    with Smarthost({}) as smarthost:
        assert queue(tmp_path, *kept, port=smarthost.port) == QUEUED
        for lost in ("a,b@far.example", "a b@far.example", ".a@far.example", "a@b@far.example", "-bs@far.example"):
            assert queue(tmp_path, lost, port=smarthost.port) == REFUSED
    assert smarthost.recipients == [f"<{recipient}>" for recipient in kept]
