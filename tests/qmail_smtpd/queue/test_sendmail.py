"""sendmail-queue: what sendmail gets, each exit code, and that no failure counts as success.

The sendmail here is a stand-in that records its input; test_sendmail_postfix.py uses a real one.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys

import pytest

from qmail_smtpd.queue.sendmail import SENDMAIL
from tests.kit.mailhome import MESSAGE as SESSION
from tests.kit.mailhome import make_home, talk
from tests.kit.relaytricks import TRICKS
from tests.kit.server import with_files
from tests.kit.support import peer, script

PROGRAM = script("sendmail-queue")
MESSAGE = b"Received: from somewhere\n  by here\nSubject: test\n\n.\nbody\n"
ENVELOPE = b"Fsender@example.com\0Tone@example.com\0Ttwo@example.net\0\0"

STAND_IN = """#!{python} -IS
import json, os, signal, sys
message = b""
while block := os.read(0, 65536):
    message += block
descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
ignored = next(line for line in open("/proc/self/status") if line.startswith("SigIgn:"))
blocked = next(line for line in open("/proc/self/status") if line.startswith("SigBlk:"))
facts = dict(argv=[os.fsencode(word).decode("latin-1") for word in sys.argv[1:]], message=message.decode("latin-1"),
             descriptors=[number for number in descriptors if os.path.exists("/proc/self/fd/" + str(number))],
             stdout=os.readlink("/proc/self/fd/1"), stderr=os.readlink("/proc/self/fd/2"),
             ignored=int(ignored.split()[1], 16), blocked=int(blocked.split()[1], 16), environ=sorted(os.environ))
