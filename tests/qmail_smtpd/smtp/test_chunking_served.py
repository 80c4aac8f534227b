"""BDAT in whole sessions: memory, slow and silent clients, TLS that ends, queue programs, servers with workers."""

import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, start, talk
from tests.kit.server import Server, children, until
from tests.kit.support import script, times
from tests.kit.tlspeer import Smtp, certify

MEMORY = 20_000  # kB, as for DATA
TRANSACTION = "MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@example.com>\r\n"
BEGIN = TRANSACTION.encode()
SLOW = "import qmail_smtpd.net.wire as w, qmail_smtpd.main as m; w.SLOW_SECONDS, w.SLOW_BYTES = 0.6, 10_000; m.main()"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "chunking": ""})


def test_chunking_is_offered_where_its_control_file_exists(home: Path) -> None:
    assert b"\r\n250 CHUNKING\r\n" in talk(home, "EHLO me\r\nQUIT\r\n").stdout
    (home / "control/chunking").unlink()
    assert b"CHUNKING" not in talk(home, "EHLO me\r\nQUIT\r\n").stdout


def test_a_message_with_bare_lfs_arrives_whole_and_its_last_line_gets_an_end(home: Path) -> None:
    text = "Subject: x\n\n.\nQUIT\n\r\nlast"
    result = talk(home, f"{TRANSACTION}BDAT {len(text)} LAST\r\n{text}QUIT\r\n")
    assert result.codes == ["220", "250", "250", "250", "221"]
    [(message, envelope)] = result.queue
    assert message.partition(b" -0000\n")[2] == b"Subject: x\n\n.\nQUIT\n\nlast\n"
    assert envelope == b"Fs@sender.test\0Tu@example.com\0\0"


def test_the_log_names_messages_in_chunks_as_those_of_data(home: Path) -> None:
    environ = {**CLIENT, "SMTPD_LOG": "all"}
    text = TRANSACTION + "BDAT 3\r\na\r\nRSET\r\n" + TRANSACTION + "BDAT 1 LAST\r\nxBDAT x\r\n"
    log = talk(home, text, environ).stderr
    assert b"event=aborted" in log
    assert b"recipients=1 bytes=2 reason=reset\n" in log
    assert b"event=queued" in log
    assert log.count(b"reason=chunk") == 2  # refused, end


def envelopes(home: Path) -> list[bytes]:
    """Return the envelopes that queue programs have got, once there is one: an abandoned one is not waited for."""
    until(lambda: list((home / "dump").glob("*.e")))
    return [file.read_bytes() for file in (home / "dump").glob("*.e")]


# Memory.


def peak_memory(home: Path, pieces: list[tuple[bytes, int]]) -> int:
    """Send each piece `count` times, and return the session's peak memory in kB."""
    (home / "bin/qmail-queue").write_text("#!/bin/sh\ncat >/dev/null\nexec cat <&1 >/dev/null\n")
    with open(home / "replies", "wb") as replies, open(home / "log", "wb") as log:
        process = start(home, stdout=replies, stderr=log)
        assert process.stdin
        for piece, count in [*pieces, (b"RSET\r\n", 1)]:
            for _ in range(count):
                process.stdin.write(piece)
        process.stdin.flush()
        until(lambda: (home / "replies").read_bytes().endswith(b"\r\n250 flushed\r\n") or process.poll() is not None)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.communicate(b"QUIT\r\n")
        assert process.returncode == 0
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.slow
def test_a_megabyte_in_chunks_of_ten_bytes_takes_little_memory(home: Path) -> None:
    chunks = b"BDAT 10\r\n12345678\r\n" * 1000
    assert peak_memory(home, [(BEGIN, 1), (chunks, times(100)), (b"BDAT 0 LAST\r\n", 1)]) < MEMORY
    assert (home / "replies").read_bytes().count(b"250 ok\r\n") == 2 + times(100_000)


@pytest.mark.parametrize("block", [b"x" * 100_000, b"\r\n" * 50_000, b"\r" * 100_000, b"Received:" + b"x" * 99_991])
def test_no_pattern_in_a_chunk_takes_much_memory(home: Path, block: bytes) -> None:
    count = times(300)
    assert peak_memory(home, [(BEGIN, 1), (b"BDAT %d LAST\r\n" % (len(block) * count), 1), (block, count)]) < MEMORY


def test_a_chunk_that_is_refused_takes_little_memory(home: Path) -> None:
    assert peak_memory(home, [(b"BDAT 30000000\r\n", 1), (b"x" * 100_000, 300)]) < MEMORY
    assert b"503 MAIL first (#5.5.1)\r\n250 flushed" in (home / "replies").read_bytes()


# Time.


