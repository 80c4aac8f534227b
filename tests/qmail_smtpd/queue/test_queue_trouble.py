"""A failing queue program, or a client that disappears: the whole message is queued, or the client got no 250."""

import os
import shutil
import signal
import smtplib
import subprocess
import time
from pathlib import Path

import pytest

from qmail_smtpd.net.wire import SessionTimedOut
from qmail_smtpd.queue.client import QueueClient
from tests.kit.mailhome import CLIENT, MESSAGE, Result, make_home, start, talk
from tests.kit.server import PATIENCE, Server, room_for
from tests.kit.support import script

BEGIN = MESSAGE.partition("Subject")[0]
BIG = BEGIN + ("x" * 70 + "\r\n") * 20_000 + ".\r\n"  # larger than the capacity of a pipe
ENVELOPE = b"Fs@sender.test\0Tu@example.com\0\0"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


def reply(result: Result) -> bytes:
    """Return the reply to the final dot, or else to the last command."""
    return result.stdout.split(b"\r\n")[-2]


def write_queue(home: Path, text: str) -> None:
    (home / "bin/qmail-queue").write_text("#!/bin/sh\n" + text)


# The exit status.


# notqmail's qmail.c, written out. Any other status is permanent from 11 to 40, and temporary elsewhere.
STATUS_REPLIES: dict[tuple[int, ...], str] = {
    (0,): "250 ok {TIME} qp {PID}",
    (11, 115): "554 envelope address too long for qq (#5.1.3)",
    (31,): "554 mail server permanently rejected message (#5.3.0)",
    (51,): "451 qq out of memory (#4.3.0)",
    (52,): "451 qq timeout (#4.3.0)",
    (53,): "451 qq write error or disk full (#4.3.0)",
    (54,): "451 qq read error (#4.3.0)",
    (55,): "451 qq unable to read configuration (#4.3.0)",
    (56,): "451 qq trouble making network connection (#4.3.0)",
    (61,): "451 qq trouble in home directory (#4.3.0)",
    (62, 63, 64, 65, 66): "451 qq trouble creating files in queue (#4.3.0)",
    (71,): "451 mail server temporarily rejected message (#4.3.0)",
    (72,): "451 connection to mail server timed out (#4.4.1)",
    (73,): "451 connection to mail server rejected (#4.4.1)",
    (74,): "451 communication with mail server failed (#4.4.2)",
    (81, 91): "451 qq internal bug (#4.3.0)",
    (120,): "451 unable to exec qq (#4.3.0)",
}
REPLIES = {status: text for statuses, text in STATUS_REPLIES.items() for status in statuses}


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_gets_its_reply(status: int, home: Path) -> None:
    write_queue(home, f"cat >/dev/null; cat <&1 >/dev/null; exit {status}\n")
    other = "554 qq permanent problem (#5.3.0)" if 11 <= status <= 40 else "451 qq temporary problem (#4.3.0)"
    assert reply(talk(home, MESSAGE)).decode() == REPLIES.get(status, other)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_program_is_reported_as_crashed(number: signal.Signals, home: Path) -> None:
    assert reply(talk(home, MESSAGE, {**CLIENT, "QQSIGNAL": str(int(number))})) == b"451 qq crashed (#4.3.0)"


def test_a_program_killed_while_it_reads_is_reported_as_crashed(home: Path) -> None:
    write_queue(home, f"echo $$ > {home}/pid\nexec cat >/dev/null\n")
    process = start(home, bufsize=0)
    assert process.stdin
    process.stdin.write(BIG[:-3].encode())
    while not (home / "pid").exists() or not (home / "pid").read_text():
        time.sleep(0.01)
    os.kill(int((home / "pid").read_text()), signal.SIGKILL)
    stdout, _ = process.communicate(BIG[-1000:].encode() + b"QUIT\r\n")
    assert stdout.endswith(b"\r\n451 qq crashed (#4.3.0)\r\n221 mx.example.org\r\n")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, b"451 qq read error (#4.3.0)"),
        (31, b"554 mail server permanently rejected message (#5.3.0)"),
        (53, b"451 qq write error or disk full (#4.3.0)"),
    ],
)
def test_a_program_that_exits_before_it_has_read_the_message(status: int, expected: bytes, home: Path) -> None:
    assert reply(talk(home, BIG, {**CLIENT, "QQMODE": "noread", "QQEXIT": str(status)})) == expected


def test_a_program_that_reads_the_message_but_no_envelope(home: Path) -> None:
    write_queue(home, "cat >/dev/null\nexec <&- 1<&-\nsleep 0.1\nexit 0\n")
    text = "MAIL FROM:<>\r\n" + "RCPT TO:<u@example.com>\r\n" * 9_000 + "DATA\r\n.\r\n"
    assert reply(talk(home, text)) == b"451 qq read error (#4.3.0)"


