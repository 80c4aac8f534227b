"""The log on descriptor 2: its levels and warnings, escaped input, and that it never goes to the client."""

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.log import ALL, LONGEST_JSON_VALUE, LONGEST_LINE, LONGEST_VALUE, Log, json_line, line
from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, start, talk
from tests.kit.server import Server
from tests.kit.support import script

BOM = "\xef\xbb\xbf"  # written as Latin-1
NOTHING = "has entries that match nothing: "
REFUSED = "RCPT TO:<u@evil.test>\r\n"
SESSION = "HELO me\r\nMAIL FROM:<s@s>\r\n" + REFUSED + MESSAGE + "QUIT\r\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


def log_lines(home: Path, text: str = SESSION, **env: str) -> list[str]:
    """Return the log lines of a session, without the fields pid and qp."""
    lines = talk(home, text, {**CLIENT, **env}).stderr.decode("ascii").split("\n")
    assert lines.pop() == ""
    return [" ".join(word for word in entry.split(" ") if not word.startswith(("pid=", "qp="))) for entry in lines]


EVENT = "qmail-smtpd: event={} ip=192.0.2.1 helo=me sender={}"


def test_level_all_logs_every_decision(home: Path) -> None:
    assert log_lines(home, SMTPD_LOG="all") == [
        EVENT.format("refused", "s@s recipient=u@evil.test reason=rcpthosts"),
        EVENT.format("accepted", "s@sender.test recipient=u@example.com"),
        EVENT.format("queued", "s@sender.test recipients=1 bytes=18"),
        "qmail-smtpd: event=end ip=192.0.2.1 helo=me reason=quit messages=1 recipients=1 refused=1 errors=0",
    ]


def test_the_user_whose_recent_login_allows_relaying_is_logged(home: Path) -> None:
    env = {"SMTPD_LOG": "all", "RELAYCLIENT": "", "RELAY_USER": "joe@example.com"}
    assert log_lines(home, "HELO me\r\n" + MESSAGE + "QUIT\r\n", **env) == [
        EVENT.format("accepted", "s@sender.test recipient=u@example.com relay=address relay_user=joe@example.com"),
        EVENT.format("queued", "s@sender.test recipients=1 bytes=18 relay=address relay_user=joe@example.com"),
        "qmail-smtpd: event=end ip=192.0.2.1 helo=me reason=quit messages=1 recipients=1 refused=0 errors=0",
    ]
    env = {"SMTPD_LOG": "all", "RELAYCLIENT": ""}
    assert [text.endswith(" relay=address") for text in log_lines(home, "HELO me\r\n" + MESSAGE, **env)] == [
        *(True, True, False),
    ]
    env = {"SMTPD_LOG": "all", "RELAY_USER": "joe"}  # RELAY_USER alone was inherited: the client may not relay
    assert not [text for text in log_lines(home, "HELO me\r\n" + MESSAGE, **env) if "relay" in text]


def test_a_session_that_relays_from_a_gateway_is_marked_at_the_end_of_each_line(home: Path) -> None:
    env = {"SMTPD_LOG": "all", "RELAYCLIENT": "", "RELAY_USER": "joe", "TCPREMOTEVIA": "gateway"}
    assert log_lines(home, "HELO me\r\n" + MESSAGE + "MAIL FROM:<\r\nQUIT\r\n", **env) == [
        EVENT.format("accepted", "s@sender.test recipient=u@example.com relay=address relay_user=joe via=gateway"),
        EVENT.format("queued", "s@sender.test recipients=1 bytes=18 relay=address relay_user=joe via=gateway"),
        "qmail-smtpd: event=end ip=192.0.2.1 helo=me reason=quit messages=1 recipients=1 refused=0 errors=0 "
        "via=gateway",
    ]


