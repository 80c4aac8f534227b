"""relaytest's output, also for a hostile server; usage errors; how runs end."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from qmail_smtpd.probe.text import printable
from tests.kit.mailhome import make_home
from tests.kit.peers.standin import StandIn, behave
from tests.kit.relaytest import FAST, over_network, relaytest
from tests.kit.server import PATIENCE, compiled, has_ended, until
from tests.kit.support import script

pytestmark = pytest.mark.slow

EVIL = b"<script>alert(1)</script> [red]x[/red] \x1b[2J\x1b]0;t\x07 \r \x9b31m \xe2\x80\xae & \"'\\ \x00 end"
LISTED = ("--listed", "example.com")


def hostile(visit, line):
    """Accept a source route, and add hostile text to every reply."""
    if line == b"RCPT TO:<@example.com:relaytest@example.net>":
        return b"250 " + EVIL + b"\r\n"
    reply = behave(visit, line)
    return reply.replace(b"\r\n", b" " + EVIL + b"\r\n") if reply.startswith((b"5", b"220")) else reply


@pytest.fixture(scope="module")
def evil():
    with StandIn(hostile, greeting=b"220 mx.example.com " + EVIL + b"\r\n") as server:
        yield server


def test_no_control_character_from_the_server_gets_into_lines(evil):
    done = over_network(evil.port, *LISTED, "--verbose")
    assert done.exit == 1
    assert done.stdout.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert r"\x1b[2J" in done.stdout


def test_json_is_one_object_whatever_the_server_sends(evil):
    done = over_network(evil.port, *LISTED, "--json")
    report = done.json
    assert (report["verdict"], report["exit"]) == ("open", 1)
    texts = [probe["reply"] for client in report["clients"] for probe in client["probes"]]
    assert all(text.isascii() and text.isprintable() for text in texts)
    open_probes = [probe for client in report["clients"] for probe in client["probes"] if probe["result"] == "open"]
    assert {probe["name"].partition("/")[2] for probe in open_probes} == {"route-listed"}
    assert "C: RCPT TO:<@example.com:relaytest@example.net>" in open_probes[0]["transcript"]


class Page(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.attributes = [], [], []
        self.feed(text)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def test_no_tag_from_the_server_gets_into_the_page(evil, tmp_path):
    file = tmp_path / "page.html"
    over_network(evil.port, *LISTED, "--html", file)
    content = file.read_text()
    page = Page(content)
    assert "script" not in page.tags
    assert content.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", content)
    assert "<script>alert(1)</script> [red]x[/red] \\x1b[2J" in page.text
    assert not {"src", "href", "onclick"} & {name for name, _ in page.attributes}
    assert "default-src 'none'" in content


def on_terminal(*words, columns=100):
    """Run relaytest on a terminal. Return its output and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS=str(columns), TERM="xterm-256color")
        os.execv(script("relaytest"), ["relaytest", *map(str, words)])
    output = b""
    try:
        while part := os.read(terminal, 65536):
            output += part
    except OSError:
        pass
    os.close(terminal)
    return output.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_terminal_gets_a_table_and_progress_and_no_escape_sequence_from_the_server(evil):
    output, status = on_terminal(f"127.0.0.1:{evil.port}", "--as-outside", *FAST, *LISTED)
    assert status == 1
    assert "━" in output  # the bar, and the table's head
    text = SEQUENCE.sub("", output)
    assert re.search(r"route-listed\s+│\s+\d", text)
    assert "\x1b" not in text
    assert "\x1b[2J" not in output
    assert "[red]x[/red]" in text.replace("│", "").replace("\n", "") or "[red]" in text
    last = text[text.rindex("╭─ relaytest") :]
    assert "open: " in last