@pytest.mark.parametrize("text", ["", "\x7fELF garbage", "#!/nonexistent/interpreter\n"])
def test_a_program_that_cannot_be_run(text: str, home: Path) -> None:
    (home / "bin/qmail-queue").write_text(text)
    result = talk(home, MESSAGE + "QUIT\r\n")
    assert result.stdout.endswith(b"354 go ahead\r\n451 unable to exec qq (#4.3.0)\r\n221 mx.example.org\r\n")


def test_a_program_without_permission_to_run(home: Path) -> None:
    (home / "bin/qmail-queue").chmod(0o644)
    assert reply(talk(home, MESSAGE)) == b"451 unable to exec qq (#4.3.0)"


def test_no_descriptors_for_pipes(home: Path) -> None:
    command = ["sh", "-c", f"ulimit -n 6; exec {script('qmail-smtpd')}"]
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    done = subprocess.run(command, input=MESSAGE.encode(), env=environ, capture_output=True, check=False)
    assert b"\r\n451 qqt failure (#4.3.0)\r\n" in done.stdout
    assert b"354" not in done.stdout


def test_without_a_descriptor_for_the_process_its_end_is_awaited_all_the_same(home: Path) -> None:
    """With a deadline, a refused message is not waited for without end."""
    program = home / "bin/qmail-queue"
    write_queue(home, "cat >/dev/null; sleep 0.05; exit 54\n")
    client = QueueClient(bytes(program), dict(os.environb), time.monotonic() + PATIENCE)
    with room_for(0):
        assert client.close(None) == b"451 qq read error (#4.3.0)"
    write_queue(home, "exec sleep 1000 <&- 1<&- 6>&-\n")
    client = QueueClient(bytes(program), dict(os.environb), time.monotonic() + 0.2)
    with room_for(0), pytest.raises(SessionTimedOut):
        client.close(None)
    os.kill(client.pid, signal.SIGKILL)
    os.waitpid(client.pid, 0)


# The error text on descriptor 6.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dno thanks (#5.7.1)", b"554 no thanks (#5.7.1)"),
        ("Ztry later (#4.7.1)", b"451 try later (#4.7.1)"),
        ("?whatever", b"451 whatever"),
        ("Dx", b"451 qq temporary problem (#4.3.0)"),
        ("Dab\tc\\d", b"554 ab\tc\\d"),
        ("Da\r250 ok\x1b[2J\x7f", b"554 a?250 ok?[2J?"),
        ("Dno\n", b"554 no"),
        ("Dno\r\n\n", b"554 no"),
        ("Zno\n250 ok\r\n\r\nlater", b"451 no 250 ok later"),
        ("D\nno", b"554 no"),
        ("D\n\n", b"554 "),
        ("\nDno", b"451 Dno"),
        ("Da\x0b\x0c\x85b", b"554 a??\x85b"),
        ("D" + "x" * 400, b"554 " + b"x" * 254),
    ],
)
def test_the_error_text_of_a_program_that_exits_with_82_is_the_reply(text: str, expected: bytes, home: Path) -> None:
    assert reply(talk(home, MESSAGE, {**CLIENT, "QQEXIT": "82", "QQERR": text})) == expected


def test_smtplib_reads_one_reply_whatever_the_error_text_contains(home: Path) -> None:
    """It reads a line up to an LF, so that a bare one shifts the replies to all later commands."""
    write_queue(home, "cat >/dev/null\nprintf 'Dno\\n250 accepted\\n' >&6\nexit 82\n")
    words = ["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")]
    server = Server(words, environ={"QMAILHOME": str(home)})
    with server, smtplib.SMTP("127.0.0.1", server.port, "client.test") as client:
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail("s@sender.test", ["u@example.com"], "Subject: t\r\n\r\nhello\r\n")
        assert caught.value.args == (554, b"no 250 accepted")
        assert client.docmd("VRFY", "x")[0] == 252


def test_the_error_text_ends_at_a_nul(home: Path) -> None:
    write_queue(home, "cat >/dev/null\nprintf 'Dhello\\0world' >&6\nexit 82\n")
    assert reply(talk(home, MESSAGE)) == b"554 hello"


def test_the_error_text_is_ignored_with_any_other_status(home: Path) -> None:
    assert reply(talk(home, MESSAGE, {**CLIENT, "QQEXIT": "53", "QQERR": "Dno"})).startswith(b"451 qq write error")
    assert reply(talk(home, MESSAGE, {**CLIENT, "QQERR": "Dno"})).startswith(b"250 ok")