def test_the_client_of_a_proxy_that_has_come_through_a_gateway_is_not_marked(home: Path) -> None:
    (home / "control/xclienthosts").write_text("192.0.2.1\n")
    env = {"SMTPD_LOG": "all", "RELAYCLIENT": "", "TCPREMOTEVIA": "gateway"}
    lines = log_lines(home, "EHLO p\r\nXCLIENT ADDR=192.0.2.5\r\nEHLO c\r\nQUIT\r\n", **env)
    assert [text.partition("event=")[2].partition(" ")[0] for text in lines] == ["xclient", "end"]
    assert not [text for text in lines if "via" in text]


@pytest.mark.parametrize("env", [{}, {"RELAYCLIENT": "", "NORELAY": ""}])
def test_a_session_that_does_not_relay_is_not_marked(env: dict[str, str], home: Path) -> None:
    lines = log_lines(home, SMTPD_LOG="all", TCPREMOTEVIA="gateway", **env)
    assert len(lines) == 4
    assert not [text for text in lines if "via" in text]


@pytest.mark.parametrize("level", [{}, {"SMTPD_LOG": ""}, {"SMTPD_LOG": "refusals"}])
def test_level_refusals_is_the_default(level: dict[str, str], home: Path) -> None:
    assert log_lines(home, **level) == [EVENT.format("refused", "s@s recipient=u@evil.test reason=rcpthosts")]


def test_an_unknown_level_is_warned_about(home: Path) -> None:
    assert log_lines(home, SMTPD_LOG="ALL") == [
        "qmail-smtpd: warning: SMTPD_LOG must be none, refusals or all: using refusals",
        EVENT.format("refused", "s@s recipient=u@evil.test reason=rcpthosts"),
    ]


@pytest.mark.parametrize("text", [SESSION, SESSION + MESSAGE[:-5]], ids=["whole", "broken off"])
@pytest.mark.parametrize("status", ["0", "53"])
def test_level_none_logs_nothing(text: str, status: str, home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    assert log_lines(home, text.replace("QUIT\r\n", ""), SMTPD_LOG="none", QQEXIT=status) == []


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("HELO me\r\n" + MESSAGE[:-5], EVENT.format("aborted", "s@sender.test recipients=1 bytes=17 reason=gone")),
        (
            "HELO me\r\n" + MESSAGE[:-5] + "\n",
            EVENT.format("aborted", "s@sender.test recipients=1 bytes=18 reason=stray-newline"),
        ),
    ],
)
def test_an_aborted_message_is_logged(text: str, entry: str, home: Path) -> None:
    assert log_lines(home, text) == [entry]


def test_a_message_that_the_queue_program_refuses_is_logged(home: Path) -> None:
    text = "qmail-smtpd: event=rejected ip=192.0.2.1 sender=s@sender.test recipients=1 bytes=18 reason=queue reply="
    assert log_lines(home, MESSAGE, QQEXIT="53") == [text + "451_qq_write_error_or_disk_full_(#4.3.0)"]


def test_input_of_the_client_is_escaped(home: Path) -> None:
    hostile = 'HELO a b\x1b[2J\x07\r\nMAIL <x>\r\nRCPT <a\\"\rb\xff event=accepted@evil.test>\r\n'
    [entry] = log_lines(home, hostile)
    assert "helo=a\\x20b\\x1b[2J\\x07 sender=x" in entry
    assert "recipient=a\\x22\\x0db\\xff\\x20event\\x3daccepted@evil.test reason=" in entry


@given(st.lists(st.binary(max_size=400), max_size=12))
def test_any_facts_make_one_line_of_printable_ascii_that_fits_into_pipe_buf(values: list[bytes]) -> None:
    text = line({b"k%d" % number: value for number, value in enumerate(values)})
    assert len(text) <= 4096
    assert text.index(b"\n") == len(text) - 1
    assert all(0x20 <= byte < 0x7F for byte in text[:-1])
    if len(text) < 4096:
        assert text.count(b" ") == max(1, len(values))


