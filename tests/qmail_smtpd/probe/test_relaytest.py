"""relaytest from its command line: our own server for an outside client, closed, and opened in each way."""

import subprocess
import sys
from pathlib import Path

import pytest

from qmail_smtpd.probe.vantage import Inside
from tests.kit.mailhome import make_home
from tests.kit.mailserver import Server
from tests.kit.peers.standin import END, StandIn, Visit, behave
from tests.kit.relaytest import FAST, over_network, relaytest
from tests.kit.server import compiled
from tests.kit.support import ROOT, script

pytestmark = pytest.mark.slow

QMAIL_SMTPD = script("qmail-smtpd")
ME = {"me": "mail.example.com\n"}
CLOSED = {**ME, "rcpthosts": "example.com\n"}
QUICKSTART = ROOT / "examples"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", dict(CLOSED))


def pipe(home: Path, *words: object):
    return relaytest("--pipe", "--home", home, *words, QMAIL_SMTPD)


# our server and an outside client


def test_the_quick_start_on_a_pipe_is_closed(tmp_path: Path) -> None:
    control = {path.name: path.read_text() for path in (QUICKSTART / "control").iterdir()}
    done = pipe(make_home(tmp_path / "home", control))
    assert (done.exit, done.stderr) == (0, "")
    assert done.verdict.startswith("closed: ")


def test_a_server_over_the_network_from_another_address_is_closed(tmp_path: Path) -> None:
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, []) as server:
        done = over_network(server.port, "--from-ip", "127.0.0.2")
        assert (done.exit, done.stderr) == (0, "")
        assert done.lines[0].endswith("asked from 127.0.0.2 (loopback)")
        assert done.verdict.startswith("closed: ")
        assert server.bodies() == []


def test_a_server_that_lets_this_client_relay_is_inside(tmp_path: Path) -> None:
    with Server(tmp_path / "home", Path(script("tcpserver")).parent, []) as server:
        done = relaytest(f"127.0.0.1:{server.port}", *FAST)
        assert (done.exit, done.stderr) == (2, "")
        assert done.verdict.startswith(
            "inside: you are inside, and may relay: test from outside, or use --rules or --pipe"
        )
        assert over_network(server.port).exit == 1  # with --as-outside it is open


def test_without_rcpthosts_the_server_is_open_and_the_advice_says_so(tmp_path: Path) -> None:
    done = pipe(make_home(tmp_path / "home", dict(ME)))
    assert done.exit == 1
    assert done.verdict.startswith("open: ")
    assert f"relaytest: change: {tmp_path}/home/control/rcpthosts: is missing" in done.stdout


def test_relayclient_for_every_client_is_open_and_the_advice_names_the_line(home: Path, tmp_path: Path) -> None:
    rules = tmp_path / "tcp.smtp"
    rules.write_text('# every client\n127.0.0.1:allow,RELAYCLIENT=""\n:allow,RELAYCLIENT=""\n')
    cdb = compiled(tmp_path / "tcp.smtp.cdb", rules.read_text())
    done = relaytest("--rules", cdb, "--home", home)
    assert done.exit == 1
    assert done.verdict == "open: 192.0.2.1 and 1 more may relay"
    assert f'change: {rules}, line 3: :allow,RELAYCLIENT="": gives RELAYCLIENT to every client' in done.stdout
    assert "client 127.0.0.1: inside: it may relay" in done.stdout


def test_relayclient_in_the_environment_of_the_program_is_open(home: Path) -> None:
    done = relaytest("--pipe", "--home", home, "env", "RELAYCLIENT=", QMAIL_SMTPD)
    assert done.exit == 1


def test_an_inherited_relayclient_is_not_passed_to_the_program(home: Path) -> None:
    done = relaytest("--pipe", "--home", home, QMAIL_SMTPD, RELAYCLIENT="", TCPREMOTEIP="127.0.0.1")
    assert done.exit == 0