# Signals that are inherited as ignored.


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ({"QQEXIT": "53"}, b"451 qq write error or disk full (#4.3.0)"),
        ({"QQSIGNAL": "9"}, b"451 qq crashed (#4.3.0)"),
        ({}, b"250 ok {TIME} qp {PID}"),
    ],
)
def test_an_ignored_sigchld_does_not_lose_the_status_of_the_queue(
    orders: dict[str, str], expected: bytes, home: Path
) -> None:
    command = ["sh", "-c", f"trap '' CHLD; exec {script('qmail-smtpd')}"]
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), **orders}
    done = subprocess.run(command, input=MESSAGE.encode(), env=environ, capture_output=True, check=False)
    assert reply(Result(done.stdout, done.stderr, done.returncode, home)) == expected


def test_sigpipe_stays_ignored_in_the_queue_and_sigxfsz_does_not(home: Path) -> None:
    write_queue(home, f"cat >/dev/null; grep SigIgn /proc/self/status > {home}/ignored; exit 0\n")
    talk(home, MESSAGE)
    ignored = int((home / "ignored").read_text().split()[1], 16) & 0x7FFFFFFF  # glibc's spawn ignores its own 32 and 33
    assert ignored == 1 << (signal.SIGPIPE - 1)


# The disk.


def test_a_full_disk_is_451_and_leaves_nothing(home: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not available")
    disk = home / "disk"
    disk.mkdir()
    report = f"mount -t tmpfs -o size=256k none {disk} && {script('qmail-smtpd')}; find {disk} -type f"
    environ = {
        "PATH": os.environ["PATH"],
        "QMAILHOME": str(home),
        "QMAILQUEUE": script("maildir-queue"),
        "QUEUE_MAILDIR": f"{disk}/Maildir",
    }
    text = (BIG + MESSAGE + "QUIT\r\n").encode()
    done = subprocess.run([*namespace, "sh", "-c", report], input=text, env=environ, capture_output=True, check=True)
    *replies, stored, rest = done.stdout.replace(b"\r", b"").split(b"\n")
    assert replies[4] == b"451 qq write error or disk full (#4.3.0)"
    assert [line[:3] for line in replies[-5:]] == [b"250", b"250", b"354", b"250", b"221"]
    assert stored.startswith(f"{disk}/Maildir/new/".encode())  # the second message, which fitted
    assert rest == b""


# A client that disappears: nothing is queued before its final dot; after it the message is, even if no reply is read.


@pytest.mark.parametrize("length", range(1, len(MESSAGE) + 1))
def test_a_client_that_disconnects_after_any_number_of_bytes(length: int, home: Path) -> None:
    result = talk(home, MESSAGE[:length])
    whole = [envelope for _, envelope in result.queue if envelope.endswith(b"\0\0")]
    assert whole == ([ENVELOPE] if length == len(MESSAGE) else [])
    assert (b"{PID}" in result.stdout) == (length == len(MESSAGE))
    assert result.status == 1


def test_a_client_that_closes_the_connection_after_its_dot_has_queued_the_message(home: Path) -> None:
    process = start(home, stdout=subprocess.DEVNULL)
    process.communicate(MESSAGE.encode())
    assert [e for _, e in Result(b"", b"", 0, home).queue] == [ENVELOPE]


def test_a_client_that_pipelines_and_reads_no_reply_has_queued_the_message(home: Path) -> None:
    process = start(home, bufsize=0)
    assert process.stdin
    assert process.stdout
    os.read(process.stdout.fileno(), 100)
    process.stdout.close()
    process.stdin.write(b"NOOP\r\n" + MESSAGE.encode())
    process.stdin.close()
    assert process.wait() == 1
    process.stderr.close()  # type: ignore[union-attr]
    assert [e for _, e in Result(b"", b"", 0, home).queue] == [ENVELOPE]


def test_a_client_that_stops_reading_ends_the_session(home: Path) -> None:
    process = start(home, bufsize=0)
    assert process.stdin
    assert process.stdout
    process.stdout.close()
    process.stdin.write(MESSAGE.encode() * 50)
    process.stdin.close()
    assert process.wait() == 1
    process.stderr.close()  # type: ignore[union-attr]
    assert all(envelope == ENVELOPE for _, envelope in Result(b"", b"", 0, home).queue)


def test_a_killed_session_queues_nothing(home: Path) -> None:
    process = start(home, bufsize=0)
    assert process.stdin
    assert process.stdout
    process.stdin.write(BIG[:-3].encode())
    while b"354" not in os.read(process.stdout.fileno(), 65536):
        pass
    process.kill()
    process.communicate()
    while not list((home / "dump").glob("*.e")):
        time.sleep(0.01)
    time.sleep(0.1)  # the queue program writes the message first, then the envelope
    assert [envelope for _, envelope in Result(b"", b"", 0, home).queue] == [b""]