# Warnings about the configuration.


def test_a_missing_rcpthosts_is_warned_about_as_an_open_relay(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    for relayclient in ({}, {"RELAYCLIENT": ""}):
        assert log_lines(home, "QUIT\r\n", **relayclient) == [
            "qmail-smtpd: warning: control/rcpthosts is missing: open relay"
        ]


def test_a_missing_rcpthosts_is_no_open_relay_in_strict_mode(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    (home / "control/relaystrict").touch()
    assert "open relay" not in log_lines(home, "QUIT\r\n")[0]


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("rcpthosts", "a.test\r\nb.test\r\n", NOTHING + r"a CR at the end; write a.test instead of a.test\x0d"),
        (
            "rcpthosts",
            "a.test # ours\n",
            NOTHING + r"a comment after an entry, a blank; write a.test instead of a.test\x20#\x20ours",
        ),
        ("rcpthosts", "*.a.test\n@b.test\n", NOTHING + "a *, an @; write .a.test instead of *.a.test"),
        ("rcpthosts", "*\njoe@b.test\n", NOTHING + "a *, an @; write b.test instead of joe@b.test"),
        ("rcpthosts", "*\n", NOTHING + "a *"),
        (
            "rcpthosts",
            f"{BOM}a.test\nb.test\n",
            NOTHING + r"a byte order mark at the beginning; write a.test instead of \xef\xbb\xbfa.test",
        ),
        ("badmailfrom", "@a.test\r\n", NOTHING + r"a CR at the end; write @a.test instead of @a.test\x0d"),
        (
            "badmailfrom",
            "a@a.test # him\n",
            NOTHING + r"a comment after an entry; write a@a.test instead of a@a.test\x20#\x20him",
        ),
        ("badmailfrom", "b.example\na@b.test\n", NOTHING + "a domain without @; write @b.example instead of b.example"),
        ("badmailfrom", "*@b.example\nroot\n", NOTHING + "a *; write @b.example instead of *@b.example"),
        ("badmailfrom", ".b.example\n", NOTHING + "a domain without @"),
        (
            "badmailfrom",
            f"{BOM}@a.test\nb.test\n",
            NOTHING + "a byte order mark at the beginning, a domain without @; write @b.test instead of b.test",
        ),
        ("me", "mx\r\n", "has a CR, which is part of the text"),
        ("smtpgreeting", f"{BOM}mx\n", "begins with a byte order mark, which is part of the text"),
        ("databytes", "10M\n", "has more than digits: using 10485760"),
        ("maxrcpt", "1,000\n", "has more than digits: using 1"),
        ("timeoutsmtpd", "20 min\n", "has more than digits: using 20"),
        ("databytes", "ten\n", "does not begin with a digit: ignored"),
        ("databytes", "005000000000\n", "does not fit into 32 bits: using 705032704"),
        ("barecr", "yes\n", "must contain refuse: ignored"),
        ("badmailfromrelay", "\n", "must contain skip: ignored"),
    ],
)
def test_a_mistake_in_a_control_file_causes_one_warning(name: str, content: str, warning: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, name: content})
    assert log_lines(home, "NOOP\r\nQUIT\r\n") == [f"qmail-smtpd: warning: control/{name} {warning}"]


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("", "does not begin with a digit: no limit"),
        ("10M", "has more than digits: using 10"),
        ("4294967297", "does not fit into 32 bits: using 1"),
    ],
)
def test_a_databytes_variable_that_is_not_a_number_is_warned_about(home: Path, value: str, warning: str) -> None:
    assert log_lines(home, "QUIT\r\n", DATABYTES=value) == [f"qmail-smtpd: warning: DATABYTES {warning}"]


def test_right_entries_are_not_warned_about(tmp_path: Path) -> None:
    files = {
        "rcpthosts": "a.test\n.b.test\n# @ *\n",
        "badmailfrom": "root\n@a.test\nj.doe@b.test\n",
        "databytes": "10 \n",
    }
    assert log_lines(make_home(tmp_path / "home", {**CONTROL, **files}), "QUIT\r\n") == []


