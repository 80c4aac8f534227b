"""The limits for one client: recipients, errors, time, memory. With real sessions and real input."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, start, talk
from tests.kit.support import times

MEMORY = 20_000  # kB
DISCARDING_QUEUE = "#!/bin/sh\ncat >/dev/null\nexec cat <&1 >/dev/null\n"
BEGIN = b"MAIL FROM:<a@b>\r\nRCPT TO:<u@example.com>\r\nDATA\r\n"


def home_with(tmp_path: Path, **control: object) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, **control})


def test_maxrcpt_limits_each_message_separately(tmp_path: Path) -> None:
    rcpt = "RCPT TO:<u@example.com>\r\n"
    text = "MAIL <a@b>\r\n" + rcpt * 4 + "DATA\r\n.\r\nMAIL <a@b>\r\n" + rcpt * 3 + "RCPT <u@evil.test>\r\nQUIT\r\n"
    result = talk(home_with(tmp_path, maxrcpt="3\n"), text)
    assert " ".join(result.codes) == "220 250 250 250 250 452 354 250 250 250 250 250 553 221"
    assert b"452 too many recipients (#4.5.3)\r\n" in result.stdout
    assert result.queue[0][1].count(b"T") == 3


def test_ten_thousand_recipients_are_accepted_by_default(tmp_path: Path) -> None:
    text = "MAIL <a@b>\r\n" + "".join(f"RCPT <u{i}@example.com>\r\n" for i in range(10_002)) + "DATA\r\n.\r\nQUIT\r\n"
    result = talk(home_with(tmp_path), text)
    assert result.codes == ["220", "250", *["250"] * 10_000, "452", "452", "354", "250", "221"]
    assert result.queue[0][1].count(b"\0") == 10_002


def test_the_command_after_maxerrors_failures_ends_the_session(tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, maxerrors="2\n"), "X\r\nNOOP\r\nDATA\r\nRSET\r\nX\r\nNOOP\r\n")
    assert " ".join(result.codes) == "220 502 250 503 250 421"
    assert result.stdout.endswith(b"\r\n421 too many errors (#4.7.0)\r\n")
    assert result.status == 1


def test_a_hundred_failed_commands_are_allowed_by_default(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    assert talk(home, "X\r\n" * 102).codes == ["220", *["502"] * 100, "421"]
    refusals = "MAIL <a@b>\r\n" + "RCPT <u@evil.test>\r\n" * 300
    assert talk(home, refusals + "QUIT\r\n").codes == ["220", "250", *["553"] * 300, "221"]


@pytest.mark.parametrize(("name", "limit"), [("maxrcpt", "0\n"), ("maxerrors", "0\n")])
def test_a_limit_of_zero_is_no_limit(tmp_path: Path, name: str, limit: str) -> None:
    home = home_with(tmp_path, **{name: limit})
    result = talk(home, "X\r\n" * 99 + "MAIL <a@b>\r\n" + "RCPT <u@example.com>\r\n" * 12_000 + "QUIT\r\n")
    expected = 12_000 if name == "maxrcpt" else 10_000
    assert result.codes.count("250") == expected + 1
    assert result.codes[-1] == "221"


# Time.


def trickle(
    process: "subprocess.Popen[bytes]", first: bytes, piece: bytes, pieces: int = 100, last: bytes = b""
) -> bytes:
    """Send a piece every fifth of a second until all are sent or the connection is closed, and return the replies."""
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(first)
        for _ in range(pieces):
            process.stdin.write(piece)
            time.sleep(0.2)
        process.stdin.write(last)
    except BrokenPipeError:
        pass
    process.stdin.close()
    with process.stdout:
        replies = process.stdout.read()
    process.wait()
    return replies


@pytest.mark.parametrize("repeated", [b"NOOP\r\n", b"x"], ids=["commands", "one endless command"])
def test_timeoutsession_ends_a_session_between_commands(tmp_path: Path, repeated: bytes) -> None:
    process = start(home_with(tmp_path, timeoutsession="1\n"), bufsize=0, stderr=subprocess.DEVNULL)
    assert trickle(process, b"", repeated).endswith(b"\r\n421 timeout (#4.4.2)\r\n")
    assert process.returncode == 1


def flood(process: "subprocess.Popen[bytes]") -> None:
    """Send commands without a pause until the session is over."""
    assert process.stdin
    try:
        while True:
            process.stdin.write(b"NOOP\r\n" * 100)
    except BrokenPipeError:
        pass
    process.stdin.close()
    assert process.wait() == 1


@pytest.mark.slow
def test_timeoutsession_ends_a_session_whose_client_never_stops_sending(tmp_path: Path) -> None:
    home = home_with(tmp_path, timeoutsession="1\n")
    with open(home / "replies", "wb") as replies:
        flood(start(home, bufsize=0, stdout=replies, stderr=subprocess.DEVNULL))
    assert (home / "replies").read_bytes().endswith(b"\r\n250 ok\r\n421 timeout (#4.4.2)\r\n")


def test_timeoutsession_ends_a_session_whose_client_never_reads(tmp_path: Path) -> None:
    process = start(home_with(tmp_path, timeoutsession="1\n"), bufsize=0, stderr=subprocess.DEVNULL)
    flood(process)
    assert process.stdout
    process.stdout.close()


def test_timeoutsession_ends_a_session_in_data(tmp_path: Path) -> None:
    home = home_with(tmp_path, timeoutsession="1\n")
    process = start(home, bufsize=0, stderr=subprocess.DEVNULL)
    assert trickle(process, BEGIN, b"x\r\n").endswith(b"354 go ahead\r\n451 timeout (#4.4.2)\r\n")
    assert process.returncode == 1
    [(_, envelope)] = talk(home, "QUIT\r\n").queue
    assert envelope == b""


def test_timeoutsession_ends_a_session_whose_queue_program_hangs(tmp_path: Path) -> None:
    home = home_with(tmp_path, timeoutsession="1\n")
    (home / "bin/qmail-queue").write_text("#!/bin/sh\nexec sleep 1.2\n")
    recipients = b"RCPT TO:<u@example.com>\r\n" * 9_000  # an envelope that is larger than the capacity of a pipe
    for text in (BEGIN + b"x" * 300_000, BEGIN.replace(b"DATA", recipients + b"DATA") + b".\r\n"):
        result = talk(home, text)
        assert result.stdout.endswith(b"354 go ahead\r\n451 timeout (#4.4.2)\r\n")
        assert result.status == 1


SLOW_STEPS = {
    "before it ends": "sleep 1.5; exit $status",
    "before its error text": "sleep 1.5; printf 'Dno' >&6; test $status = 0 || exit 82",
    "before it reads": None,
}


@pytest.mark.parametrize("step", SLOW_STEPS)
@pytest.mark.parametrize("status", [0, 31])
def test_a_message_that_the_queue_program_has_whole_gets_its_answer_after_timeoutsession(
    tmp_path: Path, step: str, status: int
) -> None:
    """With 451 in its place, the client would send a message again that is stored."""
    home = home_with(tmp_path, timeoutsession="1\n")
    read = f"cat > {home}/message; cat <&1 > {home}/envelope; status={status}; "
    code = SLOW_STEPS[step]
    (home / "bin/qmail-queue").write_text("#!/bin/sh\n" + (read + code if code else f"sleep 1.5; {read} exit $status"))
    result = talk(home, MESSAGE, hold=5)
    *_, answer, end = result.stdout.removesuffix(b"\r\n").split(b"\r\n")
    refusal = b"554 no" if code and "D" in code else b"554 mail server permanently rejected message (#5.3.0)"
    assert answer == (refusal if status else b"250 ok {TIME} qp {PID}")
    assert end == b"421 timeout (#4.4.2)"
    assert (home / "envelope").read_bytes() == b"Fs@sender.test\0Tu@example.com\0\0"


def test_timeoutsmtpd_ends_a_session_before_timeoutsession(tmp_path: Path) -> None:
    home = home_with(tmp_path, timeoutsession="9\n", timeoutsmtpd="1\n")
    assert talk(home, "NOOP\r\n", hold=5).stdout.endswith(b"250 ok\r\n451 timeout (#4.4.2)\r\n")


SLOW = "import qmail_smtpd.net.wire as w, qmail_smtpd.main as m; w.SLOW_SECONDS, w.SLOW_BYTES = 2.0, 10_000; m.main()"


def slow_session(home: Path, piece: bytes, pieces: int) -> bytes:
    """Send five pieces a second to a session that wants 10 kB in each two seconds. Return the replies."""
    environ = {"QMAILHOME": str(home), "PATH": os.environ["PATH"], "SMTPD_LOG": "none"}
    command = [sys.executable, "-c", SLOW]
    process = subprocess.Popen(command, env=environ, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return trickle(process, BEGIN, piece, pieces, b".\r\nQUIT\r\n")


def test_data_that_is_too_slow_times_out(tmp_path: Path) -> None:
    replies = slow_session(home_with(tmp_path), b"x\r\n", 300)  # only waiting counts: a busy machine needs more pieces
    assert replies.endswith(b"354 go ahead\r\n451 timeout (#4.4.2)\r\n")


def test_data_that_is_just_fast_enough_is_accepted(tmp_path: Path) -> None:
    replies = slow_session(home_with(tmp_path), b"x" * 4000 + b"\r\n", 15)
    assert replies.endswith(b"221 mx.example.org\r\n")


# Memory.


def peak_memory(home: Path, pieces: list[tuple[bytes, int]], env: dict[str, str] | None = None) -> int:
    """Send each piece `count` times, with RSET as the last one, and return the session's peak memory in kB."""
    (home / "bin/qmail-queue").write_text(DISCARDING_QUEUE)
    with open(home / "replies", "wb") as replies, open(os.devnull, "wb") as log:
        process = start(home, env, stdout=replies, stderr=log)
        assert process.stdin
        for piece, count in pieces:
            for _ in range(count):
                process.stdin.write(piece)
        process.stdin.flush()
        while not (home / "replies").read_bytes().endswith(b"\r\n250 flushed\r\n"):
            assert process.poll() is None
            time.sleep(0.05)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.communicate(b"QUIT\r\n")
        assert process.returncode == 0
    return int(status.split("VmHWM:")[1].split()[0])


