"""What relayreport prints: a report for a terminal, JSON, clear lines for errors; and no escape sequence of a log."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.logs import traffic
from tests.kit.support import script

ENVIRON = {"PATH": os.environ["PATH"], "TZ": "UTC"}
HOSTILE = (
    b"qmail-smtpd: event=queued pid=1 ip=\x1b[2J\x9b31m\xff helo=[bold]x[/bold] sender=a@b recipients=1 bytes=2 qp=3"
    b" relay=login user=<script>alert(1)</script>\x07[red]\n"
    b"tcpserver: warning: \x1b]0;title\x07 [link=http://x]y[/link] &amp; \xe2\x80\xae\n"
)


def relayreport(*words: object, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [script("relayreport"), *map(str, words)]
    return subprocess.run(command, input=stdin, env=ENVIRON | environ, capture_output=True)


def on_a_terminal(log: Path) -> bytes:
    """Return what relayreport writes to a terminal."""
    master, slave = pty.openpty()
    environ = ENVIRON | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        [script("relayreport"), log], stdin=slave, stdout=slave, stderr=slave, env=environ
    ) as process:
        os.close(slave)
        data = b""
        try:
            while part := os.read(master, 65536):
                data += part
        except OSError:  # EIO: all have closed it
            pass
    os.close(master)
    assert process.returncode == 0, data
    return data


@pytest.fixture(scope="module")
def log() -> bytes:
    return traffic.text(traffic.day(300))


def test_the_findings_come_first_and_then_the_tables(log: bytes) -> None:
    done = relayreport(stdin=log)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert text.startswith("relayreport: 2026-11-24 00:")
    titles = ["What looks wrong", f"then logged in as {traffic.VICTIM}", " by hour", "\nWho relayed\n"]
    titles += [
        "Why clients were refused",
        "\nFailed logins by name\n",
        "\nClients\n",
        "\nTLS\n",
        "\nTime of connections\n",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert max(map(len, text.split("\n"))) <= 120


def test_a_terminal_without_unicode_gets_ascii(log: bytes) -> None:
    done = relayreport(stdin=log, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"@" in done.stdout.partition(b" by hour")[2].partition(b"Who relayed")[0]


def test_a_quiet_log_says_so() -> None:
    assert "Nothing that this report looks for." in relayreport(stdin=b"").stdout.decode()


def test_top_limits_the_rows_and_says_how_many_are_left_out(log: bytes) -> None:
    rows = json.loads(relayreport("--json", "--top", 3, stdin=log).stdout)["sections"]["clients"]
    assert len(rows["rows"]) == 3
    assert rows["whole"] > 3
    assert f"{rows['whole'] - 3:,} more" in relayreport("--top", 3, stdin=log).stdout.decode()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_control_characters_of_a_log_are_never_printed(words: tuple[str, ...]) -> None:
    done = relayreport(*words, stdin=HOSTILE)
    assert done.returncode == 0
    text = done.stdout.decode()
    assert not [character for character in text if not character.isprintable() and character != "\n"]
    assert "\u202e" not in text
    assert "<script>alert(1)</script>\\x07[red]".replace("\\", "\\\\" if words else "\\") in text.replace("\n", "")


def test_on_a_terminal_there_are_only_richs_own_sequences(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(HOSTILE)
    data = on_a_terminal(tmp_path / "log")
    assert b"\x1b[1m" in data
    for sequence in (b"\x1b[2J", b"\x1b]", b"\x9b31m\xff", b"\x07"):
        assert sequence not in data
    assert b"\\x1b[2J\\x9b31m\\xff" in data


@pytest.mark.parametrize("words", [["--since"], ["--top", "0"], ["--nonsense"], ["--top", "x"]])
def test_a_wrong_command_line_is_a_clear_line(words: list[str]) -> None:
    done = relayreport(*words)
    assert done.returncode == 100
    assert done.stderr.startswith(b"relayreport: fatal: ")
    assert done.stderr.count(b"\n") == 1


def test_output_that_cannot_be_written_is_a_clear_line(log: bytes) -> None:
    with open("/dev/full", "wb") as full:
        command = [script("relayreport"), "--json"]
        done = subprocess.run(command, input=log, stdout=full, stderr=subprocess.PIPE, env=ENVIRON)
    assert (done.returncode, done.stderr) == (111, b"relayreport: fatal: unable to write output: out of disk space\n")


@pytest.mark.parametrize("words", ["", "--json"])
@pytest.mark.parametrize(("closed", "what"), [(">&-", "write output"), ("<&-", "read -")])
def test_a_closed_descriptor_is_a_clear_line(words: str, closed: str, what: str, log: bytes) -> None:
    command = ["sh", "-c", f'"$0" {words} {closed}', script("relayreport")]
    done = subprocess.run(command, input=log, capture_output=True, env=ENVIRON)
    text = f"relayreport: fatal: unable to {what}: file descriptor not open\n".encode()
    assert (done.returncode, done.stdout, done.stderr) == (111, b"", text)


WITHOUT = """
import sys
GONE = "rich", "prometheus_client"
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name in GONE:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in GONE else real(name, package)
from qmail_smtpd.entry import relayreport
relayreport()
"""


def without_the_extra(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", WITHOUT, *words]
    return subprocess.run(command, input=b"", env=ENVIRON, capture_output=True)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = without_the_extra()
    line = f"relayreport: fatal: rich is not installed: {sys.executable} -m pip install rich\n".encode()
    assert (done.returncode, done.stderr) == (111, line)
    assert without_the_extra("--json").returncode == 0  # needs neither
    assert without_the_extra("--html", str(tmp_path / "page.html")).returncode == 0