def test_a_terminal_without_rich_gets_plain_lines(tmp_path, evil):
    """As if the extra were not installed: a module of that name cannot be found."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'rich' else find(name, package)\n"
    )
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        output, status = on_terminal(f"127.0.0.1:{evil.port}", "--as-outside", *FAST, *LISTED, "--only", "null/plain")
    finally:
        del os.environ["PYTHONPATH"]
    assert status == 0
    assert "relaytest: closed: " in output
    assert "\x1b" not in output


def test_rich_and_ssl_are_loaded_only_where_they_are_needed():
    code = "import sys, qmail_smtpd.probe.cli; print({'rich', 'ssl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_a_pipe_gets_lines_with_the_verdict_last(evil):
    done = over_network(evil.port, *LISTED, "--only", "null/plain")
    assert all(line.startswith("relaytest: ") for line in done.lines)
    assert done.verdict.startswith("closed: ")
    assert (done.stderr, done.exit) == ("", 0)


def test_verbose_prints_a_line_for_each_probe(evil):
    done = over_network(evil.port, *LISTED, "-v", "--only", "*/plain")
    assert sum(line.startswith("relaytest: refused: ") for line in done.lines) == len(done.lines) - 10
    assert "relaytest: control: ok: listed recipient: postmaster@example.com is accepted: 250 ok" in done.lines


@given(some.binary(max_size=400))
def test_server_text_is_printable_and_bounded_and_short_text_loses_nothing(data):
    text = printable(data)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 303
    if len(text) < 300:
        assert text.encode().decode("unicode_escape").encode("latin-1") == data


# the file of the page


def test_the_page_replaces_an_old_one_atomically(tmp_path, evil):
    file = tmp_path / "page.html"
    file.write_text("old")
    assert over_network(evil.port, *LISTED, "--only", "null/plain", "--html", file).exit == 0
    assert file.read_text().startswith("<!DOCTYPE html>")
    assert file.read_text().endswith("</html>\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    with StandIn() as server:
        done = over_network(server.port, *LISTED, "--html", tmp_path / "no" / "page.html")
        assert done.exit == 111
        assert done.stderr == f"relaytest: fatal: unable to create {tmp_path}/no/page.html: file does not exist\n"
        assert server.visits == []


def test_a_run_that_fails_leaves_the_old_page_and_nothing_else(tmp_path):
    file = tmp_path / "page.html"
    file.write_text("old")
    assert relaytest("127.0.0.1:1", "--html", file).exit == 111
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_can_go_to_a_pipe(evil):
    done = over_network(evil.port, *LISTED, "--only", "null/plain", "--html", "/dev/stdout")
    assert "</html>\nrelaytest: " in done.stdout


# arguments


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "HOST[:PORT], or --pipe PROGRAM, or --rules CDB --home DIR"),
        (("a", "b"), "one HOST at a time"),
        (("--pipe", "--rules", "x", "--home", "y", "z"), "--pipe or --rules, not both"),
        (("--rules", "x"), "--rules needs --home"),
        (("--client", "1.2.3.4", "host"), "--client and --source need --rules"),
        (("--rules", "x", "--home", "/", "--send", "a@b"), "--rules excludes"),
        (("--pipe",), "HOST[:PORT]"),
        (("--no-such-option", "host"), "No such option"),
        (("--pause", "-1", "host"), "Invalid value for '--pause'"),
        (("--timeout", "nan", "host"), "--timeout"),
        (("host:0",), "not a host and a port: host:0"),
        (("a..b",), "not a host and a port: a..b"),
        ((".a",), "not a host and a port: .a"),
        ((f"{'a' * 70}.example:25",), f"not a host and a port: {'a' * 70}.example:25"),
        (("\udcff\udcfe.example",), r"not a host and a port: \xff\xfe.example"),
        (("--from-ip", "a..b", "127.0.0.1:1"), "not an address: a..b"),
        (("--from-ip", "127.0.0.256", "127.0.0.1:1"), "not an address: 127.0.0.256"),
        (("--from-ip", "\udcff", "127.0.0.1:1"), r"not an address: \xff"),
        (("host:0100000",), "not a host and a port: host:0100000"),
        (("host:70000",), "not a host and a port: host:70000"),
        (("host:",), "not a host and a port: host:"),
        (("host:٢٥",), "not a host and a port: host:"),
        (("[::1",), "not a host and a port: [::1"),
        (("--helo", "a b", "host"), "--helo: not a name"),
        (("--listed", "a b", "host"), "--listed: neither a domain nor an address"),
        (("--listed", "x>@example.com", "host"), "--listed: neither a domain nor an address"),
        (("--outside", "x y", "host"), "not a domain"),
        (("--outside", "example.com", "--listed", "EXAMPLE.com", "host"), "example.com is listed: it is not outside"),
        (("--send", "me", "--listed", "example.com", "host"), "--send needs an address like me@example.org"),
        (("--send", "me@mine.test", "host"), "--send needs --listed"),
        (
            ("--send", "me@mine.test", "--listed", "example.com", "--outside", "x.test", "host"),
            "--send already names the outside",
        ),
        (("--inside", "10.0.0.1/8", "host"), "--inside: 10.0.0.1/8 has host bits set"),
        (("--only", "nothing*", "host"), "--only: no probe matches nothing*"),
        (("--only", "auth-plain", "host"), "--only: no probe matches auth-plain"),
        (("--pipe", "--from-ip", "1.2.3", "x"), "not an address: 1.2.3"),
    ],
)
def test_a_usage_error_is_one_clear_line(words, expected):
    done = relaytest(*words)
    assert (done.exit, done.stdout) == (100, "")
    assert done.stderr.startswith("relaytest: fatal: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_options_may_follow_the_host_but_not_a_program(tmp_path, evil):
    done = relaytest(f"127.0.0.1:{evil.port}", "--json", "--as-outside", *FAST, *LISTED, "--only", "null/plain")
    assert done.json["verdict"] == "closed"
    code = f"import os, sys; assert sys.argv[1:] == ['--json']; os.execv({script('qmail-smtpd')!r}, ['qmail-smtpd'])"
    home = make_home(tmp_path / "home")
    done = relaytest("--pipe", "--home", home, "--only", "null/plain", sys.executable, "-c", code, "--json")
    assert done.exit == 0


def test_help_names_the_exit_codes():
    done = relaytest("--help")
    assert done.exit == 0
    assert "0 closed, 1 open, 2 cannot tell, 111 no" in " ".join(done.stdout.split())


def test_help_that_cannot_be_written_is_a_clear_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([script("relaytest"), "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    text = "relaytest: fatal: unable to write output: out of disk space\n"
    assert (done.returncode, done.stderr) == (111, text)


# the ends


def test_no_connection_is_111():
    done = relaytest("127.0.0.1:1")
    assert (done.exit, done.stdout) == (111, "")
    assert done.stderr == "relaytest: fatal: unable to connect to 127.0.0.1 port 1: connection refused\n"


def test_no_such_host_is_111():
    done = relaytest("no-such-host.invalid")
    assert done.exit == 111
    assert done.stderr.startswith("relaytest: fatal: unable to connect to no-such-host.invalid port 25: ")


def test_a_local_address_that_does_not_exist_is_111():
    done = relaytest("127.0.0.1:1", "--from-ip", "192.0.2.77")
    assert done.exit == 111
    assert done.stderr.endswith("address not available\n")


def test_a_missing_program_is_111():
    done = relaytest("--pipe", "/no/such/program")
    assert (done.exit, done.stderr) == (
        111,
        "relaytest: fatal: unable to run /no/such/program: file does not exist\n",
    )


@pytest.mark.parametrize("words", ["--pipe", "--rules r.cdb"])
def test_without_room_for_the_programs_log_one_line_says_so(words, tmp_path):
    (tmp_path / "home/control").mkdir(parents=True)
    compiled(tmp_path / "r.cdb", ":allow\n")
    shell = f"ulimit -f 0; exec {script('relaytest')} --home home {words} cat"
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (111, 1)
    assert "fatal: unable to connect to the server: No usable temporary directory" in done.stderr


def test_a_program_that_sends_nothing_is_cannot_tell_and_its_log_is_shown():
    done = relaytest("--pipe", "sh", "-c", "echo '\x1b[31mno config' >&2; exit 1")
    assert done.exit == 2
    assert r"its log says: \x1b[31mno config" in done.verdict


def test_a_program_that_ignores_sigterm_is_killed(tmp_path):
    pids = tmp_path / "pids"
    code = f"""import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({str(pids)!r}, "a") as file:
    print(os.getpid(), file=file)