LAST = (b"RSET\r\n", 1)
LINES = (b"x" * 70 + b"\r\n") * 14_000
BLOCK = LINES[: len(LINES) // 72 * 72]


@pytest.mark.slow
def test_a_message_of_hundreds_of_megabytes_takes_little_memory(tmp_path: Path) -> None:
    count = times(200)
    assert peak_memory(home_with(tmp_path), [(BEGIN, 1), (BLOCK, count), (b".\r\n", 1), LAST]) < MEMORY
    assert b"\r\n354 go ahead\r\n250 ok " in (tmp_path / "home/replies").read_bytes()


@pytest.mark.parametrize(
    "block",
    [b"x" * 1_000_000, b"\r\n.." * 250_000, b"\r" * 1_000_000, b"Received: x\r\n" * 80_000, b"\r\n.\r." * 200_000],
    ids=["one line", "dots", "CRs", "header", "almost ends"],
)
def test_no_pattern_in_a_message_takes_much_memory(tmp_path: Path, block: bytes) -> None:
    assert peak_memory(home_with(tmp_path), [(BEGIN, 1), (block, times(30)), (b"\r\n.\r\n", 1), LAST]) < MEMORY


@pytest.mark.slow
def test_as_many_and_as_long_recipients_as_allowed_take_little_memory(tmp_path: Path) -> None:
    rcpt = b"RCPT TO:<" + b"x" * 887 + b"@example.com>\r\n"
    home = home_with(tmp_path, maxrcpt="0\n")
    pieces = [(b"MAIL <a@b>\r\n", 1), (rcpt, times(15_000)), (b"DATA\r\n.\r\n", 1), LAST]
    assert peak_memory(home, pieces, {**CLIENT, "RELAYCLIENT": "@" + "r" * 3000}) < MEMORY


@pytest.mark.parametrize(
    "piece",
    [b"x" * 1_000_000, b"MAIL FROM:<" + b"\\" * 999_990, b"NOOP\r\n" * 16_000, b"RCPT TO:<" + b'"' * 9_000 + b"\r\n"],
    ids=["an endless command", "an endless address", "commands", "quotes"],
)
def test_endless_commands_take_little_memory(tmp_path: Path, piece: bytes) -> None:
    home = home_with(tmp_path, maxerrors="0\n")
    assert peak_memory(home, [(piece, 30), (b"\r\n", 1), LAST]) < MEMORY


def test_a_client_that_does_not_read_its_replies_is_disconnected(tmp_path: Path) -> None:
    process = start(home_with(tmp_path, timeoutsmtpd="1\n"))
    assert process.stdin
    assert process.stdout
    os.set_blocking(process.stdin.fileno(), False)
    while process.poll() is None:
        try:
            os.write(process.stdin.fileno(), b"HELP\r\n" * 5_000)
        except (BlockingIOError, BrokenPipeError):
            time.sleep(0.05)
    assert process.returncode == 1
    process.stdin.close(), process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]