def slow_session(home: Path, first: bytes, piece: bytes) -> bytes:
    """Send pieces, with pauses, to a session that wants 10 kB in 0.6 seconds. Return the replies."""
    environ = {"QMAILHOME": str(home), "PATH": "/usr/bin:/bin", "SMTPD_LOG": "none"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", SLOW], env=environ, bufsize=0, **pipes)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(first)
        while process.poll() is None:
            process.stdin.write(piece)
            time.sleep(0.05)
    except BrokenPipeError:
        pass
    return process.communicate()[0]


@pytest.mark.parametrize(
    ("first", "piece"),
    [(BEGIN + b"BDAT 9999 LAST\r\n", b"x"), (BEGIN + b"BDAT 1\r\nx", b"BDAT 0\r\n"), (b"BDAT 9999\r\n", b"x")],
    ids=["within a chunk", "in empty chunks", "in a refused chunk"],
)
def test_a_message_in_chunks_that_is_too_slow_times_out(home: Path, first: bytes, piece: bytes) -> None:
    assert slow_session(home, first, piece).endswith(b"\r\n451 timeout (#4.4.2)\r\n")


@pytest.mark.parametrize("text", ["BDAT 9 LAST\r\nabc", "BDAT 3\r\nabc", "BDAT 3\r\nabcBDAT 3"])
def test_a_silent_client_times_out_in_a_message_in_chunks(home: Path, text: str) -> None:
    (home / "control/timeoutsmtpd").write_text("1\n")
    result = talk(home, TRANSACTION + text, hold=9)
    assert result.stdout.endswith(b"\r\n451 timeout (#4.4.2)\r\n")
    assert [envelope for _, envelope in result.queue] == [b""]


# The end of the connection, and of TLS.


@pytest.mark.parametrize("text", ["BDAT 9 LAST\r\nabc", "BDAT 3\r\nabc", "BDAT 3\r\nabcBDAT 3 LA", "BDAT 3 LAST\r\n"])
def test_a_client_that_is_gone_leaves_no_message(home: Path, text: str) -> None:
    result = talk(home, TRANSACTION + text)
    assert [envelope for _, envelope in result.queue] == [b""]
    assert b"event=aborted" in result.stderr


@pytest.mark.parametrize("how", ["close_notify", "end", "garbage"])
@pytest.mark.parametrize("text", [b"BDAT 9 LAST\r\nabc", b""], ids=["within a chunk", "between chunks"])
def test_tls_that_ends_in_a_message_in_chunks_leaves_no_message(home: Path, how: str, text: bytes) -> None:
    certificate, _ = certify(home / "control")
    with Smtp(home) as smtp:
        smtp.reply()
        smtp.ask("STARTTLS")
        smtp.secure(certificate)
        assert smtp.client
        for line in [*TRANSACTION.split("\r\n")[:-1], "BDAT 3\r\na"]:
            assert smtp.ask(line) == "250 ok"  # the queue program runs
        smtp.client.send(text)
        if how == "close_notify":
            with pytest.raises(ssl.SSLWantReadError):  # the server's own close_notify has not come
                smtp.client.tls.unwrap()
            smtp.put(smtp.client.outgoing.read())
        result = smtp.end(b"BDAT 6 LAST\r\n" if how == "garbage" else b"")
    assert envelopes(home) == [b""]
    assert (result.status, b"event=aborted" in result.stderr) == (1, True)


def test_chunks_that_were_sent_in_clear_are_not_in_a_message_under_tls(home: Path) -> None:
    certificate, _ = certify(home / "control")
    with Smtp(home) as smtp:
        smtp.reply()
        lines = TRANSACTION.split("\r\n")[:-1]
        assert [smtp.ask(line)[:3] for line in [*lines, "BDAT 7\r\nclear", "STARTTLS"]] == ["250", "250", "250", "220"]
        smtp.secure(certificate)
        assert [smtp.ask(line)[:3] for line in ["BDAT 0 LAST", *lines, "BDAT 4 LAST\r\nok"]] == ["503"] + ["250"] * 3
        result = smtp.end()
    messages = sorted(message.partition(b"-0000\n")[2] for message, envelope in result.queue if envelope)
    assert messages == [b"ok\n"]


# Queue programs and workers.


def test_rset_between_chunks_leaves_no_process_behind(home: Path) -> None:
    words = ["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")]
    with (
        Server(words, environ={"QMAILHOME": str(home)}) as server,
        server.connect() as client,
        client.makefile("rwb") as stream,
    ):
        stream.write((BEGIN + b"BDAT 1\r\nxRSET\r\n") * 20 + b"NOOP\r\n")
        stream.flush()
        replies = [stream.readline() for _ in range(1 + 4 * 20 + 1)]
        assert {line[:3] for line in replies[1:]} == {b"250"}
        assert not [child for worker in children(server.pid) for child in children(worker)]


@pytest.mark.parametrize("options", [[], ["--reuse", "1"], ["--exec"]])
def test_a_client_does_not_continue_the_message_of_the_one_before(home: Path, options: list[str]) -> None:
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        for _ in range(3):
            assert server.ask(BEGIN + b"BDAT 3\r\na\r\n").count(b"250") == 3
            assert b"503 MAIL first" in server.ask(b"BDAT 0 LAST\r\nQUIT\r\n")
            assert b"354 go ahead\r\n250 ok" in server.ask(MESSAGE.encode() + b"QUIT\r\n")
        until(lambda: len(list((home / "dump").glob("*.e"))) == 6)  # the programs that were abandoned end later
    bodies = {message.partition(b"-0000\n")[2] for message in (f.read_bytes() for f in (home / "dump").glob("*.m"))}
    assert len(bodies) == 2  # the other one was never completed