with open({calls!r}, "a") as file:
    print(json.dumps(facts), file=file)
{end}
"""


class Mailer:
    """A stand-in for sendmail that records each call and then runs a statement."""

    def __init__(self, directory):
        self.path = directory / "sendmail"
        self.log = directory / "calls"
        self.end_with("")

    def end_with(self, statement):
        self.path.write_text(STAND_IN.format(python=sys.executable, calls=str(self.log), end=statement))
        self.path.chmod(0o755)

    @property
    def calls(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def arguments(self):
        return [call["argv"] for call in self.calls]


@pytest.fixture
def mailer(tmp_path):
    return Mailer(tmp_path)


def queue(mailer, envelope=ENVELOPE, message=MESSAGE, wrapper=(), **changes):
    """Run sendmail-queue with files on both descriptors. `changes` to its environment: None unsets a variable."""
    environ = {"PATH": os.environ["PATH"], "SENDMAIL": str(mailer.path)} | changes
    environ = {key: value for key, value in environ.items() if value is not None}
    files = []
    for content in (message, envelope):
        files.append(os.memfd_create("input"))
        os.pwrite(files[-1], content, 0)
    try:
        return subprocess.run(
            [*wrapper, PROGRAM],
            stdin=files[0],
            stdout=files[1],
            stderr=subprocess.PIPE,
            env=environ,
            cwd=mailer.path.parent,
        )
    finally:
        for descriptor in files:
            os.close(descriptor)


# what sendmail gets


def test_sendmail_gets_sender_recipients_and_the_message_to_the_byte(mailer):
    result = queue(mailer)
    assert (result.returncode, result.stderr) == (0, b"")
    (call,) = mailer.calls
    assert call["argv"] == ["-i", "-f", "sender@example.com", "--", "one@example.com", "two@example.net"]
    assert call["message"].encode("latin-1") == MESSAGE


@pytest.mark.parametrize("message", [b"", b"no line end", bytes(range(256)), random.Random(1).randbytes(3_000_000)])
def test_any_message_arrives_to_the_byte(mailer, message):
    assert queue(mailer, message=message).returncode == 0
    assert mailer.calls[0]["message"].encode("latin-1") == message


@pytest.mark.parametrize(
    ("sender", "text"),
    [
        (b"", "<>"),
        (b"user@example.com", "user@example.com"),
        (b"-bs@example.com", "-bs@example.com"),
        (b"a b@example.com", '"a b"@example.com'),
        (b"a@b@example.com", '"a@b"@example.com'),
        (b"root", "root"),
    ],
)
def test_the_sender_is_one_argument(mailer, sender, text):
    assert queue(mailer, b"F" + sender + b"\0Tone@example.com\0\0").returncode == 0
    assert mailer.arguments == [["-i", "-f", text, "--", "one@example.com"]]


@pytest.mark.parametrize(
    ("recipient", "text"),
    [
        (b"a,b@example.com", '"a,b"@example.com'),
        (b"a b@example.com", '"a b"@example.com'),
        (b"(a)@example.com", '"(a)"@example.com'),
        (b'a"b@example.com', '"a\\"b"@example.com'),
        (b"postmaster", "postmaster"),
        (b"PostMaster", "PostMaster"),
    ],
)
def test_a_recipient_is_one_argument(mailer, recipient, text):
    assert queue(mailer, b"Fa@b\0T" + recipient + b"\0\0").returncode == 0
    assert mailer.arguments == [["-i", "-f", "a@b", "--", text]]


def test_a_long_list_is_split_in_order(mailer):
    recipients = [b"recipient-with-a-long-name-%d@example.com" % number for number in range(10_000)]
    envelope = b"Fa@b\0" + b"".join(b"T" + recipient + b"\0" for recipient in recipients) + b"\0"
    assert queue(mailer, envelope).returncode == 0
    assert len(mailer.calls) > 1
    assert {call["message"].encode("latin-1") for call in mailer.calls} == {MESSAGE}
    assert [word.encode() for words in mailer.arguments for word in words[4:]] == recipients


def test_a_long_list_is_split_into_parts_that_exec_accepts_with_a_small_stack(mailer):
    recipients = b"".join(b"Tx%d@example.com\0" % number for number in range(10_000))
    wrapper = ["sh", "-c", 'ulimit -s 512; exec "$0"']  # the stack limit bounds the arguments that exec accepts
    assert queue(mailer, b"Fa@b\0" + recipients + b"\0", wrapper=wrapper).returncode == 0


def test_without_recipients_sendmail_is_not_run(mailer):
    assert queue(mailer, b"Fa@b\0\0").returncode == 0
    assert mailer.calls == []


def test_sendmail_inherits_nothing_of_a_session(mailer):
    # 6 is the session's pipe for an error text: a mailer that stays in the background would keep the session waiting
    wrapper = ["sh", "-c", 'exec "$0" 6>/dev/null']
    assert queue(mailer, wrapper=wrapper, QMAILQUEUE=PROGRAM, RELAYCLIENT="", TCPREMOTEIP="192.0.2.1").returncode == 0
    (call,) = mailer.calls
    assert call["descriptors"] == [0, 1, 2]
    assert call["stdout"] == "/dev/null"
    assert "QMAILQUEUE" not in call["environ"]  # qmail's own sendmail would run sendmail-queue again
    assert "TCPREMOTEIP" in call["environ"]


def test_sendmail_starts_with_no_signal_ignored_or_blocked(mailer):
    assert queue(mailer).returncode == 0
    (call,) = mailer.calls
    python = {signal.SIGPIPE, signal.SIGXFSZ}  # the stand-in's own interpreter ignores them
    ordinary = (1 << 31) - 1  # glibc keeps 32 and 33 for itself
    assert call["ignored"] & ordinary & ~sum(1 << (number - 1) for number in python) == 0
    assert call["blocked"] == 0


def test_sendmail_does_not_inherit_a_socket_on_descriptor_2(mailer):
    mailer.end_with("os.write(2, b'sendmail: fatal: something')\nos._exit(75)")
    client, server = socket.socketpair()
    envelope = os.memfd_create("envelope")
    os.pwrite(envelope, ENVELOPE, 0)
    environ = {"SENDMAIL": str(mailer.path)}
    result = subprocess.run([PROGRAM], stdin=subprocess.DEVNULL, stdout=envelope, stderr=server, env=environ)
    server.close()
    assert result.returncode == 71
    assert client.recv(1000) == b""
    assert mailer.calls[0]["stderr"] == "/dev/null"
    client.close()


def test_without_the_variable_usr_sbin_sendmail_is_run(mailer):
    assert SENDMAIL == b"/usr/sbin/sendmail"
    if os.path.exists(SENDMAIL):
        if os.geteuid():
            pytest.skip("only root can replace this host's sendmail in a mount namespace")
        assert queue(mailer, wrapper=with_files({os.fsdecode(SENDMAIL): mailer.path}), SENDMAIL=None).returncode == 0
        assert len(mailer.calls) == 1
    else:
        result = queue(mailer, SENDMAIL=None)
        assert result.returncode == 55
        assert result.stderr == b"sendmail-queue: fatal: unable to run /usr/sbin/sendmail: file does not exist\n"


# refusals


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize("beside", [b"", b"Tgood@example.com\0"])
def test_a_relay_trick_is_refused_without_running_sendmail(mailer, name, beside):
    result = queue(mailer, b"Fa@b\0" + beside + b"T" + TRICKS[name] + b"\0\0")
    assert result.returncode == 31
    assert result.stderr.startswith(b"sendmail-queue: fatal: a recipient c")
    assert mailer.calls == []


# the file behind all links; nullmailer is recognised by a file beside its sendmail
LOSES_QUOTES = {
    "msmtp": "usr/bin/msmtp",
    "OpenSMTPD": "usr/sbin/smtpctl",
    "ssmtp": "usr/sbin/ssmtp",
    "dma": "usr/sbin/dma",
    "nullmailer": "usr/bin/nullmailer-inject",
}


@pytest.fixture(params=LOSES_QUOTES)
def lossy(mailer, tmp_path, request):
    """A stand-in, installed as a sendmail that loses quotes."""
    beside = tmp_path / LOSES_QUOTES[request.param]
    for directory in ("usr/bin", "usr/sbin"):
        (tmp_path / directory).mkdir(parents=True)
    installed = tmp_path / "usr/sbin/sendmail"
    if request.param == "nullmailer":
        mailer.path.rename(installed)
        beside.touch()
    else:
        mailer.path.rename(beside)
        installed.symlink_to(beside)
    mailer.path = installed
    return mailer


@pytest.mark.parametrize("recipient", [b"a,b@example.com", b"a b@example.com", b".a@example.com", b'a"b@example.com'])
def test_a_recipient_whose_quotes_sendmail_is_known_to_lose_is_refused(lossy, recipient):
    result = queue(lossy, b"Fa@b\0Tgood@example.com\0T" + recipient + b"\0\0")
    words = b"sendmail-queue: fatal: a recipient needs quotes, which are lost by %b\n" % bytes(lossy.path)
    assert (result.returncode, result.stderr) == (31, words)
    assert lossy.calls == []


def test_other_recipients_reach_a_sendmail_that_loses_quotes(lossy):
    assert queue(lossy, b"Fa b@c\0Ta.b+c/d|e@example.com\0Tpostmaster\0\0").returncode == 0
    assert lossy.arguments == [["-i", "-f", '"a b"@c', "--", "a.b+c/d|e@example.com", "postmaster"]]


@pytest.mark.parametrize("client", [{}, {"RELAYCLIENT": ""}])
@pytest.mark.parametrize("recipient", [b"-bs@example.com", b"-@example.com", b"-bs", b"--"])
def test_a_recipient_that_sendmail_could_read_as_an_option_is_refused(mailer, recipient, client):
    """Some sendmails read options even after `--`."""
    result = queue(mailer, b"Fa@b\0Tgood@example.com\0T" + recipient + b"\0\0", **client)
    assert result.returncode == 31
    assert mailer.calls == []


@pytest.mark.parametrize("sender", [b"\xfc@b", b"a@b,c", b"a\nb@c", b"@c", b"a@"])
def test_a_sender_that_cannot_be_an_argument_is_refused(mailer, sender):
    assert queue(mailer, b"F" + sender + b"\0Tone@example.com\0\0").returncode == 31
    assert mailer.calls == []


@pytest.mark.parametrize(
    ("recipient", "text"),
    [
        (b"victim%outside.example@example.com", "victim%outside.example@example.com"),
        (b"user@outside.example@relay", '"user@outside.example"@relay'),
        (b"root", "root"),
        (b"", None),
        (b"user@a,b", None),
        (b"\xfc@example.com", None),
    ],
)
def test_a_relay_client_may_route_but_may_not_merge_two_addresses(mailer, recipient, text):
    result = queue(mailer, b"Fa@b\0T" + recipient + b"\0\0", RELAYCLIENT="")
    assert result.returncode == (0 if text else 31)
    assert mailer.arguments == ([["-i", "-f", "a@b", "--", text]] if text else [])


def test_in_a_home_without_rcpthosts_only_relay_clients_and_postmaster_pass(mailer, tmp_path):
    (tmp_path / "control").mkdir()
    assert queue(mailer).returncode == 31
    assert queue(mailer, b"Fa@b\0Tpostmaster\0\0").returncode == 0
    assert queue(mailer, RELAYCLIENT="").returncode == 0
    (tmp_path / "control" / "rcpthosts").symlink_to("hosts")
    assert queue(mailer).returncode == 31
    (tmp_path / "control" / "hosts").write_text("example.com\n")
    assert queue(mailer).returncode == 0


@pytest.mark.parametrize(
    ("envelope", "status"), [(b"", 54), (b"Fa@b\0Tc@d\0", 54), (b"Ta@b\0\0", 54), (b"F" + b"x" * 1003 + b"\0\0", 11)]
)
def test_a_malformed_envelope_is_refused_without_running_sendmail(mailer, envelope, status):
    assert queue(mailer, envelope).returncode == status
    assert mailer.calls == []


# the exit codes of sendmail


SYSEXITS = {
    "EX_OK": (0, 0),
    "EX_USAGE": (64, 31),
    "EX_DATAERR": (65, 31),
    "EX_NOINPUT": (66, 71),
    "EX_NOUSER": (67, 31),
    "EX_NOHOST": (68, 71),
    "EX_UNAVAILABLE": (69, 71),
    "EX_SOFTWARE": (70, 81),
    "EX_OSERR": (71, 71),
    "EX_OSFILE": (72, 71),
    "EX_CANTCREAT": (73, 71),
    "EX_IOERR": (74, 71),
    "EX_TEMPFAIL": (75, 71),
    "EX_PROTOCOL": (76, 71),
    "EX_NOPERM": (77, 71),
    "EX_CONFIG": (78, 55),
    "any other": (1, 71),
    "not found by a shell": (127, 71),
    "the last": (255, 71),
}


@pytest.mark.parametrize("name", SYSEXITS)
def test_the_exit_code_of_sendmail_is_translated(mailer, name):
    code, status = SYSEXITS[name]
    mailer.end_with(f"os._exit({code})")
    result = queue(mailer)
    assert result.returncode == status
    assert result.stderr == (b"sendmail-queue: fatal: %b: exit code %d\n" % (bytes(mailer.path), code) if code else b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_sendmail_that_is_killed_is_81(mailer, number):
    mailer.end_with(f"os.kill(os.getpid(), {int(number)})")
    result = queue(mailer)
    assert result.returncode == 81
    assert result.stderr == b"sendmail-queue: fatal: %b: killed by signal %d\n" % (bytes(mailer.path), number)


def test_a_failure_for_one_part_of_a_split_list_is_a_failure(mailer):
    recipients = b"".join(b"Trecipient-with-a-long-name-%d@example.com\0" % number for number in range(10_000))
    mailer.end_with(f"os._exit(75 if len(open({str(mailer.log)!r}).readlines()) > 1 else 0)")
    assert queue(mailer, b"Fa@b\0" + recipients + b"\0").returncode == 71
    assert len(mailer.calls) == 2


def test_an_ignored_sigchld_does_not_turn_a_failure_into_success(mailer):
    mailer.end_with("os._exit(75)")
    wrapper = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(17, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    assert queue(mailer, wrapper=wrapper).returncode == 71


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", b"$SENDMAIL is empty"),
        ("/nonexistent/sendmail", b"unable to run /nonexistent/sendmail: file does not exist"),
        ("/", b"unable to run /: access denied"),
    ],
)
def test_a_sendmail_that_cannot_be_run_is_55(mailer, path, words):
    result = queue(mailer, SENDMAIL=path)
    assert (result.returncode, result.stderr) == (55, b"sendmail-queue: fatal: " + words + b"\n")


def test_without_a_usable_temporary_directory_memory_is_used(mailer):
    assert queue(mailer, TMPDIR="/nonexistent").returncode == 0
    assert mailer.calls[0]["message"].encode("latin-1") == MESSAGE


@pytest.mark.peer
def test_a_message_that_can_be_stored_nowhere_is_53(mailer):
    wrapper = [peer("/usr/bin/strace"), "-o", "/dev/null", "-e", "inject=memfd_create:error=ENFILE"]
    result = queue(mailer, wrapper=wrapper, TMPDIR="/nonexistent")
    assert result.returncode == 53
    assert result.stderr.startswith(b"sendmail-queue: fatal: unable to create a file for the message: ")
    assert mailer.calls == []


def test_a_variable_without_a_name_is_not_passed_on(mailer):
    assert queue(mailer, wrapper=["env", "=nameless"]).returncode == 0
    assert "" not in mailer.calls[0]["environ"]


# run by qmail-smtpd


@pytest.mark.parametrize(
    ("code", "reply"), [(0, "250"), (75, "451"), (69, "451"), (65, "554"), (67, "554"), (70, "451"), (1, "451")]
)
def test_the_reply_to_a_client_follows_the_exit_code_of_sendmail(mailer, tmp_path, code, reply):
    mailer.end_with(f"os._exit({code})")
    home = make_home(tmp_path / "home")
    result = talk(home, SESSION, {"QMAILQUEUE": PROGRAM, "SENDMAIL": str(mailer.path), "TCPREMOTEIP": "192.0.2.1"})
    assert result.codes[-1] == reply
    (call,) = mailer.calls
    assert call["argv"] == ["-i", "-f", "s@sender.test", "--", "u@example.com"]
    assert call["message"].endswith("\nSubject: t\n\nhello\n")


def test_a_relay_trick_that_rcpthosts_accepts_gets_554(mailer, tmp_path):
    home = make_home(tmp_path / "home")
    text = SESSION.replace("<u@example.com>", '<"victim@outside.example,"@example.com>')
    result = talk(home, text, {"QMAILQUEUE": PROGRAM, "SENDMAIL": str(mailer.path), "TCPREMOTEIP": "192.0.2.1"})
    assert result.codes[-3:] == ["250", "354", "554"]
    assert mailer.calls == []


def test_a_session_without_rcpthosts_relays_nothing_through_sendmail(mailer, tmp_path):
    home = make_home(tmp_path / "home", {"me": "mx.example.org\n"})
    result = talk(home, SESSION, {"QMAILQUEUE": PROGRAM, "SENDMAIL": str(mailer.path), "TCPREMOTEIP": "192.0.2.1"})
    assert result.codes[-1] == "554"
    assert mailer.calls == []