@pytest.mark.parametrize("name", ["badrcptto", "badhelo", "badmailto", "relaymailfrom", "tarpitcount"])
def test_a_file_of_another_patch_is_named(name: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, name: "x\n"})
    assert log_lines(home, "QUIT\r\n") == [f"qmail-smtpd: warning: control/{name} is not read"]


def test_morercpthosts_without_its_cdb_is_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "morercpthosts": "more.test\n"})
    warning = "qmail-smtpd: warning: control/morercpthosts is not read without morercpthosts.cdb: run qmail-newmrh"
    assert log_lines(home, "QUIT\r\n") == [warning]


@pytest.mark.parametrize("options", [["--reuse", "1"], []], ids=["called", "reused"])
def test_a_server_names_files_that_are_not_read_once(tmp_path: Path, options: list[str]) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "badrcptto": "x\n", "databytes": "1k\n"})
    words = ["-v", "-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        server.wait_for_log(rb"^tcpserver: status: 0/40$")
        assert server.log().count(b"qmail-smtpd: warning: control/badrcptto is not read\n") == 1
        for _ in range(3):
            server.ask(b"QUIT\r\n")
        server.wait_for_log(rb"^tcpserver: end ", 3)
        assert server.log().count(b"control/badrcptto") == 1
        assert server.log().count(b"control/databytes has more than digits: using 1024\n") == 3


@pytest.mark.parametrize(
    ("control", "warning"),
    [
        ({}, "control/me is missing"),
        ({**CONTROL, "databytes": {"dir": True}}, "unable to read control/databytes: is a directory"),
    ],
)
def test_the_reason_for_having_no_session_is_logged(control: dict[str, object], warning: str, tmp_path: Path) -> None:
    assert log_lines(make_home(tmp_path / "home", control), "QUIT\r\n") == ["qmail-smtpd: warning: " + warning]


def test_the_reason_for_ending_a_session_is_logged(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "morercpthosts.cdb": "broken", "maxerrors": "1\n"})
    entry = "qmail-smtpd: event=refused ip=192.0.2.1 reason="
    assert log_lines(home, "MAIL\r\n" + REFUSED) == [
        entry + "unreadable why=unable_to_read_control/morercpthosts.cdb:_not_a_cdb"
    ]
    assert log_lines(home, "X\r\nX\r\n") == [entry + "errors"]


def test_correct_control_files_cause_no_warning(tmp_path: Path) -> None:
    lists = {"rcpthosts": "# a * and an @\r\na.test\n.b.test\n", "badmailfrom": "a#b@c.test\n@d.test\n"}
    words = {"barecr": "refuse\n", "badmailfromrelay": "skip\n", "relaystrict": "", "databytes": "6\r\n"}
    assert log_lines(make_home(tmp_path / "home", {**CONTROL, **lists, **words}), "QUIT\r\n") == []


# Where the log goes.


def environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "SMTPD_LOG": "all"}