os.write(1, b"554 no\\r\\n")
time.sleep(600)"""
    done = relaytest("--pipe", sys.executable, "-c", code)
    assert done.exit == 2
    for pid in pids.read_text().split():
        assert has_ended(int(pid))


def test_the_children_of_a_script_end_with_it(tmp_path):
    pid = tmp_path / "pid"
    done = relaytest("--pipe", "--timeout", "0.2", "sh", "-c", f"sleep 600 & echo $! > {pid}; wait")
    assert done.exit == 2
    started = int(pid.read_text())
    until(lambda: has_ended(started))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_descriptor_causes_no_traceback_and_sends_no_report_to_the_server(closed):
    with StandIn() as server:
        command = f"{script('relaytest')} 127.0.0.1:{server.port} --only null/plain {' '.join((*FAST, *LISTED))}"
        words = ["sh", "-c", f"{command} --as-outside {closed}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not any(b"relaytest:" in line for line in server.commands)
    assert "Traceback" not in done.stderr
    assert done.returncode == (111 if ">&-" in closed.split() else 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_leaves_nothing(tmp_path, number):
    with StandIn(lambda visit, line: b"" if line[:4] == b"RCPT" else behave(visit, line)) as server:
        command = [script("relaytest"), f"127.0.0.1:{server.port}", *LISTED, "--html", str(tmp_path / "page.html")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(lambda: any(line.startswith(b"RCPT") for line in server.commands))
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (-number, b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_causes_no_traceback(evil):
    read, write = os.pipe()
    os.close(read)
    command = [script("relaytest"), f"127.0.0.1:{evil.port}", *FAST, *LISTED, "--only", "null/plain"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    os.close(write)
    assert done.returncode == 111
    assert b"Traceback" not in done.stderr


def test_a_bug_does_not_exit_with_the_code_of_an_open_relay(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import fnmatch\nfnmatch.fnmatchcase = None\n")
    done = relaytest("127.0.0.1:1", "--only", "null/plain", PYTHONPATH=str(tmp_path))
    assert done.exit == 111
    assert "Traceback" in done.stderr


def test_json_contains_the_whole_report_of_a_client(tmp_path):
    home = make_home(tmp_path / "home")
    done = relaytest("--pipe", "--home", home, "--json", "--only", "null/plain", script("qmail-smtpd"))
    [client] = done.json["clients"]
    assert {key: client[key] for key in ("client", "verdict", "listed", "outside")} == {
        "client": "192.0.2.1",
        "verdict": "closed",
        "listed": "example.com",
        "outside": "example.net",
    }
    assert client["counts"] == {"refused": 2}
    assert json.loads(json.dumps(done.json)) == done.json
    assert Path(home).exists()
