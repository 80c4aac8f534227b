"""tcprules' command line: arguments, modes, messages, exit codes, missing descriptors."""

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tcprules.cli import tcprules
from tests.kit import forked
from tests.kit.support import script

USAGE = b"tcprules: usage: tcprules rules.cdb rules.tmp\n"
DEAD_RULE = b"10.0:deny\n:allow\n"
WARNING = b"tcprules: warning: line 1, column 5: the rule matches no client: a prefix ends with a dot\n"


def run(directory: Path, rules: bytes, *words: str | bytes) -> forked.Result:
    return forked.run(tcprules, ["tcprules", *words], rules, cwd=directory)


@pytest.mark.parametrize(
    "words", [[], ["a"], ["--help"], ["--"], ["-x"], ["--strict"], ["--strict", "a"], ["--quiet", "a"], ["--version"]]
)
def test_fewer_than_two_file_names_are_a_usage_error(words: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, b":deny\n", *words) == (b"", USAGE, 100)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["-x", "--", "--help", "--cheque", "--explain", "--strict=1", "-", "a b", "\udcff"])
def test_any_other_first_word_is_a_file_name(name: str, tmp_path: Path) -> None:
    assert run(tmp_path, b":deny\n", name, "r.tmp") == (b"", b"", 0)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("option", ["--check", "--strict", "--quiet"])
def test_an_option_that_is_not_the_first_word_is_a_file_name(option: str, tmp_path: Path) -> None:
    assert run(tmp_path, DEAD_RULE, "r.cdb", option) == (b"", WARNING, 0)
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert run(tmp_path, b":deny\n", "--quiet", option, "r.tmp").exit == 0
    assert sorted(os.listdir(tmp_path)) == sorted([option, "r.cdb"])


def test_further_words_are_ignored(tmp_path: Path) -> None:
    assert run(tmp_path, b":deny\n", "r.cdb", "r.tmp", "x", "--strict") == (b"", b"", 0)


def test_a_warning_changes_neither_the_exit_code_nor_the_bytes(tmp_path: Path) -> None:
    assert run(tmp_path, DEAD_RULE, "r.cdb", "r.tmp") == (b"", WARNING, 0)
    assert run(tmp_path, DEAD_RULE, "--quiet", "q.cdb", "r.tmp") == (b"", b"", 0)
    assert (tmp_path / "r.cdb").read_bytes() == (tmp_path / "q.cdb").read_bytes()


def test_strict_keeps_the_old_cdb_when_there_is_a_warning(tmp_path: Path) -> None:
    assert run(tmp_path, b":deny\n", "--strict", "r.cdb", "r.tmp") == (b"", b"", 0)
    old = (tmp_path / "r.cdb").read_bytes()
    fatal = b"tcprules: fatal: warnings, and --strict: r.cdb is unchanged\n"
    assert run(tmp_path, DEAD_RULE, "--strict", "r.cdb", "r.tmp") == (b"", WARNING + fatal, 100)
    assert os.listdir(tmp_path) == ["r.cdb"]
    assert (tmp_path / "r.cdb").read_bytes() == old


def test_strict_accepts_a_file_without_a_default_rule(tmp_path: Path) -> None:
    assert run(tmp_path, b"10.:deny\n", "--strict", "r.cdb", "r.tmp") == (b"", b"", 0)


def test_strict_refuses_an_empty_file(tmp_path: Path) -> None:
    assert run(tmp_path, b"", "--strict", "r.cdb", "r.tmp").exit == 100
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("rules", "stderr", "status"),
    [
        (b":deny\n", b"", 0),
        (DEAD_RULE, WARNING, 1),
        (b"10.:deny\n", b"tcprules: warning: file: no default rule: all other clients are allowed\n", 1),
        (b"", b"tcprules: warning: file: no rule: all clients are allowed\n", 1),
        (
            b"x:\n",
            b"tcprules: warning: line 1, column 3: neither allow nor deny follows the address\n"
            b"tcprules: fatal: unable to parse this line: x:\n",
            100,
        ),
    ],
)
def test_check_writes_nothing_and_reports_by_its_exit_code(
    rules: bytes, stderr: bytes, status: int, tmp_path: Path
) -> None:
    for words in ([], ["r.cdb", "r.tmp"]):
        assert run(tmp_path, rules, "--check", *words) == (b"", stderr, status)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"1.2.3.4:\x1b[31m\xff \t", b"1.2.3.4:\x1b[31m\xff"),
        (b"1.2.3.4:x\0y", b"1.2.3.4:x"),
        (b"1.2.3.4:x" + b"y" * 5000, b"1.2.3.4:x" + b"y" * 5000),
        (b"1.2.3.4:allow\r", b"1.2.3.4:allow\r"),
    ],
)
def test_a_bad_line_is_printed_as_by_the_original(line: bytes, expected: bytes, tmp_path: Path) -> None:
    for ending in (b"\n", b"", b"\n:deny\n"):
        result = run(tmp_path, b"#\n" + line + ending, "r.cdb", "r.tmp")
        warning, fatal, rest = result.stderr.split(b"\n", 2)
        assert warning.startswith(b"tcprules: warning: line 2, column ")
        assert (fatal, rest) == (b"tcprules: fatal: unable to parse this line: " + expected, b"")
        quiet = run(tmp_path, b"#\n" + line + ending, "--quiet", "r.cdb", "r.tmp")
        assert quiet == (b"", fatal + b"\n", 100)