def test_nothing_is_logged_to_a_client_on_all_three_descriptors(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    (home / "bin/qmail-queue").write_text(
        "#!/bin/sh\necho the queue says something >&2\ncat >/dev/null; cat <&1 >/dev/null\n"
    )
    client, server = socket.socketpair()
    process = subprocess.Popen([script("qmail-smtpd")], env=environ(home), stdin=server, stdout=server, stderr=server)
    server.close()
    client.sendall(SESSION.encode())
    output = b""
    while part := client.recv(65536):
        output += part
    client.close()
    assert process.wait() == 0
    assert [code[:4].strip() for code in output.split(b"\r\n")] == b"220 250 250 250 250 250 354 250 221 ".split(b" ")


def test_nothing_is_logged_to_a_terminal(home: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen([script("qmail-smtpd")], env=environ(home), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    os.write(master, b"RCPT\nQUIT\n")
    while b"221 " not in output:
        output += os.read(master, 65536)
    assert process.wait() == 0
    os.close(master)
    assert b"qmail-smtpd" not in output


def test_no_traceback_reaches_the_client(home: Path) -> None:
    crashing = "import qmail_smtpd.main as m; m.converse = None; m.main()"
    command = ["sh", "-c", f'exec {sys.executable} -c "$0" 2>&1', crashing]
    done = subprocess.run(command, env=environ(home), input=b"QUIT\r\n", stdout=subprocess.PIPE, check=False)
    assert (done.stdout, done.returncode) == (b"", 1)


def test_a_closed_descriptor_2_does_not_become_a_pipe_to_the_queue(home: Path) -> None:
    command = ["sh", "-c", f"exec {script('qmail-smtpd')} 2>&-"]
    done = subprocess.run(command, env=environ(home), input=SESSION.encode(), stdout=subprocess.PIPE, check=True)
    assert done.stdout.endswith(b"\r\n221 mx.example.org\r\n")
    [message] = (home / "dump").glob("*.m")
    assert b"event=" not in message.read_bytes()
    assert b"event=" not in message.with_suffix(".e").read_bytes()


def test_a_log_reader_that_stalls_loses_lines_but_the_session_ends(home: Path) -> None:
    text = SESSION.replace(REFUSED, REFUSED * 2_000)
    with open(home / "replies", "wb") as replies:
        process = start(home, {"SMTPD_LOG": "all"}, stdout=replies)  # its descriptor 2 is not read
    assert process.stdin
    assert process.stderr
    process.stdin.write(text.encode())
    process.stdin.close()
    assert process.wait(60) == 0  # it waits a second for the first lost line; a second for each would be half an hour
    assert (home / "replies").read_bytes().endswith(b"\r\n221 mx.example.org\r\n")
    with process.stderr as log:
        lines = log.read().split(b"\n")
    assert 100 < len(lines) < 2_000
    assert all(entry.startswith(b"qmail-smtpd: event=") for entry in lines[:-1])


def test_all_sessions_end_if_their_shared_log_stalls(home: Path) -> None:
    read, write = os.pipe()
    (home / "input").write_text(SESSION.replace(REFUSED, REFUSED * 100))
    sessions = []
    for _ in range(20):
        with open(home / "input", "rb") as text:
            sessions.append(start(home, {"SMTPD_LOG": "all"}, stdin=text, stdout=subprocess.DEVNULL, stderr=write))
    os.close(write)
    assert [session.wait(60) for session in sessions] == [0] * 20
    lines = b""
    while part := os.read(read, 65536):
        lines += part
    os.close(read)
    entries = lines.split(b"\n")[:-1]
    assert 100 < len(entries) < 20 * 100  # as many as a pipe holds, and no line is split
    assert all(entry.startswith(b"qmail-smtpd: event=") for entry in entries)


def test_a_log_reader_that_resumes_gets_lines_again() -> None:
    command = """if True:
        import os, sys
        from qmail_smtpd.log import ALL, Log
        log = Log(ALL, {})
        for number in range(5000):
            log.decision(b"refused", {b"number": b"%d" % number})
        os.write(1, b"stalled")
        os.read(0, 1)
        log.decision(b"refused", {b"number": b"last"})
    """
    process = subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.read(7) == b"stalled"
    os.read(process.stderr.fileno(), 65536)
    _, rest = process.communicate(b"x")
    assert rest.endswith(b"number=last\n")


def test_a_closed_log_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    saved = os.dup(2)
    os.dup2(write, 2)
    try:
        Log(ALL, {}).decision(b"refused", {})
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(write)


def objects(text: bytes) -> list[dict[str, object]]:
    """Return the objects of a JSON log, without the times and pids, which must be numbers."""
    found = [json.loads(entry.decode("ascii")) for entry in text.splitlines()]
    assert all(isinstance(one.pop("time"), float) and isinstance(one.pop("pid"), int) for one in found)
    return found


def test_a_json_log_has_the_facts_of_the_text(home: Path) -> None:
    env = {**CLIENT, "SMTPD_LOG": "all"}
    as_text = talk(home, SESSION, env).stderr.decode().splitlines()
    as_json = talk(home, SESSION, {**env, "SMTPD_LOG_FORMAT": "json", "TCPCONNECTION": "6a0b-7"})
    for entry, found in zip(as_text, objects(as_json.stderr), strict=True):
        assert (found.pop("program"), found.pop("connection")) == ("qmail-smtpd", "6a0b-7")
        facts = dict(word.split("=", 1) for word in entry.removeprefix("qmail-smtpd: ").split(" "))
        del facts["pid"]
        if "qp" in facts:
            facts["qp"] = found["qp"]
        assert found == facts


def test_a_warning_is_an_object(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    (found,) = objects(talk(home, "QUIT\r\n", {**CLIENT, "SMTPD_LOG_FORMAT": "json"}).stderr)
    expected = {"program": "qmail-smtpd", "event": "warning", "ip": CLIENT["TCPREMOTEIP"]}
    assert found == {**expected, "text": "control/rcpthosts is missing: open relay"}


@pytest.mark.parametrize("format", ["", "text", "JSON", "json "])
def test_every_other_format_is_text(home: Path, format: str) -> None:
    assert log_lines(home, SMTPD_LOG_FORMAT=format) == log_lines(home)


@given(st.dictionaries(st.sampled_from([b"ip", b"helo", b"sender", b"recipient", b"tls", b"user"]), st.binary()))
def test_any_bytes_are_one_object_of_ascii_that_a_pipe_takes_whole(facts: dict[bytes, bytes]) -> None:
    text = json_line({b"event": b"x", b"pid": b"7", **facts})
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    found = json.loads(text.decode("ascii"))
    for key, value in facts.items():
        assert found[key.decode()].encode("latin-1") == value[:LONGEST_VALUE]


def test_an_object_that_would_be_too_long_is_cut_in_its_values() -> None:
    facts = {b"fact%d" % number: b"\0" * 300 for number in range(10)}
    text = json_line({b"event": b"x", b"pid": b"7", **facts})
    assert len(text) <= LONGEST_LINE
    assert {len(value) for key, value in json.loads(text).items() if key.startswith("fact")} == {LONGEST_JSON_VALUE}


@pytest.mark.parametrize("options", [[], ["--reuse", "1"], ["--exec"], ["-B", "220-wait\r\n"]])
def test_the_logs_of_both_programs_name_the_connection(home: Path, options: list[str]) -> None:
    words = ["-v", "-RHl0", "--log-format", "json", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    environ = {"QMAILHOME": str(home), "SMTPD_LOG": "all", "SMTPD_LOG_FORMAT": "json", "TCPCONNECTION": "inherited"}
    with Server(words, environ=environ) as server:
        for number in (1, 2):
            server.ask(b"QUIT\r\n")
            server.wait_for_log(rb'"event": "end", "pid": \d+, "status"', number)
        found = [json.loads(entry) for entry in server.log().splitlines()]
    names = [[one["connection"] for one in found if one["event"] == event] for event in ("pid", "ok")]
    ends = [one["connection"] for one in found if one["event"] == "end" and one.get("program") == "qmail-smtpd"]
    assert names == [ends, ends]
    assert [name.rpartition("-")[2] for name in ends] == ["1", "2"]


def test_without_a_json_log_no_connection_has_a_name() -> None:
    with Server(["-RHl0", "127.0.0.1", "0", "env"], environ={"TCPCONNECTION": "inherited"}) as server:
        assert b"TCPCONNECTION" not in server.ask()
