"""tcprulescheck: 0.88's output without options; --explain, --dump and --replay."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcprules.cli import tcprules, tcprulescheck
from tcprules.compile import BadLine, records, write_cdb
from tcprules.dump import rule_text
from tcprules.lookup import Rules, judge
from tcprules.replay import Undecidable, client
from tests.kit import cdbfile, forked
from tests.kit.support import script

USAGE = b"tcprulescheck: usage: tcprulescheck rules.cdb\n"
RULES = b"""# local
10.0.0.0/22:allow,RELAYCLIENT=""
10.0.1.7:deny
joe@10.0.1.7:allow
=.example.com:allow,A="b",C='d "e"'
2001:DB8::/32:allow,RELAYCLIENT=""
:allow
"""


def run(directory: Path, *words: str, stdin: bytes = b"", **environ: str) -> forked.Result:
    variables = {name.encode(): value.encode() for name, value in environ.items()}
    return forked.run(tcprulescheck, ["tcprulescheck", *words], stdin, variables, directory)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules").write_bytes(RULES)
    assert forked.run(tcprules, ["tcprules", "--quiet", "r.cdb", "r.tmp"], RULES, cwd=tmp_path).exit == 0
    return tmp_path


def test_without_a_file_it_prints_the_usage(tmp_path: Path) -> None:
    assert run(tmp_path) == (b"", USAGE, 100)


@pytest.mark.parametrize("name", ["-x", "--help", "--explains", "--", ""])
def test_the_first_word_is_always_a_file(name: str, tmp_path: Path) -> None:
    result = run(tmp_path, name, "more", "words")
    assert result == (b"", f"tcprulescheck: fatal: unable to read {name}: file does not exist\n".encode(), 111)


@pytest.mark.parametrize(
    "words",
    [
        ["--explain"],
        ["--explain", "--dump", "r.cdb"],
        ["--audit", "--dump", "r.cdb"],
        ["--audit", "--source", "rules", "r.cdb"],
        ["--dump", "--replay", "r.cdb"],
        ["--source", "rules", "r.cdb"],
        ["--against", "r.cdb", "r.cdb"],
        ["--explain", "--source"],
        ["--dump=1", "r.cdb"],
    ],
)
def test_conflicting_options_are_a_usage_error(words: list[str], rules: Path) -> None:
    result = run(rules, *words)
    assert (result.stdout, result.exit) == (b"", 100)
    assert result.stderr.startswith(b"tcprulescheck: usage: tcprulescheck [ --explain ")
    assert result.stderr.count(b"\n") == 1


def test_without_options_a_failed_write_is_ignored(rules: Path) -> None:
    for where in (">/dev/full", ">&-"):
        command = ["sh", "-c", f'exec "$@" {where}', "sh", script("tcprulescheck"), "r.cdb"]
        done = subprocess.run(command, cwd=rules, stderr=subprocess.PIPE)
        assert (done.stderr, done.returncode) == (b"", 0)


@pytest.mark.parametrize("options", [["--explain"], ["--dump"], ["--replay"], ["--audit"]])
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", b"out of disk space"), (">&-", b"file descriptor not open")])
def test_with_options_a_failed_write_is_an_error(options: list[str], where: str, why: bytes, rules: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {where}', "sh", script("tcprulescheck"), *options, "r.cdb"]
    done = subprocess.run(command, cwd=rules, input=b"", stderr=subprocess.PIPE)
    assert (done.stderr, done.returncode) == (b"tcprulescheck: fatal: unable to write output: %b\n" % why, 111)


def test_a_closed_pipe_ends_it_silently(rules: Path) -> None:
    records = [(b"10.%d.%d." % (n >> 8, n & 255), b"") for n in range(60_000)]
    write_cdb(bytes(rules / "r.cdb"), bytes(rules / "r.tmp"), records)
    process = subprocess.Popen(
        [script("tcprulescheck"), "--dump", "r.cdb"], cwd=rules, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"10.0.0.:allow\n"
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == -signal.SIGPIPE


def test_an_interrupt_ends_it_silently(rules: Path) -> None:
    process = subprocess.Popen(
        [script("tcprulescheck"), "--replay", "r.cdb"], cwd=rules, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while str(rules / "r.cdb") not in [os.path.realpath(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == (None, b"")
    assert process.returncode == -signal.SIGINT


def test_explain_prints_the_tried_keys_and_the_line_of_the_rule(rules: Path) -> None:
    for words in (
        ["--explain", "--source", "rules", "r.cdb"],
        ["r.cdb", "--explain", "--source=rules"],
        ["--source", "rules", "r.cdb", "--explain"],
    ):
        assert run(rules, *words, TCPREMOTEIP="10.0.1.8", TCPREMOTEHOST="h.example.com", TCPREMOTEINFO="joe") == (
            b"try joe@10.0.1.8: no\n"
            b"try joe@=h.example.com: no\n"
            b"try 10.0.1.8: no\n"
            b"try =h.example.com: no\n"
            b"try 10.0.1.: yes\n"
            b'from rules, line 2: 10.0.0.0/22:allow,RELAYCLIENT=""\n'
            b"rule 10.0.1.:\n"
            b"set environment variable RELAYCLIENT=\n"
            b"allow connection\n",
            b"",
            0,
        )


def test_explain_without_a_source_prints_only_the_keys(rules: Path) -> None:
    assert run(rules, "--explain", "r.cdb", TCPREMOTEIP="10.0.1.7").stdout == (
        b"try 10.0.1.7: yes\nrule 10.0.1.7:\ndeny connection\n"
    )


def test_explain_prints_the_networks_of_an_ipv6_client(rules: Path) -> None:
    result = run(rules, "--explain", "--source", "rules", "r.cdb", TCPREMOTEIP="2001:db8:1::1")
    assert result.stdout.startswith(b"try 2001:db8:1::1: no\ntry 2001:0db8:0001:0000:0000:0000:0000:000/: no\n")
    assert result.stdout.endswith(
        b'try 2001:0db8:0/: no\ntry 2001:0db8:/: yes\nfrom rules, line 6: 2001:DB8::/32:allow,RELAYCLIENT=""\n'
        b"rule 2001:0db8:/:\nset environment variable RELAYCLIENT=\nallow connection\n"
    )


def test_explain_without_a_match(rules: Path) -> None:
    write_cdb(bytes(rules / "r.cdb"), bytes(rules / "r.tmp"), [])
    result = run(rules, "--explain", "--source", "rules", "r.cdb", TCPREMOTEIP="1.2")
    assert result.stdout == b"try 1.2: no\ntry 1.: no\ntry : no\ndefault:\nallow connection\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b":deny\n", b"changed: from rules, line 1: :deny\n"),
        (b"10.:deny\n", b"changed: no line of rules makes this rule\n"),
    ],
)
def test_explain_reports_a_changed_source(source: bytes, expected: bytes, rules: Path) -> None:
    (rules / "rules").write_bytes(source)
    assert expected in run(rules, "--explain", "--source", "rules", "r.cdb").stdout


def test_explain_fails_on_a_missing_or_invalid_source(rules: Path) -> None:
    result = run(rules, "--explain", "--source", "no", "r.cdb")
    assert result == (b"", b"tcprulescheck: fatal: unable to read no: file does not exist\n", 111)
    (rules / "rules").write_bytes(b"x:\n")
    result = run(rules, "--explain", "--source", "rules", "r.cdb")
    assert result == (b"", b"tcprulescheck: fatal: unable to parse this line: x:\n", 100)


def test_explain_fails_on_a_missing_or_invalid_source_also_if_no_rule_matches(tmp_path: Path) -> None:
    text = b"10.0.0.1:deny\n"
    assert forked.run(tcprules, ["tcprules", "--quiet", "r.cdb", "r.tmp"], text, cwd=tmp_path).exit == 0
    result = run(tmp_path, "--explain", "--source", "no", "r.cdb", TCPREMOTEIP="192.0.2.1")
    assert result == (b"", b"tcprulescheck: fatal: unable to read no: file does not exist\n", 111)
    result = run(tmp_path, "--explain", "--source", "/dev/stdin", "r.cdb", stdin=b"x:\n", TCPREMOTEIP="192.0.2.1")
    assert result == (b"", b"tcprulescheck: fatal: unable to parse this line: x:\n", 100)
    result = run(tmp_path, "--explain", "--source", "/dev/stdin", "r.cdb", stdin=text, TCPREMOTEIP="192.0.2.1")
    assert result.stdout.endswith(b"try : no\ndefault:\nallow connection\n")


def test_explain_does_not_wait_for_a_fifo_without_a_writer(rules: Path) -> None:
    os.mkfifo(rules / "fifo")
    result = run(rules, "--explain", "--source", "fifo", "r.cdb")
    assert result == (b"", b"tcprulescheck: fatal: unable to read fifo: timed out\n", 111)


def test_explain_reads_the_source_from_a_pipe(rules: Path) -> None:
    result = run(rules, "--explain", "--source", "/dev/stdin", "r.cdb", stdin=RULES, TCPREMOTEIP="10.0.1.7")
    assert b"from /dev/stdin, line 3: 10.0.1.7:deny\n" in result.stdout


@pytest.mark.parametrize("device", [False, True])
def test_explain_reads_no_endless_source(rules: Path, device: bool) -> None:
    if device:
        (rules / "rules").unlink()
        (rules / "rules").symlink_to("/dev/zero")
    else:
        os.truncate(rules / "rules", 1 << 40)
    result = run(rules, "--explain", "--source", "rules", "r.cdb", TCPREMOTEIP="192.0.2.1")
    assert result == (b"", b"tcprulescheck: fatal: unable to read rules: file too big\n", 111)


def test_dump_prints_one_record_a_line(rules: Path) -> None:
    networks = b"".join(b'10.0.%d.:allow,RELAYCLIENT=""\n' % n for n in range(4))
    assert run(rules, "--dump", "r.cdb") == (
        networks
        + b"10.0.1.7:deny\njoe@10.0.1.7:allow\n"
        + b"""=.example.com:allow,A="b",C='d "e"'\n2001:db8::/32:allow,RELAYCLIENT=""\n:allow\n""",
        b"",
        0,
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" #x:deny",
        b" 1.2.3.4 :deny",
        b"1.2.3-4.5-6:deny",
        b"1.2-2.3-4.5-6:deny",
        b"10.0-1.0.0/8:deny",
        b"2-3.4/:deny",
        b"007-009:deny",
        b"joe-x@1.2.3.4-5:deny",
        b"=a-b.example:deny",
        b"2000::/3:deny",
        b"2001:db8::/125:deny",
        b"::ffff:10.0.0.0/105:deny",
        b"::/127:deny",
        b"joe@2001:db8::1:deny",
        b"0.0.0.0/1:deny",
        b"0.0.0.0/0:deny",
        b"x\0y:deny",
        b"\xff\xfe:deny",
        b"\xef\xbb\xbf1.2.3.4:deny",
        b"foo/bar:deny",
        b'1:deny,A="b"',
        b'1:allow,A="b\0c",D="e"',
        b'1:allow,A="b\0+c",D="e"',
        b'1:allow,A="b\0+c=d",D="e"',
        b'1:allow,A\0+B="c"',
        b'1:allow,A="b",C\0+D\0+E="f\0+g\0+h"',
        b'1:allow,="b",,C="d", E="f"',
        b"1:allow,A=/\"'/,B=:\"'/:",
        b"1:allow,A= b ,B=\xffc\xff",
        b"1:allow,A=\0b\0",
        b"1:allow,A===",
        b"1:allow,A= " + bytes(set(range(256)) - set(b" \n")) + b" ,B=//",
        b"1:allow,A=z" + bytes(set(range(256)) - set(b" \t\nz")) + b"z",
    ],
)
def test_dumped_rules_compile_to_the_same_bytes(line: bytes, tmp_path: Path) -> None:
    made = forked.run(tcprules, ["tcprules", "--quiet", "r.cdb", "r.tmp"], line, cwd=tmp_path)
    assert made == (b"", b"", 0)
    dumped = run(tmp_path, "--dump", "r.cdb")
    assert (dumped.stderr, dumped.exit) == (b"", 0)
    assert forked.run(tcprules, ["tcprules", "--quiet", "s.cdb", "r.tmp"], dumped.stdout, cwd=tmp_path).exit == 0
    assert (tmp_path / "s.cdb").read_bytes() == (tmp_path / "r.cdb").read_bytes()


PIECES = [
    b"1",
    b"12.",
    b"-",
    b"=",
    b"@",
    b"/",
    b"2/",
    b":",
    b"::",
    b"ff",
    b"\0",
    b"\0+",
    b"+",
    b",",
    b'"',
    b"'",
    b" ",
    b"A",
]
WORDS = st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)
LINES = st.builds(
    lambda address, verdict, pairs: address + b":" + verdict + b"".join(b",%b=|%b|" % pair for pair in pairs),
    WORDS,
    st.sampled_from([b"allow", b"deny"]),
    st.lists(st.tuples(WORDS.map(lambda word: word.replace(b"=", b"")), WORDS), max_size=3),
)


@given(LINES)
def test_every_record_of_a_line_can_be_written_as_a_line(line: bytes) -> None:
    try:
        made = list(records([line]))
    except BadLine:
        made = []
    for record in made:
        text = rule_text(*record)
        assert text is not None
        assert list(records([text])) == [record]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (b"#x", b""),
        (b"a\nb", b""),
        (b"a-b", b""),
        (b"1:2", b""),
        (b"1", b"D"),
        (b"1", b"x"),
        (b"1", b"+A=b"),
        (b"1", b"+A\0"),
        (b"1", b"+A=b\nc\0"),
        (b"1", b"+A=b\0D"),
    ],
)
def test_a_record_that_no_rule_makes_is_dumped_as_a_comment(key: bytes, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.cdb").write_bytes(cdbfile.make([(b"", b"D\0"), (key, data), (b"10.", b"")]))
    result = run(tmp_path, "--dump", "r.cdb")
    first, comment, last, end = result.stdout.split(b"\n")
    assert (first, last, end, result.exit) == (b":deny", b"10.:allow", b"", 1)
    assert comment.startswith(b"# no rule makes this record: +%d,%d:b'" % (len(key), len(data)))


LOG = b"""tcpserver: status: 1/40
tcpserver: pid 5035 from 10.0.1.7
tcpserver: ok 5035 good.example:127.0.0.1:44799 h.example.com:10.0.1.7:joe:51578
@400000006123456789abcdef tcpserver: deny 5036 0:127.0.0.1:25 :10.0.1.7::53932
Nov 24 10:00:00 mail smtpd: tcpserver: ok 5037 0:127.0.0.1:25 h.example.com:192.0.2.1::53932
tcpserver: ok 5038 0:[::1]:25 :[2001:db8::5]::53932
tcpserver: deny 5039 0:127.0.0.1:25 :10.0.3.4::53932 limit-address
tcpserver: ok 5040 0:127.0.0.1:25 h?.example.com:10.0.3.4::53932
tcpserver: ok 5041 0:127.0.0.1:25 :10.0.3.4:joe...:53932
tcpserver: ok 5042 0:127.0.0.1:25 :1...:joe:53932
tcpserver: end 5042 status 0
qmail-smtpd: something else
"""


def test_replay_judges_the_clients_of_a_log(rules: Path) -> None:
    assert run(rules, "--replay", "r.cdb", stdin=LOG) == (
        b"10.0.1.7 host=h.example.com info=joe: allow\n"
        b"10.0.1.7: deny\n"
        b"""192.0.2.1 host=h.example.com: allow,A="b",C='d "e"'\n"""
        b'2001:db8::5: allow,RELAYCLIENT=""\n'
        b'10.0.3.4: allow,RELAYCLIENT=""\n'
        b"1 of 5 clients (20%) came from 2001:db8::5, which may relay\n"
        b"5 clients, 3 not decidable\n",
        b"",
        0,
    )


def test_replay_says_which_relaying_address_has_the_most_clients(rules: Path) -> None:
    log = b"10.0.1.8\n" * 6 + b"10.0.2.9\n" * 2 + b"192.0.2.1\n" * 7 + b"10.0.1.7\n" * 9
    lines = run(rules, "--replay", "r.cdb", stdin=log).stdout.splitlines()
    assert lines[-2:] == [b"6 of 24 clients (25%) came from 10.0.1.8, which may relay", b"24 clients, 0 not decidable"]
    lines = run(rules, "--replay", "r.cdb", stdin=b"192.0.2.1\n10.0.1.7\n").stdout.splitlines()
    assert lines[1:] == [b"10.0.1.7: deny", b"2 clients, 0 not decidable"]


def test_replay_judges_plain_addresses(rules: Path) -> None:
    addresses = b"10.0.0.1\n\n 10.0.1.7 \n2001:DB8:0::5\n::ffff:10.0.1.7\n1.2.3\n1.2.3.?\n"
    assert run(rules, "--replay", "r.cdb", stdin=addresses).stdout == (
        b'10.0.0.1: allow,RELAYCLIENT=""\n10.0.1.7: deny\n2001:db8::5: allow,RELAYCLIENT=""\n10.0.1.7: deny\n'
        b"1 of 4 clients (25%) came from 10.0.0.1, which may relay\n4 clients, 2 not decidable\n"
    )


def test_replay_against_older_rules_prints_only_differences(rules: Path) -> None:
    old = b':allow,A="1",A="b"\n10.0.0.:allow,RELAYCLIENT=""\n10.0.1.:deny\n192.0.2.:deny\n=.example.com:deny,X="y"\n'
    forked.run(tcprules, ["tcprules", "--quiet", "old.cdb", "r.tmp"], old, cwd=rules)
    log = b"10.0.0.1\n10.0.1.7\n10.0.2.1\n192.0.2.1\n198.51.100.1\n10.0.1.?\n"
    for words in (["--replay", "--against", "old.cdb", "r.cdb"], ["--replay", "r.cdb", "--against=old.cdb"]):
        assert run(rules, *words, stdin=log).stdout == (
            b'10.0.2.1: allow,A="b" -> allow,RELAYCLIENT=""\n'
            b"192.0.2.1: deny -> allow\n"
            b'198.51.100.1: allow,A="b" -> allow\n'
            b"5 clients, 3 differ, 1 not decidable\n"
        )
    same = run(rules, "--replay", "--against", "r.cdb", "r.cdb", stdin=log)
    assert same.stdout == b"5 clients, 0 differ, 1 not decidable\n"


def test_replay_without_descriptor_0_cannot_read_its_input(rules: Path) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", script("tcprulescheck"), "--replay", "r.cdb"]
    done = subprocess.run(command, cwd=rules, capture_output=True)
    assert done.stderr == b"tcprulescheck: fatal: unable to read input: file descriptor not open\n"
    assert (done.stdout, done.returncode) == (b"", 111)


def test_replay_names_the_file_that_cannot_be_read(rules: Path) -> None:
    fatal = "tcprulescheck: fatal: unable to read {}: file does not exist\n"
    assert run(rules, "--replay", "no") == (b"", fatal.format("no").encode(), 111)
    assert run(rules, "--replay", "--against", "no", "r.cdb") == (b"", fatal.format("no").encode(), 111)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"tcpserver: ok",
        b"tcpserver: ok 1 0:1.2.3.4:25 :1.2.3.4:53932",
        b"tcpserver: ok 1 0:1.2.3.4:25 :2001:db8::1::53932",
        b"xtcpserver: ok 1 0:1.2.3.4:25 :1.2.3.4::53932",
        b"tcpserver: end 1 status 256",
        b"a client: 1.2.3.4",
    ],
)
def test_a_line_without_a_client_is_ignored(line: bytes) -> None:
    assert client(line) is None


@pytest.mark.parametrize(
    "field", [b"a?b:1.2.3.4:", b"a...:1.2.3.4:", b":1.2.?.4:", b":1.2...:", b":1.2.3.4:j?", b":1.2.3.4:j..."]
)
def test_a_client_with_lost_characters_is_undecidable(field: bytes) -> None:
    with pytest.raises(Undecidable):
        client(b"tcpserver: ok 1 0:1.2.3.4:25 " + field + b":53932")


def test_lost_characters_of_the_local_side_do_not_matter() -> None:
    log_client = client(b"tcpserver: ok ? loc?l:1.2...:? :1.2.3.4::?")
    assert log_client
    assert (log_client.ip, log_client.host, log_client.info) == (b"1.2.3.4", None, None)


def test_explain_and_check_agree_with_the_servers_lookup(rules: Path) -> None:
    content = Rules.from_bytes((rules / "r.cdb").read_bytes())
    for ip in ("10.0.1.7", "10.0.2.2", "2001:db8::1", "2001:db9::1", "192.0.2.1"):
        verdict = judge(content, ip.encode(), None, None)
        plain = run(rules, "r.cdb", TCPREMOTEIP=ip)
        assert plain.stdout.endswith(b"deny connection\n" if verdict.deny else b"allow connection\n")
        assert plain.stdout.startswith(b"rule %b:\n" % verdict.key if verdict.key is not None else b"default:\n")
        assert run(rules, "--explain", "r.cdb", TCPREMOTEIP=ip).stdout.endswith(plain.stdout)