def test_a_network_with_host_bits_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    result = run(tmp_path, b":allow\n10.1.2.3/8:deny\n", "r.cdb", "r.tmp")
    assert result.exit == 100
    assert result.stderr == (
        b"tcprules: warning: line 2, column 1: bits are set after the first 8: 10.0.0.0/8 is probably meant\n"
        b"tcprules: fatal: unable to parse this line: 10.1.2.3/8:deny\n"
    )


def test_without_descriptor_0_the_input_cannot_be_read(tmp_path: Path) -> None:
    for words in (["r.cdb", "r.tmp"], ["--check"]):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", script("tcprules"), *words], cwd=tmp_path, capture_output=True
        )
        assert done.stderr == b"tcprules: fatal: unable to read input: file descriptor not open\n"
        assert done.returncode == 111
        assert os.listdir(tmp_path) == []


def test_without_descriptor_2_no_warning_gets_into_the_cdb(tmp_path: Path) -> None:
    run(tmp_path, DEAD_RULE, "expected.cdb", "r.tmp")
    for closed in ("2>&-", ">&- 2>&-", "2>/dev/full"):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", script("tcprules"), "r.cdb", "r.tmp"]
        done = subprocess.run(command, cwd=tmp_path, input=DEAD_RULE)
        assert done.returncode == 0
        assert (tmp_path / "r.cdb").read_bytes() == (tmp_path / "expected.cdb").read_bytes()


def test_eagain_is_not_taken_for_the_end_of_the_rules(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"10.:allow\n")
    done = subprocess.run([script("tcprules"), "r.cdb", "r.tmp"], cwd=tmp_path, stdin=reading, capture_output=True)
    os.close(reading)
    os.close(writing)
    assert done.stderr == b"tcprules: fatal: unable to read input: temporary failure\n"
    assert done.returncode == 111
    assert os.listdir(tmp_path) == []


WRITTEN = [  # cdb, tmp, the file of rules -> which of them is refused
    ("cdb", "rules", "rules", "rules"),
    ("cdb", "./rules", "rules", "./rules"),
    ("rules", "rules", "rules", "rules"),
    ("x", "x", "x.new", "x.new"),  # the temporary file of the temporary file
    ("./x", "x", "x.new", "x.new"),
    ("cdb", "hard", "rules", "hard"),
    ("x", "x", "rules", "x.new"),
]


@pytest.mark.parametrize("existing", [True, False], ids=["there is a cdb", "there is none"])
@pytest.mark.parametrize(("cdb", "tmp", "source", "refused"), WRITTEN)
def test_no_file_that_is_written_may_be_the_file_of_rules(
    cdb: str, tmp: str, source: str, refused: str, existing: bool, tmp_path: Path
) -> None:
    if existing:
        (tmp_path / cdb).write_bytes(b"old")
    rules = tmp_path / source
    rules.write_bytes(b":deny\n")
    if refused not in (source, tmp) or tmp == "hard":
        (tmp_path / refused).hardlink_to(rules)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with rules.open("rb") as given:
        command = [script("tcprules"), cdb, tmp]
        done = subprocess.run(command, cwd=tmp_path, stdin=given, capture_output=True)
    fatal = f"tcprules: fatal: unable to create {refused}: the input is read from it\n".encode()
    assert (done.stderr, done.returncode) == (fatal, 111)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_to_the_file_of_rules_is_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "rules").write_bytes(b":deny\n")
    (tmp_path / "link").symlink_to("rules")
    (tmp_path / "x.new").symlink_to("rules")
    for cdb, tmp, refused in (("cdb", "link", "link"), ("x", "x", "x.new")):
        with (tmp_path / "rules").open("rb") as given:
            command = [script("tcprules"), cdb, tmp]
            done = subprocess.run(command, cwd=tmp_path, stdin=given, capture_output=True)
        fatal = f"tcprules: fatal: unable to create {refused}: symbolic link loop\n".encode()
        assert (done.stderr, done.returncode) == (fatal, 111)
        assert (tmp_path / "rules").read_bytes() == b":deny\n"
        assert sorted(os.listdir(tmp_path)) == ["link", "rules", "x.new"]


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 3 * 65536])
def test_lines_may_cross_the_boundaries_of_reads(size: int, tmp_path: Path) -> None:
    rules = b"#" * size + b"\n1.2.3.4:deny\n#" + b"\n" * size + b"=" + b"h" * size + b":deny"
    assert run(tmp_path, rules, "r.cdb", "r.tmp") == (b"", b"", 0)
    content = (tmp_path / "r.cdb").read_bytes()
    assert b"1.2.3.4D\0" in content
    assert b"=" + b"h" * size + b"D\0" in content


