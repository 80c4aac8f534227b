"""AUTH sessions captured from notqmail with qmail-authentication 0.8.3, replayed with our qmail-smtpd.

If a case has the field `right`, the original has a bug, and the field holds the right result.
"""

import base64
import hmac
import json
import re
from pathlib import Path

import pytest

from tests.kit.captured import DATE, latin
from tests.kit.checker import Checker
from tests.kit.mailhome import Result, make_home, start
from tests.kit.support import ROOT

CASES = [json.loads(line) for line in (ROOT / "tests/data/smtpd-auth.jsonl").read_text().splitlines()]
CRAM = re.compile(rb"\{CRAM ([^ ]+) ([^ }]+)\}\r\n")
CHALLENGE = re.compile(rb"334 ([A-Za-z0-9+/=]+)\r\n")
MESSAGE_ID = re.compile(rb"<[^@<>]+@")


def cram_response(output: bytes, user: bytes, password: bytes) -> bytes:
    """Return the client's response to the last challenge."""
    challenge = base64.b64decode(CHALLENGE.findall(output)[-1])
    return base64.b64encode(user + b" " + hmac.new(password, challenge, "md5").hexdigest().encode()) + b"\r\n"


def run_session(case: dict, home: Path, checker: Checker) -> Result:
    """Send the input of the case. Before each {CRAM user password}, wait for the challenge and compute the digest."""
    words = [checker.path if word == "{CP}" else word for word in case["args"]]
    process = start(home, {"AUTHSLEEP": "0", **case["env"]}, words)
    assert process.stdin
    assert process.stdout
    output = b""
    text = latin(case["stdin"])
    while match := CRAM.search(text):
        process.stdin.write(text[: match.start()])
        process.stdin.flush()
        while not output.endswith(b"\r\n") or not CHALLENGE.search(output.split(b"\r\n")[-2] + b"\r\n"):
            part = process.stdout.read1()
            assert part, output
            output += part
        text = cram_response(output, *match.groups()) + text[match.end() :]
    stdout, stderr = process.communicate(text)
    return Result(output + stdout, stderr, process.returncode, home)


def masked(stdout: bytes) -> list[bytes]:
    """Return the replies with random parts and texts of our own masked, EHLO lines unified, and without SIZE 0."""
    lines = []
    for line in stdout.split(b"\r\n"):
        if match := CHALLENGE.fullmatch(line + b"\r\n"):
            line = b"334 {B64:" + MESSAGE_ID.sub(b"<{PID}.{TIME}@", base64.b64decode(match[1])) + b"}"
            if b"@" not in line:
                line = match[0].rstrip()
        line = re.sub(rb"^454 .*", b"454 {TEXT}", line)
        if line != b"250 SIZE 0":
            lines.append(line.replace(b"250-", b"250 ") if line.startswith(b"250") else line)
    return lines


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_session_has_the_replies_that_are_right(case: dict, tmp_path: Path) -> None:
    wanted = {**case, **case.get("right", {})}
    home, checker = make_home(tmp_path / "home", case["control"]), Checker(tmp_path / "checker")
    result = run_session(case, home, checker)
    assert masked(result.stdout) == masked(latin(wanted["stdout"]))
    assert result.status == wanted["exit"]
    queued = [(DATE.sub(b"; {DATE}\n", message, count=1), envelope) for message, envelope in result.queue]
    assert queued == [(latin(entry["message"]), latin(entry["envelope"])) for entry in wanted["queue"]]
    checked = [(masked_fields(fields), words) for fields, words in checker.calls]
    assert checked == [(latin(entry["fd3"]), entry["argv"]) for entry in wanted["checkpassword"]]


def masked_fields(fields: bytes) -> bytes:
    """Return the fields with random parts masked."""
    if not MESSAGE_ID.search(fields):
        return fields
    return re.sub(rb"[0-9a-f]{32}", b"{HMAC}", MESSAGE_ID.sub(b"<{PID}.{TIME}@", fields))


def test_all_captured_sessions_are_present() -> None:
    assert len(CASES) == 60
