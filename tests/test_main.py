"""qmail-smtpd as a process: pipes, descriptors, signals, what is inherited, and what a queue in trouble is answered."""

import os
import subprocess
from pathlib import Path

import pytest
from mailhome import CLIENT, MESSAGE, lay_home, start, talk
from support import script


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lay_home(tmp_path / "home")


def test_a_session_through_a_shell_pipe(home: Path) -> None:
    command = f"printf 'EHLO me\\r\\nQUIT\\r\\n' | TCPREMOTEIP=192.0.2.1 QMAILHOME={home} {script('qmail-smtpd')}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    wanted = b"220 mx.example.org ESMTP|250-mx.example.org|250-PIPELINING|250 8BITMIME|221 mx.example.org|"
    assert done.stdout == wanted.replace(b"|", b"\r\n")


def test_line_feeds_alone_end_commands_but_no_message(home: Path) -> None:
    commands = "EHLO me\nMAIL FROM:<a@b>\nRCPT TO:<u@example.com>\nDATA\n"
    assert talk(home, commands + "hello\r\n.\r\nQUIT\n").codes[-2:] == ["250", "221"]
    refused = talk(home, commands + "hello\n.\nQUIT\n")
    assert refused.codes[-2:] == ["354", "451"]
    assert [envelope.endswith(b"\0\0") for _, envelope in refused.queue] == [True, False]


def test_everything_pipelined_in_one_write(home: Path) -> None:
    result = talk(home, "EHLO me\r\n" + MESSAGE * 3 + "RSET\r\nNOOP\r\nQUIT\r\n")
    assert result.codes == ["220", "250-", "250-", "250", *["250", "250", "354", "250"] * 3, "250", "250", "221"]
    assert [envelope for _, envelope in result.queue] == [b"Fs@sender.test\0Tu@example.com\0\0"] * 3
    assert result.status == 0


def test_replies_come_one_by_one_to_a_client_that_waits_for_them(home: Path) -> None:
    process = start(home, bufsize=0)
    assert process.stdin
    assert process.stdout
    for line, reply in (("", b"220 "), ("EHLO\n", b"250-"), (MESSAGE[:25] + "\n", b"250 "), ("QUIT\n", b"221 ")):
        process.stdin.write(line.encode())
        assert os.read(process.stdout.fileno(), 65536).startswith(reply)
    assert process.wait(10) == 0
    process.stdin.close(), process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]


def test_the_queue_inherits_the_environment_and_nothing_hidden(home: Path) -> None:
    report = home / "report"
    program = home / "bin/spy"
    program.write_text(f"#!/bin/sh\nls /proc/self/fd > {report}\necho $SECRET >> {report}\ncat >/dev/null\nexit 31\n")
    program.chmod(0o755)
    result = talk(home, MESSAGE, {**CLIENT, "QMAILQUEUE": str(program), "SECRET": "inherited"})
    assert result.codes[-1] == "554"
    *descriptors, secret = report.read_text().split()
    # ls has its own for the directory; one more is the test's, which waits for all processes of the session
    assert set(descriptors) >= {"0", "1", "2", "6"}
    assert len(descriptors) <= 6
    assert secret == "inherited"
