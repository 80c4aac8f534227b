"""AUTH sessions captured from notqmail with qmail-authentication 0.8.3, replayed against ours.

Where a case has `right`, the original has a bug, and that is the answer to give.
"""

import base64
import hmac
import json
import re
from pathlib import Path

import pytest

from tests.kit.captured import DATE, latin
from tests.kit.checker import Checker
from tests.kit.mailhome import Result, lay_home, start
from tests.kit.support import ROOT

CASES = [json.loads(line) for line in (ROOT / "tests/data/smtpd-auth.jsonl").read_text().splitlines()]
CRAM = re.compile(rb"\{CRAM ([^ ]+) ([^ }]+)\}\r\n")
CHALLENGE = re.compile(rb"334 ([A-Za-z0-9+/=]+)\r\n")
MESSAGE_ID = re.compile(rb"<[^@<>]+@")


def answer(said: bytes, user: bytes, password: bytes) -> bytes:
    """The client's answer to the last challenge."""
    challenge = base64.b64decode(CHALLENGE.findall(said)[-1])
    return base64.b64encode(user + b" " + hmac.new(password, challenge, "md5").hexdigest().encode()) + b"\r\n"


def session(case: dict, home: Path, checker: Checker) -> Result:
    """Say what the case says; where it holds a digest, wait for the challenge that it is of."""
    words = [checker.path if word == "{CP}" else word for word in case["args"]]
    process = start(home, {"AUTHSLEEP": "0", **case["env"]}, words)
    assert process.stdin
    assert process.stdout
    said = b""
    text = latin(case["stdin"])
    while found := CRAM.search(text):
        process.stdin.write(text[: found.start()])
        process.stdin.flush()
        while not said.endswith(b"\r\n") or not CHALLENGE.search(said.split(b"\r\n")[-2] + b"\r\n"):
            part = process.stdout.read1()
            assert part, said
            said += part
        text = answer(said, *found.groups()) + text[found.end() :]
    stdout, stderr = process.communicate(text)
    return Result(said + stdout, stderr, process.returncode, home)


def masked(stdout: bytes) -> list[bytes]:
    """Replies with what is ours to word, or random, hidden; EHLO's keywords in one order, and without SIZE 0."""
    lines = []
    for line in stdout.split(b"\r\n"):
        if found := CHALLENGE.fullmatch(line + b"\r\n"):
            line = b"334 {B64:" + MESSAGE_ID.sub(b"<{PID}.{TIME}@", base64.b64decode(found[1])) + b"}"
            if b"@" not in line:
                line = found[0].rstrip()
        line = re.sub(rb"^454 .*", b"454 {TEXT}", line)
        if line != b"250 SIZE 0":
            lines.append(line.replace(b"250-", b"250 ") if line.startswith(b"250") else line)
    return lines


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_session_is_answered_as_the_original_should_have_answered(case: dict, tmp_path: Path) -> None:
    wanted = {**case, **case.get("right", {})}
    home, checker = lay_home(tmp_path / "home", case["control"]), Checker(tmp_path / "checker")
    result = session(case, home, checker)
    assert masked(result.stdout) == masked(latin(wanted["stdout"]))
    assert result.status == wanted["exit"]
    queued = [(DATE.sub(b"; {DATE}\n", message, count=1), envelope) for message, envelope in result.queue]
    assert queued == [(latin(entry["message"]), latin(entry["envelope"])) for entry in wanted["queue"]]
    asked = [(hidden(fields), words) for fields, words in checker.asked]
    assert asked == [(latin(entry["fd3"]), entry["argv"]) for entry in wanted["checkpassword"]]


def hidden(fields: bytes) -> bytes:
    """Fields without what is random in them."""
    if not MESSAGE_ID.search(fields):
        return fields
    return re.sub(rb"[0-9a-f]{32}", b"{HMAC}", MESSAGE_ID.sub(b"<{PID}.{TIME}@", fields))


def test_all_captured_sessions_are_here() -> None:
    assert len(CASES) == 60
