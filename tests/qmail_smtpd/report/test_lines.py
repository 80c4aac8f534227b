"""Lines that the real programs write, lines with a logger's prefix, and lines of anything else."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.report.lines import Reader, remote_address
from qmail_smtpd.report.page import page
from qmail_smtpd.report.summary import Summary, as_data, summarize
from qmail_smtpd.report.tally import Tally
from tests.kit.mailhome import CONTROL, MESSAGE, make_home
from tests.kit.server import Server, compiled
from tests.kit.support import script

PLAIN = base64.b64encode(b"\0joe\0secret").decode()
BAD_PLAIN = base64.b64encode(b"\0j o\x1b\0wrong").decode()
EHLO = "EHLO mx.client.example\r\n"
SESSIONS = (
    f"{EHLO}{MESSAGE}QUIT\r\n",
    f"{EHLO}AUTH PLAIN {PLAIN}\r\n{MESSAGE.replace('example.com', 'elsewhere.test')}QUIT\r\n",
    f"{EHLO}AUTH PLAIN {BAD_PLAIN}\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a b@else where.test>\r\nQUIT\r\n",
    "HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@example.com>\r\nDATA\r\nhalf a message\r\n",
)
RULES = '127.0.0.2:deny\n127.0.0.3:allow,RELAYCLIENT=""\n:allow\n'


def report(*logs: bytes, now: float = 1795507923) -> Summary:
    tally = Tally()
    reader = Reader(tally, now=now)
    for log in logs:
        reader.feed(log)
        reader.finish()
    return summarize(tally, reader, 20)


def served(directory: Path, as_json: bool) -> bytes:
    """Return the log of a real server and its clients."""
    home = make_home(directory / "home", {**CONTROL, "authcleartext": "\n"})
    (home / "users").write_text("joe:{PLAIN}secret\n")
    (home / "users").chmod(0o600)
    cdb = compiled(directory / "tcp.smtp.cdb", RULES)
    words = ["-v", "-RHl0", "-x", str(cdb), *(["--log-format", "json"] if as_json else []), "127.0.0.1", "0"]
    environ = {"QMAILHOME": str(home), "SMTPD_LOG": "all", "SMTPAUTHFILE": str(home / "users"), "AUTHSLEEP": "0"}
    environ |= {"SMTPD_LOG_FORMAT": "json"} if as_json else {}
    ends = rb'"duration": ' if as_json else rb"tcpserver: end \d+ status"
    with Server([*words, script("qmail-smtpd")], environ=environ) as server:
        for number, session in enumerate(SESSIONS, 1):
            server.ask(session.encode())
            server.wait_for_log(ends, number)
        server.ask(b"QUIT\r\n", "127.0.0.2")
        server.wait_for_log(rb'"deny"' if as_json else rb"tcpserver: deny")
        server.ask(SESSIONS[0].replace("example.com", "elsewhere.test").encode(), "127.0.0.3")
        server.wait_for_log(ends, len(SESSIONS) + 1)
        return server.log()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return served(tmp_path_factory.mktemp("text"), False), served(tmp_path_factory.mktemp("json"), True)


def section(summary: Summary, key: str) -> list[tuple[str | int, ...]]:
    return next(section.rows for section in summary.sections if section.key == key)


def test_lines_of_the_real_programs_are_all_known(logs: tuple[bytes, bytes]) -> None:
    for log in logs:
        summary = report(log)
        assert summary.unknown == 0, log
        assert {name: count for name, count in summary.totals.items() if name != "bytes"} == {
            "connections": 6,
            "denied": 1,
            "refused": 1,
            "sessions": 5,
            "messages": 3,
            "recipients": 3,
            "relayed": 2,
            "logins": 1,
            "failed_logins": 1,
            "unfinished": 1,
        }
        relayed = [row[:4] for row in section(summary, "relayed")]
        assert relayed == [("127.0.0.3", "address", 1, 1), ("joe", "login", 1, 1)]
        assert section(summary, "failed_names") == [("j\\x20o\\x1b", 1)]
        assert section(summary, "refusals") == [("rcpthosts", 1), ("tcpserver: rules", 1)]
        assert section(summary, "unfinished") == [("aborted: gone", 1)]
        assert section(summary, "tls") == [("none", 5, 1)]


def test_text_and_json_of_the_same_sessions_give_the_same_report(logs: tuple[bytes, bytes]) -> None:
    stamped = b"".join(b"@400000006b0546a100000000 " + line for line in logs[0].splitlines(True))
    text, objects = (report(log) for log in (stamped, logs[1]))
    assert text.totals == objects.totals
    for from_text, from_json in zip(text.sections, objects.sections, strict=True):
        if from_text.key != "durations":
            assert [row[:6] for row in from_text.rows] == [row[:6] for row in from_json.rows]
    assert text.findings == objects.findings


def test_the_rule_is_in_the_json_log(logs: tuple[bytes, bytes]) -> None:
    assert [row[-1] for row in section(report(logs[1]), "relayed")] == ["127.0.0.3", ":"]


PREFIXES = {
    "syslog": b"Nov 24 08:11:03 mx smtp[12]: ",
    "syslog without a pid": b"Nov 24 08:11:03 mx tcpserver: ",
    "journal": b"2026-11-24T08:11:03+0000 mx tcpserver[12]: ",
    "journal, seconds": b"1795507863.123456 mx tcpserver[12]: ",
    "RFC 5424": b"2026-11-24T08:11:03.123456+00:00 mx smtp[12]: ",
    "multilog": b"@400000006b0546a100000000 ",
    "svlogd": b"2026-11-24_08:11:03.12345 ",
    "none": b"",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("which", [0, 1], ids=["text", "json"])
def test_a_prefix_changes_nothing_but_the_time(logs: tuple[bytes, bytes], which: int, prefix: bytes) -> None:
    plain = report(logs[which])
    found = report(b"".join(prefix + line for line in logs[which].splitlines(True)))
    assert found.totals == plain.totals
    assert found.unknown == 0
    assert (found.first is not None) == (prefix != b"" or which == 1)


@pytest.mark.parametrize("which", [0, 1], ids=["text", "json"])
def test_the_journals_own_json(logs: tuple[bytes, bytes], which: int) -> None:
    entries = []
    for number, line in enumerate(logs[which].splitlines()):
        message = list(line) if number % 2 else line.decode()  # unprintable messages are lists of bytes
        entries.append(json.dumps({"__REALTIME_TIMESTAMP": "1795507863123456", "MESSAGE": message}).encode() + b"\n")
    found, plain = report(b"".join(entries)), report(logs[which])
    assert (found.totals, found.lines, found.unknown) == (plain.totals, plain.lines, 0)


def test_pieces_of_any_size_give_the_same_report(logs: tuple[bytes, bytes]) -> None:
    for log in logs:
        tally = Tally()
        reader = Reader(tally)
        for place in range(0, len(log), 7):
            reader.feed(log[place : place + 7])
        reader.finish()
        assert summarize(tally, reader, 20) == report(log)


@pytest.mark.parametrize(
    ("field", "address"),
    [
        (b":192.0.2.1::40312", b"192.0.2.1"),
        (b"host.example:192.0.2.1:joe:40312", b"192.0.2.1"),
        (b":[2001:db8::1]::40312", b"2001:db8::1"),
        (b"host[x]:[2001:db8::1]:info:40312", b"2001:db8::1"),
        (b"", b""),
    ],
)
def test_the_address_of_a_client(field: bytes, address: bytes) -> None:
    assert remote_address(field) == address


def test_lines_of_other_programs_are_counted_and_passed_over() -> None:
    lines = [
        b"",
        b"Dec something",
        b"sshd: event=queued pid=1 ip=192.0.2.1 recipients=1",
        b"qmail-smtpd: hello",
        b"qmail-smtpd: event=refused pid",
        b"tcpserver: ok",
        b"{}",
        b"[1, 2]",
        b'{"event": 7}',
        b'{"event": "queued"',
        b'{"__REALTIME_TIMESTAMP": [], "MESSAGE": "tcpserver: ok 1 :: ::"}',
    ]
    summary = report(b"\n".join(lines))
    assert (summary.lines, summary.unknown) == (len(lines), len(lines))
    assert not any(summary.totals.values())


@pytest.mark.parametrize(
    "stamp",
    [
        b"@ffffffffffffffffffffffff ", b"@000000000000000000000000 ", b"9" * 60 + b" ",
        b"9999-12-31T23:59:59Z ", b"9999-12-31 23:59:60 ", b"Tue 9999-12-31 23:59:59 XYZ ",
    ],
)  # fmt: skip
def test_a_time_that_no_clock_has_is_none(stamp: bytes) -> None:
    summary = report(
        stamp
        + b"tcpserver: ok 1 :192.0.2.1:25 :192.0.2.2::1\n"
        + b"Nov 24 08:11:03 tcpserver: tcpserver: pid 2 from x\n"
    )
    assert summary.totals["connections"] == 1
    assert page(summary).endswith("</html>\n")


NO_SECONDS = ["1" + "0" * 400, "-" + "1" + "0" * 400, "1e999", "-1e999", "NaN", "-1", "1e11", "true", "null", '"1"']


@pytest.mark.parametrize("number", NO_SECONDS)
def test_a_number_that_is_no_time_counts_as_missing(number: str) -> None:
    end = f'{{"event": "end", "connection": "1", "status": 0, "duration": {number}}}\n'
    begun = '{"event": "pid", "connection": "1", "time": 1795507860}\n{"time": 1795507863, ' + end[1:]
    assert section(report(begun.encode()), "durations") == [("up to 5 s", 1)]
    assert not [found for found in report(end.encode()).sections if found.key == "durations"]
    deny = f'{{"event": "deny", "time": {number}}}'.encode()
    for stamp, first in ((b"@400000006b0546a100000000 ", 1795507863), (b"", None)):
        summary = report(stamp + deny)
        assert (summary.unknown, summary.totals["denied"], summary.first) == (0, 1, first)
    for event in ("ok", "deny", "status", "drop", "queued", "login"):
        names = "pid", "connection", "status", "children", "limit", "recipients", "bytes", "remote_ip", "rule", "reason"
        facts = "".join(f', "{name}": {number}' for name in names)
        assert page(report(f'{{"event": "{event}", "program": "qmail-smtpd"{facts}}}'.encode())).endswith("</html>\n")
        assert page(report(f'{{"event": "{event}"{facts}}}'.encode())).endswith("</html>\n")


@pytest.mark.parametrize("number", [*NO_SECONDS, "[256]", "[1e999]", '"1' + "0" * 30 + '"'])
def test_a_number_that_is_no_time_in_the_journal_is_passed_over(number: str) -> None:
    entry = f'{{"__REALTIME_TIMESTAMP": {number}, "MESSAGE": [{number}]}}\n'
    assert report(entry.encode()).lines == 1
    assert report(entry.replace("[", "").replace("]", "").encode()).lines == 1


def test_warnings_of_all_programs_are_shown() -> None:
    lines = [
        b"relay-check: warning: unable to read /var/lib/relay: access denied",
        b"qmail-smtpd: warning: control/me is missing",
        b"tcpserver: warning: dropping connection, unable to read PROXY header from 10.0.0.5: timed out",
        b"rblsmtpd: 192.0.2.1 pid 12: 451 listed",
    ]
    summary = report(b"\n".join(lines))
    assert summary.unknown == 0
    assert len(section(summary, "warnings")) == 3
    assert section(summary, "refusals") == [("rblsmtpd: listed", 1)]


def test_rblsmtpd_refuses_for_several_reasons_and_logs_what_failed() -> None:
    lines = [
        b"rblsmtpd: 192.0.2.1 pid 12: 451 see http://list.example/192.0.2.1",
        b"rblsmtpd: 192.0.2.2 pid 12: 553 listed",
        b"rblsmtpd: 192.0.2.3 pid 12: 451 temporary RBL lookup error",
        b"rblsmtpd: 192.0.2.4 pid 12: 554 SMTP protocol error: input before the greeting",
        b"rblsmtpd: 192.0.2.5 pid 12: no answer from list.example",
        b"rblsmtpd: 192.0.2.6 pid 12: no answer from list.example",
        b"rblsmtpd: 192.0.2.5 pid 12: unable to ask list.example: too many open files",
    ]
    summary = report(b"\n".join(lines))
    assert summary.unknown == 0
    reasons = {"rblsmtpd: listed": 2, "rblsmtpd: lookup": 1, "rblsmtpd: early": 1}
    assert dict(section(summary, "refusals")) == reasons
    assert section(summary, "warnings") == [
        ("rblsmtpd: no answer from list.example", 2),
        ("rblsmtpd: unable to ask list.example: too many open files", 1),
    ]


WORDS = st.sampled_from(
    [
        b"tcpserver: ",
        b"qmail-smtpd: event=",
        b"refused",
        b"login",
        b"queued",
        b" ip=",
        b" pid=1",
        b"=",
        b" ",
        b"\n",
        b"{",
        b"@",
    ]
    + [
        b'{"event": "ok", "remote_ip": ',
        b'{"time": 1e400, "event": "end", ',
        b'"program": "qmail-smtpd", ',
        b"NaN}",
        b"}",
    ]
    + [
        b"ok 1 ",
        b"deny 1 ",
        b"end 1 status ",
        b"[2001:db8::1]",
        b" result=yes user=",
        b"2026-11-24T08:11:03 ",
        b"9" * 40,
    ]
)


@given(st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=40).map(b"".join))
def test_any_bytes_are_read_and_shown_as_printable_ascii(log: bytes) -> None:
    text = json.dumps(as_data(report(log)), ensure_ascii=False, allow_nan=False)
    assert text.isascii()
    assert text.isprintable()


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "event",
                "ip",
                "time",
                "pid",
                "user",
                "result",
                "recipients",
                "program",
                "reason",
                "duration",
                "status",
            ]
        ),
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers()
        | st.sampled_from([10**400, -(10**400)])
        | st.text()
        | st.sampled_from(["queued", "login", "refused", "qmail-smtpd", "ok", "end"]),
    )
)
def test_any_object_is_read(found: dict[str, object]) -> None:
    assert report(json.dumps(found).encode()).lines == 1