def test_from_ip_is_the_client_address_that_the_program_gets(home: Path) -> None:
    code = 'import os; assert os.environ["TCPREMOTEIP"] == "2001:db8::9" and os.environ["PROTO"] == "TCP6"; '
    code += f'os.execv("{QMAIL_SMTPD}", ["qmail-smtpd"])'
    done = relaytest("--pipe", "--home", home, "--from-ip", "2001:DB8::9", sys.executable, "-c", code)
    assert done.exit == 0, done.stdout


def test_an_inside_client_on_a_pipe_that_may_relay_is_inside(home: Path) -> None:
    command = ("env", "RELAYCLIENT=", QMAIL_SMTPD)
    assert relaytest("--pipe", "--home", home, "--from-ip", "10.0.0.1", *command).exit == 2
    assert relaytest("--pipe", "--home", home, "--from-ip", "10.0.0.1", "--as-outside", *command).exit == 1
    assert relaytest("--pipe", "--home", home, "--from-ip", "198.51.100.7", *command).exit == 1
    own = ("--inside", "198.51.100.0/24")
    assert relaytest("--pipe", "--home", home, "--from-ip", "198.51.100.7", *own, *command).exit == 2


def test_an_accepted_percent_hack_needs_a_message_and_is_not_open(home: Path) -> None:
    done = pipe(home, "--json")
    assert done.exit == 0
    assert done.results["null/percent-listed"] == "needs --send"
    assert done.results["null/plain"] == "refused"


def test_the_strict_mode_is_advised_and_refuses_percent_hacks(home: Path) -> None:
    assert f"change: {home}/control/relaystrict: " in pipe(home, "--only", "null/percent").stdout
    (home / "control" / "relaystrict").touch()
    done = pipe(home, "--json", "--only", "outside/*")
    expected = {"decnet-listed", "route-outside", "route-outside-twice", "fullwidth-percent"}
    assert {name.partition("/")[2] for name, word in done.results.items() if word == "needs --send"} == expected
    assert not done.json["change"]


def test_no_message_is_sent_without_send(home: Path) -> None:
    pipe(home)
    assert list((home / "dump").iterdir()) == []


def test_only_rset_follows_rcpt() -> None:
    with StandIn() as server:
        assert over_network(server.port, "--listed", "example.com").exit == 0
        for visit in server.visits:
            for line, following in zip(visit.commands, visit.commands[1:], strict=False):
                if line[:4] == b"RCPT":  # anything but RSET is within a probe of session states
                    assert following[:4] in (b"RSET", b"RCPT", b"MAIL", b"EHLO"), visit.commands
            assert visit.commands[-2:] == [b"RSET", b"QUIT"], visit.commands
        assert b"DATA" not in server.commands


def test_relaytest_identifies_itself_and_opens_one_connection_at_a_time() -> None:
    with StandIn() as server:
        over_network(server.port, "--listed", "example.com")
        assert server.most_at_once == 1
        assert server.visits[0].commands[0].startswith(b"EHLO relaytest.")
        assert {len(visit.commands) for visit in server.visits} <= set(range(40))  # nine probes on each


# the domains and clients of a run


def names_of(home: Path, *words: object) -> tuple[str, str]:
    """Return the listed and the outside domain of a run."""
    [client] = pipe(home, "--json", "--only", "null/plain", *words).json["clients"]
    assert client["verdict"] == "closed", client
    return client["listed"], client["outside"]


def test_the_home_gives_the_listed_and_the_outside_domain(tmp_path: Path) -> None:
    control = {**ME, "rcpthosts": "#x\n.wild.example\nmine.example\nexample.net\n"}
    home = make_home(tmp_path / "home", dict(control))
    assert names_of(home) == ("example.net", "example.org")
    assert names_of(home, "--listed", "a.wild.example", "--outside", "Other.Test") == ("a.wild.example", "other.test")
    (home / "control" / "rcpthosts").write_text(".wild.example\n.org\n.net\n")
    assert names_of(home) == ("relaytest.net", "example.com")