def on_a_terminal(directory: Path, lines: list[bytes], parts: int, *words: str) -> tuple[bytes, int]:
    """Return what appears on a terminal as descriptor 2 while the rules arrive on a pipe, one part in 0.1 s.

    Also return the number of parts: `parts`, or if that is 0, as many as it takes until progress is shown. The first
    parts are `lines`, the others are comments.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen([script("tcprules"), *words], cwd=directory, stdin=subprocess.PIPE, stderr=slave)
    os.close(slave)
    assert process.stdin
    text, count = b"", 0
    while count < parts if parts else b"[" not in text:
        process.stdin.write(lines[count] if count < len(lines) else b"#\n")
        process.stdin.flush()
        count += 1
        if select.select([master], [], [], 0.1)[0]:
            text += os.read(master, 4096)
    process.stdin.close()
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:
        pass  # the other end is gone
    os.close(master)
    assert process.wait(20) == 0
    return text, count


@pytest.mark.parametrize(("number", "status"), [(0, 0), (signal.SIGTERM, -signal.SIGTERM)], ids=["ends", "is stopped"])
def test_a_terminal_that_goes_away_changes_neither_the_exit_code_nor_the_signal(
    number: int, status: int, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    words = [script("tcprules"), "r.cdb", "r.tmp"]
    process = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stderr=slave)
    os.close(slave)
    assert process.stdin
    while not select.select([master], [], [], 0.1)[0]:  # until there is a bar
        process.stdin.write(b":deny\n")
        process.stdin.flush()
    os.close(master)
    if number:
        process.send_signal(number)
    else:
        process.stdin.close()
    assert process.wait(20) == status
    assert os.listdir(tmp_path) == ([] if number else ["r.cdb"])
    process.stdin.close()


def test_a_terminal_gets_progress_only_if_the_work_is_long(tmp_path: Path) -> None:
    lines = [b"10.0 deny\n", b":allow\n"]
    slow, parts = on_a_terminal(tmp_path, lines, 0, "r.cdb", "r.tmp")
    assert b"tcprules  " in slow
    assert slow.endswith(b"tcprules: warning: line 1, column 10: no colon: the line is ignored\r\n")
    assert on_a_terminal(tmp_path, lines, parts + 3, "--quiet", "r.cdb", "r.tmp")[0] == b""
    assert on_a_terminal(tmp_path, [b":allow\n"], 1, "r.cdb", "r.tmp")[0] == b""


def test_an_interrupt_restores_the_cursor(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [script("tcprules"), "r.cdb", "r.tmp"], cwd=tmp_path, stdin=subprocess.PIPE, stderr=slave
    )
    os.close(slave)
    assert process.stdin
    text = b""
    while b"[" not in text:
        process.stdin.write(b":allow\n")
        process.stdin.flush()
        time.sleep(0.1)
        if select.select([master], [], [], 0)[0]:
            text += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    process.stdin.close()
    try:
        while chunk := os.read(master, 4096):
            text += chunk
    except OSError:
        pass
    os.close(master)
    assert text.endswith(b"\x1b[?25h\r\n")
    assert os.listdir(tmp_path) == []


def test_without_a_terminal_there_is_no_progress(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [script("tcprules"), "r.cdb", "r.tmp"], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin
    for part in (b":allow\n", b"#\n", b"#\n"):
        process.stdin.write(part)
        process.stdin.flush()
        time.sleep(0.6)
    assert process.communicate(timeout=20) == (None, b"")
