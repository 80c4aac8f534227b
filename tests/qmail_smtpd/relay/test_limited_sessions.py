"""control/relaylimits in real sessions of qmail-smtpd, and relay-list's view of it."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import forked
from tests.kit.mailhome import CLIENT, CONTROL, Result, make_home, talk
from tests.kit.server import Server
from tests.kit.support import script

MAIL, AWAY, HOME = "MAIL <s@s.test>\r\n", "RCPT <a@away.test>\r\n", "RCPT <u@example.com>\r\n"
RELAYED = {**CLIENT, "RELAYCLIENT": ""}


class Site:
    """A qmail home with a directory store, a checker that knows joe and ann by `secret`, and these limits."""

    def __init__(self, path: Path, limits: str, **control: object) -> None:
        self.store = path / "store"
        (self.store / "counts").mkdir(parents=True)
        files = {**CONTROL, "relaydir": f"{self.store}\n", "relaylimits": limits, "authcleartext": "", **control}
        self.home = make_home(path / "home", files)
        self.users = path / "users"
        self.users.write_text("joe:{PLAIN}secret\nann:{PLAIN}secret\n")
        self.users.chmod(0o600)

    def send(self, text: str, ip: str = "192.0.2.1", **variables: str) -> Result:
        return talk(self.home, text, {**RELAYED, "TCPREMOTEIP": ip, **variables})

    def send_as(self, user: str, text: str, **variables: str) -> Result:
        response = base64.b64encode(f"\0{user}\0secret".encode()).decode()
        env = {**CLIENT, "SMTPAUTHFILE": str(self.users), **variables}
        return talk(self.home, f"EHLO x\r\nAUTH PLAIN {response}\r\n{text}", env)

    def relay_list(self, *words: str | bytes) -> forked.Result:
        environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(self.home)}
        done = subprocess.run([script("relay-list"), *words], env=environ, capture_output=True)
        return forked.Result(done.stdout, done.stderr, done.returncode)

    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.relay_list("--limits", "--json").stdout.splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    return lambda limits, **control: Site(tmp_path, limits, **control)


def codes(result: Result) -> str:
    return " ".join(code for code in result.codes if not code.endswith("-"))


def test_an_address_that_relays_is_limited_over_sessions(site: Callable[..., Site]) -> None:
    host = site(".: 3/3600\n")
    assert codes(host.send(MAIL + AWAY * 2 + "DATA\r\n.\r\nQUIT\r\n")) == "220 250 250 250 354 250 221"
    done = host.send(MAIL + AWAY * 2 + HOME + "QUIT\r\n")
    assert codes(done) == "220 250 250 452 250 221"
    assert b"452 too much mail relayed, try again later (#4.7.1)\r\n" in done.stdout
    assert b"event=refused" in done.stderr
    assert b" reason=relaylimit who=192.0.2.1 limit=3/3600\n" in done.stderr
    assert codes(host.send(MAIL + AWAY + "QUIT\r\n", ip="192.0.2.2")) == "220 250 250 221"
    assert codes(host.send(MAIL + AWAY * 4 + "QUIT\r\n", ip="2001:db8::1")) == "220 250 250 250 250 452 221"
    assert codes(host.send(MAIL + AWAY + "QUIT\r\n", ip="2001:db8::2")) == "220 250 452 221"


def test_a_login_is_limited_from_every_address_and_the_address_not_with_it(site: Callable[..., Site]) -> None:
    host = site("joe: 2/3600\n*: 1/3600 5/86400\n.: 9/3600\n")
    assert codes(host.send_as("joe", MAIL + AWAY + "QUIT\r\n")) == "220 250 235 250 250 221"
    done = host.send_as("joe", MAIL + AWAY * 2 + "QUIT\r\n", TCPREMOTEIP="198.51.100.9", RELAYCLIENT="")
    assert codes(done) == "220 250 235 250 250 452 221"
    assert b" reason=relaylimit who=joe limit=2/3600\n" in done.stderr
    assert codes(host.send_as("ann", MAIL + AWAY * 2 + "QUIT\r\n")) == "220 250 235 250 250 452 221"
    assert [(row["kind"], row["who"], row["used"]) for row in host.rows()] == [
        ("login", "ann", 1),
        ("login", "joe", 2),
        ("login", "ann", 1),
    ]


def test_mail_that_is_dropped_stays_counted(site: Callable[..., Site]) -> None:
    host = site(".: 2/3600\n")
    assert codes(host.send(MAIL + AWAY + "RSET\r\n" + MAIL + AWAY + MAIL + AWAY)) == "220 250 250 250 250 250 250 452"


@pytest.mark.parametrize(
    ("limits", "warning"),
    [
        ("joe 2/3600\n", b"control/relaylimits line 1: a line is WHO: recipients/seconds: no relaying\n"),
        ({"dir": True}, b"unable to read control/relaylimits: is a directory: no relaying\n"),
    ],
)
def test_limits_that_cannot_be_read_refuse_relaying_and_nothing_else(
    site: Callable[..., Site], limits: object, warning: bytes
) -> None:
    host = site(limits)
    for done in (host.send(MAIL + AWAY + HOME + "QUIT\r\n"), host.send_as("joe", MAIL + AWAY + HOME + "QUIT\r\n")):
        assert codes(done).endswith("250 451 250 221")
        assert b"451 unable to check how much mail has been relayed (#4.3.0)\r\n" in done.stdout
        assert done.stderr.count(b"qmail-smtpd: warning: " + warning) == 1
    assert host.relay_list("--limits").exit == 111


def test_a_dangling_link_is_no_missing_file(site: Callable[..., Site]) -> None:
    host = site("")
    (host.home / "control/relaylimits").unlink()
    (host.home / "control/relaylimits").symlink_to("nowhere")
    assert codes(host.send(MAIL + AWAY + HOME + "QUIT\r\n")) == "220 250 451 250 221"


def test_a_store_that_fails_refuses_relaying_with_one_line(site: Callable[..., Site]) -> None:
    host = site("*: 9/3600\n.: 9/3600\n")
    (host.store / "counts").rmdir()
    done = host.send(MAIL + AWAY + "NOOP\r\n" + AWAY + HOME + "QUIT\r\n")
    assert codes(done) == "220 250 451 250 451 250 221"
    why = b"warning: no relaying: unable to read %b: file does not exist\n" % bytes(host.store / "counts")
    assert done.stderr.count(why) == 1
    assert done.stderr.count(b" reason=relaystore\n") == 2
    (host.store / "counts").mkdir()
    assert codes(host.send(MAIL + AWAY + "QUIT\r\n")) == "220 250 250 221"


def test_without_the_file_nothing_is_counted(site: Callable[..., Site]) -> None:
    host = site("")
    (host.home / "control/relaylimits").unlink()
    assert codes(host.send(MAIL + AWAY * 3 + "QUIT\r\n")) == "220 250 250 250 250 221"
    assert os.listdir(host.store / "counts") == []


def test_a_client_without_a_limit_uses_no_store(site: Callable[..., Site]) -> None:
    host = site("joe: 1/3600\n")
    (host.store / "counts").rmdir()
    assert codes(host.send(MAIL + AWAY + "QUIT\r\n")) == "220 250 250 221"


def test_relay_list_shows_the_fullest_first_and_resets(site: Callable[..., Site]) -> None:
    host = site("*: 4/3600\n.: 2/60 9/3600\n")
    assert host.relay_list("--limits") == forked.Result(b"", b"", 0)
    host.send_as("joe", MAIL + AWAY + "QUIT\r\n")
    host.send(MAIL + AWAY * 3 + "QUIT\r\n", ip="2001:db8::1")
    assert host.relay_list("--limits").stdout == (
        b"kind     who            used  limit\n"
        b"address  2001:db8::/64  2     2/60\n"
        b"login    joe            1     4/3600\n"
        b"address  2001:db8::/64  2     9/3600\n"
    )
    assert host.rows()[0] == {"kind": "address", "who": "2001:db8::/64", "used": 2, "limit": 2, "seconds": 60}
    assert host.relay_list("--reset", "2001:DB8::9") == forked.Result(b"", b"", 0)
    assert codes(host.send(MAIL + AWAY + "QUIT\r\n", ip="2001:db8::1")) == "220 250 250 221"
    assert host.relay_list("--reset", "JOE") == forked.Result(b"", b"", 0)
    assert host.relay_list("--reset", "joe") == forked.Result(b"", b"relay-list: nothing is counted for joe\n", 1)


@pytest.mark.parametrize("words", [("--reset",), ("--limits", "--reset", "x"), ("--deny", "192.0.2.1", "--reset", "x")])
def test_relay_list_refuses_a_wrong_command_line(site: Callable[..., Site], words: tuple[str, ...]) -> None:
    done = site("").relay_list(*words)
    assert (done.stderr[:24], done.exit) == (b"relay-list: usage: relay", 100)


def test_one_process_that_serves_several_clients_counts_each(site: Callable[..., Site]) -> None:
    host = site(".: 2/3600\n127.0.0.2: 1/3600\n")
    environ = {"QMAILHOME": str(host.home), "RELAYCLIENT": ""}
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as server:
        text = (MAIL + AWAY + "QUIT\r\n").encode()
        for source, expected in (("127.0.0.1", b"250"), ("127.0.0.1", b"250"), ("127.0.0.1", b"452")):
            assert server.ask(text, source).split(b"\r\n")[2][:3] == expected
        assert [server.ask(text, "127.0.0.2").split(b"\r\n")[2][:3] for _ in range(2)] == [b"250", b"452"]
        (host.home / "control/relaylimits").write_text(".: 4/3600\n")
        assert server.ask(text, "127.0.0.1").split(b"\r\n")[2][:3] == b"250"