def test_if_all_example_domains_are_listed_an_invalid_one_is_outside(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**ME, "rcpthosts": "example.net\nexample.org\nexample.com\n"})
    assert names_of(home) == ("example.com", "relaytest.invalid")


def test_morercpthosts_alone_gives_the_listed_domain(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**ME, "rcpthosts": "", "morercpthosts": "more.example\nexample.net\n"})
    subprocess.run([script("qmail-newmrh")], env={"QMAILHOME": str(home)}, check=True)
    assert names_of(home) == ("more.example", "example.org")


def test_an_outside_domain_that_is_listed_is_refused(home: Path) -> None:
    (home / "control" / "rcpthosts").write_text("example.com\n.elsewhere.test\n")
    done = pipe(home, "--outside", "mail.elsewhere.test")
    assert (done.exit, done.stdout) == (100, "")
    assert "mail.elsewhere.test is listed: it is not outside" in done.stderr


@pytest.mark.parametrize(
    ("ip", "inside"),
    [
        ("127.0.0.9", True),
        ("10.255.255.255", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("169.254.1.1", True),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("8.8.8.8", False),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("2001:db8::1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("198.51.100.77", True),
        ("2001:db8:7::1", True),
        ("unknown", False),
        ("", False),
    ],
)
def test_private_addresses_and_those_that_inside_names_are_inside(ip: str, inside: bool) -> None:
    assert Inside(["198.51.100.0/24", "2001:db8:7::/48"]).includes(ip) == inside


@pytest.mark.parametrize(
    ("words", "noted"),
    [([], True), (["--outside", "mail.test"], False), (["--send", "me@mine.test"], False)],
)
def test_a_reserved_outside_domain_is_noted_because_a_server_may_refuse_it_alone(words: list[str], noted: bool) -> None:
    with StandIn() as server:
        done = over_network(server.port, "--listed", "example.com", "--only", "null/plain", *words)
    assert ("note: the outside domain is a reserved one" in done.stdout) == noted


def test_a_client_is_inside_by_name_only_if_inside_has_the_name() -> None:
    inside = Inside(["=mail.example", "=.friend.example"])
    assert inside.includes("8.8.8.8", "mail.example")
    assert inside.includes("8.8.8.8", "a.friend.example")
    assert not inside.includes("8.8.8.8", "a.mail.example")
    assert not inside.includes("8.8.8.8", "friend.example")
    assert not inside.includes("8.8.8.8", "")


# with --send


def test_a_message_goes_to_the_address_that_was_named_with_host_and_user(home: Path) -> None:
    done = relaytest(
        "--pipe", "--home", home, "--listed", "example.com", "--send", "me@mine.test", "--only", "null/percent-listed",
        "--only", "outside/percent-listed", "--only", "null/no-domain", QMAIL_SMTPD,
    )  # fmt: skip
    assert done.exit == 2
    assert done.verdict == "cannot tell: 1 message accepted: if one arrives, this is an open relay"
    [message] = (home / "dump").glob("*.m")
    assert b"\nTo: me@mine.test\n" in message.read_bytes()
    assert subprocess.check_output(["uname", "-n"]).strip() in message.read_bytes()
    [envelope] = (home / "dump").glob("*.e")
    assert envelope.read_bytes() == b"Frelaytest-sender@mine.test\0Tme%mine.test@example.com\0\0"


def test_a_server_that_accepts_smuggled_mail_is_open_with_send() -> None:
    with StandIn(endings=(END, b"\n.\n")) as server:
        words = ("--listed", "me@example.com", "--send", "me@example.com")
        done = over_network(server.port, *words)
        assert done.exit == 1
        assert "relaytest: open: smuggling/lf-dot-lf: \\x0a.\\x0a: 250 flushed" in done.stdout
        assert "relaytest: open: smuggling/crlf-dot-lf: " in done.stdout  # the same, with a CR before it
        assert done.stdout.count("relaytest: open: smuggling/") == 2
        assert {tuple(recipients) for recipients, _ in server.messages} == {(b"me@example.com",)}
        assert over_network(server.port, "--listed", "example.com").exit == 0  # without --send it is not visible


@pytest.mark.parametrize("ending", [b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\r\n.\r\r\n"])
def test_each_way_to_smuggle_is_found(ending: bytes) -> None:
    with StandIn(endings=(END, ending)) as server:
        done = over_network(server.port, "--send", "me@example.com", "--listed", "example.com", "--only", "smuggling/*")
        assert done.exit == 1


def test_our_server_allows_no_smuggling(home: Path) -> None:
    done = pipe(home, "--send", "me@example.com", "--only", "smuggling/*", "--only", "outside/plain", "--json")
    assert done.exit == 0
    assert len(done.results) == 24  # half of them by BDAT
    assert set(done.results.values()) == {"refused"}


def test_fixcrio_before_our_server_is_found(home: Path, tmp_path: Path) -> None:
    """What fixcrio does to a session: every LF gets its CR."""
    program = tmp_path / "fixcrio"
    program.write_text(
        f"#!{sys.executable}\nimport os, subprocess\n"
        "child = subprocess.Popen(['" + QMAIL_SMTPD + "'], stdin=subprocess.PIPE)\n"
        "while data := os.read(0, 65536):\n"
        "    child.stdin.write(data.replace(b'\\r\\n', b'\\n').replace(b'\\n', b'\\r\\n')); child.stdin.flush()\n"
    )
    program.chmod(0o755)
    done = relaytest("--pipe", "--home", home, "--send", "me@example.com", "--only", "smuggling/lf-dot-lf", program)
    assert done.exit == 1
    assert "change: the end of a message: only CRLF.CRLF may end it: run no fixcrio before the server" in done.stdout


def test_a_message_without_a_final_reply_is_not_sent_again() -> None:
    """The server is silent after the last dot: the message may be stored."""
    begun = []

    def silent(visit: Visit, line: bytes) -> bytes:
        if line == b"RCPT TO:<me%mine.test@example.com>":
            visit.recipients.append(line)
            return b"250 ok\r\n"
        if line == b"DATA":
            begun.append(visit.number)
            return b"354 go ahead\r\n"
        return b"" if begun[-1:] == [visit.number] else behave(visit, line)

    with StandIn(silent) as server:
        words = ("--listed", "example.com", "--send", "me@mine.test", "--only", "*/percent-listed", "--timeout", "0.5")
        done = over_network(server.port, *words)
    assert done.exit == 2
    assert len(begun) == 1


def test_with_send_a_server_that_accepts_any_recipient_gets_a_message() -> None:
    def accept(visit: Visit, line: bytes) -> bytes:
        if line[:4] == b"RCPT" and visit.mail:
            visit.recipients.append(line)
            return b"250 ok\r\n"
        return behave(visit, line)

    with StandIn(accept) as server:
        done = over_network(server.port, "--listed", "example.com", "--send", "me@mine.test", "--only", "outside/plain")
        assert done.exit == 2
        assert "1 message accepted: if one arrives, this is an open relay" in done.verdict
        assert len(server.messages) == 1


def test_a_list_of_recipients_is_advised_if_qmail_smtpd_accepts_one_that_does_not_exist(home: Path) -> None:
    advice = f"change: {home}/control/validrcptto: list the recipients that exist"
    assert advice in pipe(home, "--only", "unknown-recipient").stdout
    (home / "control/validrcptto").write_text("postmaster@example.com\n")
    done = pipe(home, "--json", "--only", "unknown-recipient")
    assert (done.exit, done.results["unknown-recipient"]) == (0, "refused")
    assert "validrcptto" not in str(done.json["change"])
