"""sendmail-queue with a real Postfix: a separate instance that does not listen and delivers everything to one Maildir.

example.com is its own domain. Mail for any other domain stays in its queue, where the tests look for it.
"""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.relaytricks import TRICKS
from tests.kit.server import until
from tests.kit.support import peer, script

pytestmark = [pytest.mark.peer, pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")]

SENDMAIL = "/usr/sbin/sendmail"
PATIENCE = 60  # seconds to wait for a delivery
PAUSE = 0.05  # seconds

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
myhostname = mail.example.com
myorigin = example.com
mydestination = example.com
local_transport = virtual
local_recipient_maps =
virtual_mailbox_domains =
virtual_mailbox_base = {top}/mail
virtual_mailbox_maps = regexp:{top}/mailboxes
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
alias_maps =
defer_transports = smtp
"""

MASTER = """\
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
virtual unix - n n - - virtual
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
proxymap unix - - n - - proxymap
"""


class Postfix:
    """A running instance, with access to its delivered mail and to its queue."""

    def __init__(self, top):
        self.top = top
        self.environ = {"PATH": os.environ["PATH"], "MAIL_CONFIG": str(top / "conf")}
        owner = pwd.getpwnam("postfix")
        for name in ("conf", "queue", "data", "mail"):
            (top / name).mkdir()
        for name in ("data", "mail"):
            os.chown(top / name, owner.pw_uid, owner.pw_gid)
        (top / "mailboxes").write_text("/./ all/\n")
        (top / "conf" / "main.cf").write_text(MAIN.format(top=top, uid=owner.pw_uid))
        (top / "conf" / "master.cf").write_text(MASTER)

    def control(self, word):
        return subprocess.run(["postfix", "-c", self.top / "conf", word], capture_output=True, text=True)

    def settle(self):
        """Wait until only undeliverable mail is left. Return the recipients of that mail."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            dropped = list(self.top.glob("queue/maildrop/*"))  # checked first: mail moves from here to the queue
            result = subprocess.run(["postqueue", "-j"], env=self.environ, capture_output=True, text=True, check=True)
            messages = [json.loads(line) for line in result.stdout.splitlines()]
            if not dropped and all(message["queue_name"] == "deferred" for message in messages):
                return [recipient["address"] for message in messages for recipient in message["recipients"]]
            time.sleep(PAUSE)
        return pytest.fail((self.top / "log").read_text())

    def delivered(self):
        """Return (recipient, sender, text) of each delivered message, without the lines that delivery adds."""
        messages = []
        for path in self.top.glob("mail/all/new/*"):
            text = path.read_bytes()
            head, body = text.split(b"\n", 3)[:3], text.split(b"\n", 3)[3]
            facts = dict(line.split(b": ", 1) for line in head)
            messages.append((facts[b"Delivered-To"], facts[b"Return-Path"], body))
        return sorted(messages)

    def clear(self):
        subprocess.run(["postsuper", "-d", "ALL"], env=self.environ, capture_output=True, check=True)
        shutil.rmtree(self.top / "mail" / "all", ignore_errors=True)


@pytest.fixture(scope="module")
def instance():
    peer("/usr/sbin/postfix")
    top = Path(tempfile.mkdtemp(prefix="postfix-"))
    top.chmod(0o755)
    postfix = Postfix(top)
    started = postfix.control("start")
    assert started.returncode == 0, started.stderr
    until(lambda: "daemon started" in (top / "log").read_text())  # see tests/kit/peers/postfixserver.py
    yield postfix
    postfix.control("stop")
    shutil.rmtree(top)


@pytest.fixture
def postfix(instance):
    yield instance
    instance.settle()
    instance.clear()


MESSAGE = (
    b"""\
Received: from somewhere
  by here
From: someone@example.com
To: undisclosed-recipients:;
Date: Tue, 24 Nov 2026 00:00:00 +0000
Message-Id: <1@example.com>
Subject: test

.
..
From the beginning of a line
\xff\xfe 8 bit
"""
    + b"x" * 5000
)


def queue(postfix, envelope, message=MESSAGE, **changes):
    files = []
    for content in (message, envelope):
        files.append(os.memfd_create("input"))
        os.pwrite(files[-1], content, 0)
    environ = {**postfix.environ, "SENDMAIL": peer(SENDMAIL), **changes}
    command = [script("sendmail-queue")]
    result = subprocess.run(
        command, stdin=files[0], stdout=files[1], stderr=subprocess.PIPE, env=environ, cwd=postfix.top
    )
    for descriptor in files:
        os.close(descriptor)
    return result


def envelope(*recipients, sender=b"sender@elsewhere.example"):
    return b"F" + sender + b"\0" + b"".join(b"T" + recipient + b"\0" for recipient in recipients) + b"\0"


def test_every_recipient_gets_the_message_to_the_byte(postfix):
    recipients = [b"one@example.com", b"two+tag@example.com", b"Three@example.com"]
    assert queue(postfix, envelope(*recipients)).returncode == 0
    assert postfix.settle() == []
    delivered = postfix.delivered()
    assert [recipient for recipient, _, _ in delivered] == sorted(recipients)
    for _, sender, text in delivered:
        assert sender == b"<sender@elsewhere.example>"
        received, message = text.split(b"\nReceived: from somewhere\n", 1)
        assert received.startswith(b"Received: by mail.example.com (Postfix, from userid 0)\n")
        assert b"Received: from somewhere\n" + message == MESSAGE + b"\n"


def test_the_null_sender_stays_null(postfix):
    assert queue(postfix, envelope(b"one@example.com", sender=b"")).returncode == 0
    assert postfix.settle() == []
    assert [sender for _, sender, _ in postfix.delivered()] == [b"<>"]


def test_a_relay_client_reaches_other_domains(postfix):
    assert queue(postfix, envelope(b"one@elsewhere.example", b"two@example.com"), RELAYCLIENT="").returncode == 0
    assert postfix.settle() == ["one@elsewhere.example"]
    assert [recipient for recipient, _, _ in postfix.delivered()] == [b"two@example.com"]


def test_a_list_that_takes_two_calls_arrives_whole(postfix):
    recipients = [b"a-local-part-that-is-as-long-as-it-may-be-%04d@example.com" % number for number in range(1100)]
    assert queue(postfix, envelope(*recipients)).returncode == 0
    assert postfix.settle() == []
    assert [recipient for recipient, _, _ in postfix.delivered()] == recipients


# local parts that sendmail could read as several addresses, a comment, a group, a route or a program
AMBIGUOUS = [
    b"victim,user@example.com",
    b"victim, user@example.com",
    b",user@example.com",
    b"user,@example.com",
    b"(victim)user@example.com",
    b"user(victim)@example.com",
    b"<victim>@example.com",
    b"victim <user>@example.com",
    b"group:victim,user;@example.com",
    b"victim;user@example.com",
    b'user"victim@example.com',
    b'"@example.com',
    b"user\\@example.com",
    b"user victim@example.com",
    b" @example.com",
    b"|program@example.com",
    b"/tmp/file@example.com",
    b":include:/etc/passwd@example.com",
]


@pytest.mark.parametrize("recipient", AMBIGUOUS)
def test_an_ambiguous_recipient_stays_one_recipient(postfix, recipient):
    result = queue(postfix, envelope(recipient))
    assert result.returncode == 0, result.stderr
    held = postfix.settle()
    delivered = [unquoted(address) for address, _, _ in postfix.delivered()]
    # Postfix returns rejected mail to the sender, who is in another domain
    assert (delivered, held) in (([recipient], []), ([], ["sender@elsewhere.example"]))


def unquoted(address):
    if not address.startswith(b'"'):
        return address
    local, _, domain = address.rpartition(b"@")
    text, rest = bytearray(), iter(local[1:-1])
    for byte in rest:
        text.append(next(rest) if byte == ord("\\") else byte)
    return bytes(text) + b"@" + domain


@pytest.mark.parametrize("name", TRICKS)
def test_a_relay_trick_is_not_delivered(postfix, name):
    assert queue(postfix, envelope(TRICKS[name])).returncode == 31
    assert postfix.settle() == []
    assert postfix.delivered() == []


# what Postfix's sendmail does with some of the tricks if it is run directly: sendmail-queue prevents this
ROUTED = {
    "percent hack": "victim%outside.example@example.com",
    "percent hack in quotes": '"victim%outside.example"@example.com',
    "second at in quotes": '"victim@outside.example"@example.com',
    "bang path": "outside.example!victim@example.com",
    "two addresses": "victim@outside.example,user@example.com",
    "comma after an address": "victim@outside.example,@example.com",
    "comma in the domain": "victim@outside.example,x.example.com",
}


@pytest.mark.parametrize("name", ROUTED)
def test_a_local_postfix_alone_would_route_the_trick_onward(postfix, name):
    command = [SENDMAIL, "-i", "-f", "sender@example.com", "--", ROUTED[name]]
    subprocess.run(command, input=MESSAGE, env=postfix.environ, check=True)
    assert any(address.endswith("outside.example") for address in postfix.settle())


def test_a_session_of_qmail_smtpd_delivers_through_postfix(postfix, tmp_path):
    home = make_home(tmp_path / "home")
    environ = {**postfix.environ, "QMAILHOME": str(home), "QMAILQUEUE": script("sendmail-queue"), "SENDMAIL": SENDMAIL}
    session = (
        b"EHLO me\r\nMAIL FROM:<sender@elsewhere.example>\r\nRCPT TO:<one@example.com>\r\n"
        b'RCPT TO:<two@outside.example>\r\nRCPT TO:<"a,b"@example.com>\r\n'
        b"DATA\r\nSubject: t\r\n\r\n..\r\nhello\r\n.\r\nQUIT\r\n"
    )
    command = [script("qmail-smtpd")]
    result = subprocess.run(command, input=session, env=environ, capture_output=True, check=True)
    codes = [line[:3] for line in result.stdout.splitlines()]
    assert codes == [b"220", b"250", b"250", b"250", b"250", b"250", b"553", b"250", b"354", b"250", b"221"]
    assert postfix.settle() == []
    delivered = postfix.delivered()
    assert [recipient for recipient, _, _ in delivered] == [b'"a,b"@example.com', b"one@example.com"]
    assert all(text.endswith(b"\n\n.\nhello\n") for _, _, text in delivered)


def test_a_postfix_that_accepts_no_mail_is_a_failure(postfix, tmp_path):
    # its sendmail cannot read this configuration
    result = queue(postfix, envelope(b"one@example.com"), MAIL_CONFIG=str(tmp_path))
    assert result.returncode in (31, 71)
    assert postfix.delivered() == []
