"""relay-allow, relay-check, clearopensmtp, relay-list: arguments, environment, exit codes. A chain always goes on."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd.relay import allow, check, clear
from tests.kit.relayhome import LIVE, NOT_LIVE, SHOW, SILENT, Home
from tests.kit.support import ROOT, script

V4, V6 = b"192.0.2.7", b"2001:db8::7"
CHAINS = {"relay-allow": allow.main, "relay-check": check.main}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def entry(home: Home, name: str = "192.0.2.7") -> list[str]:
    """Return the words of an entry."""
    return (home.store / name).read_text().split()


# relay-allow


def test_a_login_is_recorded_with_user_and_service(home: Home) -> None:
    before = int(time.time())
    assert home.login(V4) == SILENT
    version, address, service, seen, expires, user = entry(home)
    assert (version, address, service, user) == ("1", "192.0.2.7", "pop3", "joe@example.com")
    assert before <= int(seen) <= time.time()
    assert int(expires) == int(seen) + 2400


SERVICES = {
    b"110": "pop3",
    b"995": "pop3s",
    b"143": "imap",
    b"993": "imaps",
    b"2110": "2110",
    b"0": "0",
    b"": "unknown",
    b"pop3": "unknown",
    b"110\n": "unknown",
    b"123456": "unknown",
    b"-1": "unknown",
}


@pytest.mark.parametrize("port", SERVICES)
def test_the_port_names_the_service(home: Home, port: bytes) -> None:
    assert home.login(V4, port=port) == SILENT
    assert entry(home)[2] == SERVICES[port]


def test_without_a_port_the_service_is_unknown(home: Home) -> None:
    done = home.run(allow.main, b"true", TCPREMOTEIP=V4, USER=b"joe", TCPLOCALPORT=None)
    assert done == SILENT
    assert entry(home)[2] == "unknown"


USERS = {
    b"joe": "joe",
    b"joe doe": r"joe\x20doe",
    b"joe\nRELAYCLIENT=": r"joe\x0aRELAYCLIENT\x3d",
    b"joe\r": r"joe\x0d",
    b"j\xc3\xb6e": r"j\xc3\xb6e",
    b"\x1b[31m": r"\x1b[31m",
    b"j\\x00": r"j\x5cx00",
    b'"joe"': r"\x22joe\x22",
    b"j" * 5000: "j" * 256,
    b"\n" * 5000: r"\x0a" * 256,
}


@pytest.mark.parametrize("user", USERS)
def test_a_user_name_is_escaped_for_logs_and_the_environment(home: Home, user: bytes) -> None:
    assert home.login(V4, user=user) == SILENT
    assert entry(home)[5] == USERS[user]
    assert home.check(V4) == b",," + USERS[user].encode() + b"\n"


@pytest.mark.parametrize("user", [None, b""])
def test_a_login_without_user_is_not_recorded(home: Home, user: bytes | None) -> None:
    """relay-allow before the checker, where it would record every client."""
    done = home.run(allow.main, b"echo", b"on", TCPREMOTEIP=V4, USER=user)
    assert (done.stdout, done.exit) == (b"on\n", 0)
    assert done.stderr == b"relay-allow: warning: USER is not set: is there a password checker before this program?\n"
    assert os.listdir(home.store) == []


NO_ADDRESSES = [None, b"", b"unknown", b":allow", b"1.2.3.4:allow", b"../control/me", b"192.0.2.7\n", b"/etc/passwd"]


@pytest.mark.parametrize("address", NO_ADDRESSES)
@pytest.mark.parametrize("name", CHAINS)
def test_an_invalid_address_is_reported_and_the_chain_goes_on(home: Home, name: str, address: bytes | None) -> None:
    done = home.run(CHAINS[name], *SHOW, TCPREMOTEIP=address, USER=b"joe")
    assert (done.stdout, done.exit) == (NOT_LIVE, 0)
    assert re.fullmatch(rb"%b: warning: (no relaying: )?not an address: [!-~]*\n" % name.encode(), done.stderr)
    assert os.listdir(home.store) == []


@pytest.mark.parametrize("name", ["norelay", "relaydir", "relaystore", "relayseconds", "relayproxies"])
def test_a_control_file_that_is_a_dangling_link_allows_no_relaying(home: Home, name: str) -> None:
    for variable in (b"RELAY_DIR", b"RELAY_PROXIES"):
        value = home.environ.pop(variable)
        home.control(variable.decode().lower().replace("_", ""), value.decode())
    assert home.login(V4) == SILENT
    (home.path / "control" / name).unlink(missing_ok=True)
    (home.path / "control" / name).symlink_to("nowhere")
    done = home.login(b"192.0.2.8")
    assert done.exit == 0
    assert done.stderr == b"relay-allow: warning: unable to read control/%b: file does not exist\n" % name.encode()
    assert not (home.store / "192.0.2.8").exists()
    done = home.run(check.main, *SHOW, TCPREMOTEIP=V4)
    assert (done.stdout, done.exit) == (LIVE if name == "norelay" else NOT_LIVE, 0)


def test_a_user_in_norelay_is_not_recorded_in_any_case(home: Home) -> None:
    # a byte order mark, blanks, CRs and a comment after a name change nothing
    home.control("norelay", "\ufeffann@example.com\r\n# reads mail only\r\nBob\n joe \t# scanner\ncarol#1\r\nlast\r")
    for user in (b"ann@example.com", b"Ann@Example.COM", b"bob", b"joe", b"carol#1", b"last"):
        assert home.login(V4, user=user) == SILENT
    assert os.listdir(home.store) == []
    for user in (b"ann", b"ann@example.com.test", b"bob@example.com", b"# reads mail only"):
        assert home.login(V4, user=user) == SILENT
        (home.store / "192.0.2.7").unlink()


def test_with_an_unreadable_norelay_no_user_is_recorded(home: Home) -> None:
    (home.path / "control" / "norelay").mkdir()
    done = home.run(allow.main, b"echo", b"on", TCPREMOTEIP=V4, USER=b"joe")
    assert done == (b"on\n", b"relay-allow: warning: unable to read control/norelay: is a directory\n", 0)
    assert os.listdir(home.store) == []


def test_a_login_from_a_proxy_is_not_recorded_and_not_reported(home: Home) -> None:
    assert home.login(b"::ffff:127.0.0.1") == SILENT
    assert os.listdir(home.store) == []


def test_a_login_through_a_proxy_that_does_not_name_its_client_is_not_recorded(home: Home) -> None:
    done = home.run(allow.main, b"true", TCPREMOTEIP=V4, USER=b"joe@example.com", NORELAY=b"1")
    assert done == SILENT
    assert os.listdir(home.store) == []


def replace_by_file(home: Home) -> None:
    home.store.rmdir()
    home.store.touch()


FAILURES: dict[str, tuple[Callable[[Home], object], bytes]] = {
    "no store": (lambda home: home.store.rmdir(), b"unable to read %b: file does not exist"),
    "a world-writable store": (lambda home: home.store.chmod(0o777), b"directory is world-writable: %b"),
    "a file in place of the store": (replace_by_file, b"unable to [a-z]+ %b/.*: not a directory"),
    "an unreadable control file": (
        lambda home: (home.path / "control/relaystore").mkdir(),
        b"unable to read control/relaystore: is a directory",
    ),
    "an invalid number": (
        lambda home: home.control("relayseconds", "forty"),
        b"RELAY_SECONDS is not a number of seconds, or more than thirty years",
    ),
    "an invalid network": (
        lambda home: home.control("relayproxies", "10.1/8") or home.environ.pop(b"RELAY_PROXIES"),
        b"RELAY_PROXIES has 10.1/8: .*",
    ),
    "a relative path": (
        lambda home: home.environ.update({b"RELAY_DIR": b"store"}),
        b"the store's directory must begin with a slash",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", CHAINS)
def test_a_store_error_is_one_line_and_the_chain_goes_on(home: Home, name: str, failure: str) -> None:
    make, text = FAILURES[failure]
    make(home)
    done = home.run(CHAINS[name], *SHOW, TCPREMOTEIP=V4, USER=b"joe")
    assert (done.stdout, done.exit) == (NOT_LIVE, 0)
    text = text.replace(b"%b", re.escape(bytes(home.store)))
    assert re.fullmatch(rb"%b: warning: (no relaying: )?%b\n" % (name.encode(), text), done.stderr), done.stderr


@pytest.mark.parametrize("name", CHAINS)
def test_without_a_program_there_is_a_usage_line(home: Home, name: str) -> None:
    done = home.run(CHAINS[name], TCPREMOTEIP=V4, USER=b"joe")
    assert done == (b"", b"%b: usage: %b program [ arg ... ]\n" % (name.encode(), name.encode()), 100)
    assert os.listdir(home.store) == []


@pytest.mark.parametrize("name", CHAINS)
def test_a_program_that_cannot_be_run_is_named(home: Home, name: str) -> None:
    done = home.run(CHAINS[name], b"nonesuch", TCPREMOTEIP=V4, USER=b"joe")
    assert done == (b"", b"%b: fatal: unable to run nonesuch: file does not exist\n" % name.encode(), 111)


@pytest.mark.parametrize("name", CHAINS)
def test_the_next_program_inherits_everything_unchanged(home: Home, name: str) -> None:
    """Arguments, variables, directory, descriptors, umask and signals."""
    inspect = (
        "import os, signal, sys; print(sys.argv[1:], sorted(os.environb), os.getcwd(), os.umask(0));"
        "print(os.listdir('/proc/self/fd'), os.read(0, 99));"
        "print([line for line in open('/proc/self/status') if line[:6] in ('SigIgn', 'SigBlk', 'Groups')])"
    )
    words = [sys.executable, "-IS", "-c", inspect, "a b", "", "\udcff"]
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe", b"odd name": b"\xff", b"EMPTY": b""}

    def run(command: list[str]) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(command, env=environ, cwd=home.path, input=b"in", capture_output=True, umask=0o27)

    plain, through = run(words), run([script(name), *words])
    assert through.stdout == plain.stdout
    assert (through.stderr, through.returncode) == (b"", 0)


def test_a_stalled_log_does_not_block_a_login(home: Home) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    home.store.rmdir()
    command = [script("relay-allow"), "echo", "on"]
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe"}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=writer, timeout=20)
    assert (done.stdout, done.returncode) == (b"on\n", 0)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("name", CHAINS)
def test_a_store_error_is_not_written_to_the_client_under_inetd(home: Home, name: str) -> None:
    home.store.rmdir()
    client, server = socket.socketpair()
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe"}
    with client, server:
        subprocess.run(
            [script(name), "echo", "on"], env=environ, stdin=server, stdout=server, stderr=server, check=True
        )
        server.shutdown(socket.SHUT_WR)
        assert client.recv(4096) == b"on\n"


@pytest.mark.parametrize("name", CHAINS)
def test_a_store_error_is_written_to_a_terminal(home: Home, name: str) -> None:
    """A chain that is run by hand has descriptors 0, 1 and 2 on one device."""
    home.store.rmdir()
    master, slave = pty.openpty()
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe"}
    subprocess.run([script(name), "true"], env=environ, stdin=slave, stdout=slave, stderr=slave, check=True)
    os.set_blocking(master, False)
    assert os.read(master, 4096).startswith(b"%b: warning: " % name.encode())
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_with_closed_descriptors_a_login_is_recorded_and_goes_on(home: Home, closed: str) -> None:
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe"}
    command = ["sh", "-c", f'"{script("relay-allow")}" sh -c "exit 7" {closed}']
    assert subprocess.run(command, env=environ, capture_output=True).returncode == 7
    assert len(entry(home)) == 6


# relay-check


def test_a_client_may_relay_after_its_login_and_its_neighbour_may_not(home: Home) -> None:
    for address in (V4, V6):
        assert home.check(address) == NOT_LIVE
        home.login(address)
        assert home.check(address) == LIVE
        assert home.check(address[:-1] + b"8") == NOT_LIVE
    assert home.check(b"::ffff:192.0.2.7") == LIVE


def test_variables_that_the_rules_set_are_kept(home: Home) -> None:
    home.login(V4)
    assert home.check(V4, RELAYCLIENT=b"@fixup") == b"@fixup,unset,unset\n"
    assert home.check(V4, RELAYCLIENT=b"") == b",unset,unset\n"
    assert home.check(V4, RBLSMTPD=b"-listed") == b",-listed,joe@example.com\n"
    assert home.check(V4, RELAY_USER=b"root") == LIVE
    assert home.check(b"192.0.2.8", RELAY_USER=b"x", RBLSMTPD=b"y") == b"unset,y,x\n"


def test_a_client_that_its_proxy_does_not_name_may_not_relay_by_a_login(home: Home) -> None:
    home.login(V4)
    assert home.check(V4, NORELAY=b"1") == NOT_LIVE
    assert home.check(V4, NORELAY=b"") == NOT_LIVE
    assert home.check(V4) == LIVE


def test_a_store_without_users_sets_an_empty_relay_user(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "open-smtp")
    home.login(V4)
    assert home.check(V4, RELAY_USER=b"root") == b",,\n"


def test_relaying_ends_with_the_window_without_cron(home: Home) -> None:
    now = int(time.time())
    for left, expected in ((1000, LIVE), (0, NOT_LIVE), (-1, NOT_LIVE)):
        (home.store / "192.0.2.7").write_text(f"1 192.0.2.7 pop3 {now - 1400} {now + left} joe@example.com\n")
        assert home.check(V4) == expected
    assert (home.store / "192.0.2.7").exists()  # checks never unlink


def test_control_files_apply_where_variables_are_unset(home: Home) -> None:
    home.control("relaydir", f"{home.store}\n")
    home.control("relayproxies", "::1\n")
    home.login(b"127.0.0.1")
    home.environ.pop(b"RELAY_PROXIES")
    home.environ.pop(b"RELAY_DIR")
    assert home.login(b"127.0.0.1") == SILENT
    assert home.check(b"127.0.0.1") == LIVE
    home.control("relayproxies", "127.0.0.0/8\n")
    assert home.check(b"127.0.0.1") == NOT_LIVE


# clearopensmtp


ARTICLE = "40 * * * * /home/vpopmail/bin/clearopensmtp 2>&1 > /dev/null"


@pytest.mark.parametrize("kind", ["directory", "open-smtp"])
def test_the_articles_crontab_line_works_and_prints_nothing(tmp_path: Path, kind: str) -> None:
    home = Home(tmp_path / "home", kind)
    for name, value in home.environ.items():
        if name.startswith(b"RELAY_"):
            home.control(name.decode().lower().replace("_", ""), value.decode() + "\n")
    home.open(time.time() - 2401).allow(V4, b"joe", b"pop3")
    home.open(time.time()).allow(V6, b"joe", b"pop3")
    command = ARTICLE.removeprefix("40 * * * * ").replace("/home/vpopmail/bin/clearopensmtp", script("clearopensmtp"))
    cron = {
        "HOME": "/root",
        "LOGNAME": "root",
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/sh",
        "QMAILHOME": str(home.path),
    }
    for _ in range(2):
        done = subprocess.run(["/bin/sh", "-c", command], env=cron, capture_output=True)
        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
        assert [found.address for found in home.open(time.time() - 2401).all()] == [V6]


def test_cron_mails_errors(home: Home) -> None:
    """`2>&1 >/dev/null` in this order: descriptor 2 goes to cron, only 1 is discarded."""
    home.store.rmdir()
    command = f"{script('clearopensmtp')} 2>&1 > /dev/null"
    done = subprocess.run(["/bin/sh", "-c", command], env=home.environ, capture_output=True)
    text = b"clearopensmtp: fatal: unable to read %b: file does not exist\n" % bytes(home.store)
    assert (done.stdout, done.stderr, done.returncode) == (text, b"", 111)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_store_error_is_one_line_and_111(home: Home, failure: str) -> None:
    make, text = FAILURES[failure]
    make(home)
    done = home.clear()
    assert (done.stdout, done.exit) == (b"", 111)
    text = text.replace(b"%b/.*", b"%b").replace(b"%b", re.escape(bytes(home.store)))
    assert re.fullmatch(b"clearopensmtp: fatal: %b\n" % text, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("output", "why"), [(">/dev/full", b"out of disk space"), (">&-", b"file descriptor not open")]
)
def test_a_line_that_clearopensmtp_cannot_write_is_one_line_and_111(output: str, why: bytes, home: Home) -> None:
    environ = {**home.environ, b"RELAY_STORE": b"redis://192.0.2.1"}  # which clearopensmtp does not ask
    command = ["sh", "-c", f"exec {script('clearopensmtp')} {output}"]
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (111, b"clearopensmtp: fatal: unable to write output: %b\n" % why)


def test_arguments_are_ignored_as_by_the_original(home: Home) -> None:
    assert home.run(clear.main, b"-x", b"/etc") == SILENT


# relay-list


def listing(home: Home, *words: bytes) -> tuple[list[str], bytes, int]:
    done = subprocess.run([script("relay-list"), *words], env=home.environ, capture_output=True)
    return done.stdout.decode().splitlines(), done.stderr, done.returncode


def test_the_table_shows_the_live_entries_and_their_remaining_time(home: Home) -> None:
    now = int(time.time())
    home.open(now - 60).allow(V6, b"ann", b"imaps")
    home.open(now).allow(V4, b"joe@example.com", b"pop3")
    home.open(now - 2400).allow(b"192.0.2.8", b"expired", b"pop3")
    lines, stderr, status = listing(home)
    assert (stderr, status) == (b"", 0)
    assert lines[0].split() == ["address", "user", "service", "seen", "left"]
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"2001:db8::7  ann              imaps    {when}  3[89]:\d\d", lines[1])
    assert re.fullmatch(rf"192\.0\.2\.7    joe@example\.com  pop3     {when}  (39:[0-5]\d|40:00)", lines[2])
    assert len(lines) == 3


def test_json_has_one_object_a_line(home: Home) -> None:
    now = int(time.time())
    home.open(now).allow(V4, b"joe\\x20doe", b"pop3")
    lines, stderr, status = listing(home, b"--json")
    assert (stderr, status) == (b"", 0)
    expected = {"address": "192.0.2.7", "user": r"joe\x20doe", "service": "pop3", "seen": now, "expires": now + 2400}
    assert [json.loads(line) for line in lines] == [expected]


@pytest.mark.parametrize("words", [(), (b"--json",)])
def test_an_empty_store_prints_nothing(home: Home, words: tuple[bytes, ...]) -> None:
    assert listing(home, *words) == ([], b"", 0)


def test_vpopmails_list_has_no_users(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "open-smtp")
    home.login(V4)
    assert listing(home)[0][1].split()[:3] == ["192.0.2.7", "-", "-"]
    assert json.loads(listing(home, b"--json")[0][0])["user"] == ""


@pytest.mark.parametrize("kind", ["directory", "open-smtp"])
def test_deny_removes_one_client(tmp_path: Path, kind: str) -> None:
    home = Home(tmp_path / "home", kind)
    home.login(V4)
    home.login(V6)
    assert listing(home, b"--deny", b"::ffff:192.0.2.7") == ([], b"", 0)
    assert home.check(V4) == NOT_LIVE
    assert home.check(V6)[:2] == b",,"
    assert listing(home, b"--deny", b"192.0.2.7") == ([], b"relay-list: no entry for 192.0.2.7\n", 1)


USAGE = b"relay-list: usage: relay-list [ --limits ] [ --json ] | --deny address | --reset who\n"


@pytest.mark.parametrize("words", [[b"--deny"], [b"--deny", b"nobody"], [b"--deny", b""], [b"--deny", b"../x"],
                                   [b"--json", b"--deny", b"192.0.2.7"], [b"x"], [b"--no"]])  # fmt: skip
def test_invalid_arguments_print_the_usage(home: Home, words: list[bytes]) -> None:
    home.login(V4)
    assert listing(home, *words) == ([], USAGE, 100)
    assert home.check(V4) == LIVE


def test_a_store_error_is_one_line_for_relay_list(home: Home) -> None:
    home.store.chmod(0o777)
    assert listing(home) == ([], b"relay-list: fatal: directory is world-writable: %b\n" % bytes(home.store), 111)


@pytest.mark.parametrize("words", [(), (b"--json",), (b"--help",)])
def test_a_failed_write_is_one_line(home: Home, words: tuple[bytes, ...]) -> None:
    home.login(V4)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([script("relay-list"), *words], env=home.environ, stdout=full, stderr=subprocess.PIPE)
    assert (done.stderr, done.returncode) == (b"relay-list: fatal: unable to write output: out of disk space\n", 111)


def test_a_closed_output_is_one_line(home: Home) -> None:
    home.login(V4)
    done = subprocess.run(["sh", "-c", '"$0" >&-', script("relay-list")], env=home.environ, stderr=subprocess.PIPE)
    text = b"relay-list: fatal: unable to write output: file descriptor not open\n"
    assert (done.stderr, done.returncode) == (text, 111)


def test_a_closed_pipe_ends_relay_list(home: Home) -> None:
    for number in range(3000):
        (home.store / f"10.0.{number >> 8}.{number & 255}").write_text(
            f"1 10.0.{number >> 8}.{number & 255} pop3 {int(time.time())} {int(time.time()) + 2400} joe\n"
        )
    with subprocess.Popen(
        [script("relay-list"), "--json"], env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -13


def blocks(page: str) -> list[str]:
    """Return the indented blocks of a documentation page, without their indentation."""
    text = (ROOT / "docs" / page).read_text()
    return [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?m)(?:^    .*\n)+", text)]


def test_the_examples_in_the_documentation_print_what_they_show(tmp_path: Path) -> None:
    *_, login, login_output = blocks("relay-allow.md")
    *_, check, check_output = blocks("relay-check.md")
    script_text = (login + check).replace("/tmp/relay", str(tmp_path / "relay"))
    path = f"{Path(script('relay-allow')).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["sh", "-c", script_text], env={"PATH": path, "QMAILHOME": str(tmp_path)}, capture_output=True
    )
    output = re.sub(rb"\d{10}", b"TIME", done.stdout)
    assert output == re.sub(rb"\d{10}", b"TIME", (login_output + check_output).encode())
    assert done.stderr == b""
