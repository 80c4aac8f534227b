"""XCLIENT from real programs: nginx's mail proxy, swaks; and the same commands given to Postfix."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, Result, make_home
from tests.kit.peers.nginxmail import nginx_mail, plain
from tests.kit.peers.postfixserver import Postfix
from tests.kit.peers.proxies import Proxy
from tests.kit.relaytest import FAST, relaytest
from tests.kit.server import Server, compiled, needs_root, read_all
from tests.kit.support import peer, script

pytestmark = pytest.mark.peer
RULES = """127.0.0.1:allow
127.0.0.2:allow,RELAYCLIENT=""
127.0.0.4:deny
::1:allow,RELAYCLIENT=""
:allow
"""
RELAYING, OTHER, DENIED = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "xclienthosts": "127.0.0.1 login\n"})


@pytest.fixture
def server(home: Path, tmp_path: Path) -> Iterator[Server]:
    rules = str(compiled(tmp_path / "rules.cdb", RULES))
    environ = {"QMAILHOME": str(home), "XCLIENTRULES": rules, "SMTPD_LOG": "all"}
    with Server(["-RHl0", "-x", rules, "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as server:
        yield server


def ask(proxy: Proxy, source: str, *commands: str) -> list[str]:
    """Send the commands one after the other, as nginx requires, and return the replies."""
    with socket.create_connection((proxy.host, proxy.port), 20, (source, 0)) as client:
        replies = client.makefile("rb")
        answers = [read_reply(replies)]
        for command in commands:
            client.sendall(command.encode() + b"\r\n")
            answers.append(read_reply(replies))
        replies.close()
    return answers


def read_reply(replies: "Iterator[bytes]") -> str:
    """Return the last line of a reply, empty at the end of the connection."""
    for line in replies:
        if line[3:4] != b"-":
            return line.decode().rstrip()
    return ""


def to(recipient: str) -> list[str]:
    return ["EHLO client.example", "MAIL FROM:<s@s.test>", f"RCPT TO:<{recipient}>"]


OUTSIDE = to("u@outside.test")
AS_OUTSIDE = ["--listed", "example.com", "--as-outside"]
POSTFIX = "inet_protocols = all\nsmtpd_error_sleep_time = 0\nsmtpd_forbid_unauth_pipelining = no\n"  # yes since 3.9


def test_nginxs_clients_relay_by_the_rules_of_their_own_addresses(server: Server, home: Path) -> None:
    with nginx_mail(home, server.port) as proxy:
        answers = ask(proxy, RELAYING, *OUTSIDE, "DATA", "hello\r\n.", "QUIT")
        assert [answer[:3] for answer in answers] == ["220", "250", "250", "250", "354", "250", "221"]
        assert ask(proxy, OTHER, *OUTSIDE)[-1].startswith("553 sorry, that domain isn't in my list")
        assert ask(proxy, OTHER, *to("u@example.com"), "DATA", "hello\r\n.")[-1].startswith("250 ok ")
        assert ask(proxy, DENIED, *to("u@example.com"))[-1].startswith(("451 ", "554 "))
    messages = sorted(path.read_bytes() for path in (home / "dump").glob("*.m"))
    assert [message.partition(b"\n")[0] for message in messages] == [
        b"Received: from unknown (HELO client.example) (127.0.0.2)",
        b"Received: from unknown (HELO client.example) (127.0.0.3)",
    ]
    log = server.wait_for_log(rb"event=refused pid=\d+ ip=127.0.0.4 reason=rules$")
    assert set(re.findall(rb"event=xclient pid=\d+ ip=(\S+) proxy=127.0.0.1\n", log)) == {
        RELAYING.encode(),
        OTHER.encode(),
        DENIED.encode(),
    }
    assert not re.findall(rb"event=(?!end )\S+ pid=\d+ ip=127.0.0.1 ", log)


def test_an_ipv6_client_of_nginx_has_its_own_rule_too(server: Server, home: Path) -> None:
    with nginx_mail(home, server.port, host="::1") as proxy:
        answers = ask(proxy, "::1", *OUTSIDE)
    assert [answer[:3] for answer in answers] == ["220", "250", "250", "250"]
    server.wait_for_log(rb"event=xclient pid=\d+ ip=::1 proxy=127.0.0.1$")


def test_a_client_that_nginx_has_connected_cannot_take_another_address(server: Server, home: Path) -> None:
    with nginx_mail(home, server.port) as proxy:
        inside = to("u@example.com")
        answers = ask(proxy, OTHER, *inside, "RSET", f"XCLIENT ADDR={RELAYING} LOGIN=root", *OUTSIDE)
    assert [answer[:3] for answer in answers] == ["220", "250", "250", "250", "250", "502", "250", "250", "553"]


def test_a_user_of_nginx_is_logged_in(server: Server, home: Path) -> None:
    (home / "control/authsenders").write_text("joe: s@s.test\n")
    with nginx_mail(home, server.port, mechanisms="plain") as proxy:
        answers = ask(proxy, OTHER, "EHLO c", plain("joe", "wrong"))
        assert answers[-1].startswith("535 ")
        answers = ask(
            proxy, OTHER, "EHLO c", plain("joe", "secret"), "MAIL FROM:<other@s.test>", *OUTSIDE[1:], "DATA", "."
        )
    assert [answer[:3] for answer in answers] == ["220", "250", "235", "553", "250", "250", "354", "250"]
    (stored,) = (home / "dump").glob("*.m")
    assert stored.read_bytes().startswith(b"Received: from unknown (HELO c) (joe@127.0.0.3)\n  by 0 with ESMTPA; ")
    assert len(re.findall(rb"event=login pid=\d+ ip=127.0.0.3 .*mechanism=XCLIENT user=joe\n", server.log())) == 1


def test_a_user_of_an_nginx_that_is_not_listed_with_login_is_not_logged_in(server: Server, home: Path) -> None:
    (home / "control/xclienthosts").write_text("127.0.0.1\n")
    with nginx_mail(home, server.port, mechanisms="plain") as proxy:
        assert ask(proxy, RELAYING, "EHLO c", plain("joe", "secret"))[-1].startswith("451 ")


@pytest.mark.parametrize(
    ("listed", "xclient", "code"), [(False, "on", "451"), (False, "off", "250"), (True, "off", "250")]
)
def test_an_nginx_that_is_not_listed_must_not_send_it(
    listed: bool, xclient: str, code: str, server: Server, home: Path
) -> None:
    if not listed:
        (home / "control/xclienthosts").unlink()
    with nginx_mail(home, server.port, xclient) as proxy:
        assert ask(proxy, OTHER, *to("u@example.com"))[-1].startswith(code)
        assert ask(proxy, RELAYING, *OUTSIDE)[-1][:3] == ("451" if code == "451" else "553")


# swaks


def swaks(server: Server, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [peer("/usr/bin/swaks"), "--server", f"127.0.0.1:{server.port}", "--ehlo", "client.example"]
    more = ["--from", "s@s.test", "--to", "u@outside.test", "--quit-after", "RCPT", *words]
    return subprocess.run([*command, *more], capture_output=True, text=True)


def test_swaks_sends_all_attributes(server: Server) -> None:
    def attributes(address: str) -> list[str]:
        values = {"name": "c.example", "addr": address, "port": "9", "proto": "ESMTP", "helo": "c d+e"}
        values |= {"destaddr": "IPV6:::1", "destport": "25"}
        return [word for name, value in values.items() for word in (f"--xclient-{name}", value)]

    done = swaks(server, *attributes(RELAYING))
    assert " -> XCLIENT " in done.stdout
    assert "<-  250 ok\n" in done.stdout
    assert done.returncode == 0
    assert swaks(server, *attributes(OTHER)).returncode == 24  # no recipient was accepted
    assert swaks(server, *attributes(OTHER), "--xclient-login", "joe").returncode == 0
    split = ["--xclient-helo", "h", "--xclient-delim", "--xclient-addr", RELAYING]
    assert swaks(server, *split).stdout.count(" -> XCLIENT ") == 2
    assert swaks(server, "--xclient", f"ADDR={RELAYING}").returncode == 0


def test_swaks_sees_that_it_is_not_offered(server: Server, home: Path) -> None:
    (home / "control/xclienthosts").write_text("127.0.0.9\n")
    done = swaks(server, "--xclient-addr", RELAYING)
    assert done.returncode
    assert " -> XCLIENT" not in done.stdout


@pytest.mark.parametrize("source", [OTHER, "127.0.0.1"], ids=["not listed", "listed without login"])
def test_relaytest_finds_no_open_relay(source: str, server: Server, home: Path) -> None:
    (home / "control/xclienthosts").write_text("127.0.0.1\n")
    done = relaytest(f"127.0.0.1:{server.port}", *AS_OUTSIDE, "--from-ip", source, *FAST)
    assert done.verdict.startswith("closed: "), done


def test_relaytest_finds_that_a_host_with_login_may_do_everything(server: Server) -> None:
    done = relaytest(f"127.0.0.1:{server.port}", *AS_OUTSIDE, "--only", "xclient*", *FAST)
    assert "open: xclient-login: " in done.stdout
    assert "open: xclient: " not in done.stdout


def test_relaytest_through_nginx_finds_no_open_relay(server: Server, home: Path) -> None:
    with nginx_mail(home, server.port) as proxy:
        words = ["--from-ip", OTHER, "--only", "xclient*", "--only", "null/*"]
        done = relaytest(f"127.0.0.1:{proxy.port}", *AS_OUTSIDE, *words, *FAST)
    assert done.verdict.startswith("closed: "), done


# Postfix. For each list of commands the codes of both; where they differ, those of qmail-smtpd and of Postfix.

SAME = [
    ("XCLIENT", "501"),
    ("XCLIENT ADDR", "501"),
    ("XCLIENT ADDR=", "501"),
    ("XCLIENT ADDR=192.0.2.7", "220"),
    ("xclient addr=192.0.2.7", "220"),
    ("XCLIENT ADDR=2001:db8::1", "501"),
    ("XCLIENT ADDR=IPV6:2001:db8::1", "220"),
    ("XCLIENT ADDR=ipv6:2001:DB8::1", "220"),
    ("XCLIENT ADDR=IPV6:::ffff:192.0.2.7", "220"),
    ("XCLIENT ADDR=IPV6:2001:db8::g", "501"),
    ("XCLIENT ADDR=[192.0.2.7]", "501"),
    ("XCLIENT ADDR=192.0.2", "501"),
    ("XCLIENT ADDR=192.0.2.256", "501"),
    ("XCLIENT ADDR=0.0.0.0", "220"),
    ("XCLIENT ADDR=+31+39+32.0.2.7", "220"),
    ("XCLIENT ADDR=[UNAVAILABLE]", "220"),
    ("XCLIENT ADDR=[unavailable]", "220"),
    ("XCLIENT ADDR=[TEMPUNAVAIL]", "501"),
    ("XCLIENT NAME=[TEMPUNAVAIL]", "220"),
    ("XCLIENT NAME=[UNAVAILABLE]", "220"),
    ("XCLIENT NAME=a_b.example", "220"),
    ("XCLIENT NAME=A+2Eb", "220"),
    ("XCLIENT NAME=a+zz", "501"),
    ("XCLIENT NAME=a+0Ab", "501"),
    ("XCLIENT NAME=a=b", "501"),
    ("XCLIENT NAME=a..b", "501"),
    ("XCLIENT NAME=-a.b", "501"),
    ("XCLIENT NAME=a.b.", "501"),
    ("XCLIENT NAME=192.0.2.7", "501"),
    ("XCLIENT NAME=123", "501"),
    ("XCLIENT NAME=" + "a" * 63 + ".b", "220"),
    ("XCLIENT NAME=" + "a" * 64 + ".b", "501"),
    ("XCLIENT NAME=" + "a" * 256, "501"),
    ("XCLIENT PORT=0", "220"),
    ("XCLIENT PORT=00025", "220"),
    ("XCLIENT PORT=655360", "501"),
    ("XCLIENT PORT=x", "501"),
    ("XCLIENT PORT=-1", "501"),
    ("XCLIENT PORT=[UNAVAILABLE]", "220"),
    ("XCLIENT PROTO=SMTP", "220"),
    ("XCLIENT PROTO=esmtp", "220"),
    ("XCLIENT PROTO=LMTP", "501"),
    ("XCLIENT PROTO=[UNAVAILABLE]", "501"),
    ("XCLIENT HELO=x+20y", "220"),
    ("XCLIENT HELO=[UNAVAILABLE]", "220"),
    ("XCLIENT HELO=" + "a" * 255, "220"),
    ("XCLIENT HELO=" + "a" * 256, "501"),
    ("XCLIENT LOGIN=joe", "220"),
    ("XCLIENT LOGIN=joe+tag", "220"),
    ("XCLIENT LOGIN=[UNAVAILABLE]", "220"),
    ("XCLIENT DESTADDR=192.0.2.1 DESTPORT=25", "220"),
    ("XCLIENT DESTADDR=x", "501"),
    ("XCLIENT DESTPORT=x", "501"),
    ("XCLIENT FOO=1", "501"),
    ("XCLIENT ADDR=192.0.2.7 FOO=1", "501"),
    ("XCLIENT  ADDR=192.0.2.7\t NAME=x.y ", "220"),
    ("XCLIENT NAME=x.y PORT=1 ADDR=192.0.2.7", "220"),
    ("EHLO a|XCLIENT ADDR=192.0.2.7|EHLO b", "250 220 250"),
    ("MAIL FROM:<a@b.test>|XCLIENT ADDR=192.0.2.7", "250 503"),
    ("EHLO a|MAIL FROM:<a@b.test>|RSET|XCLIENT ADDR=192.0.2.7", "250 250 250 220"),
    ("XCLIENT ADDR=192.0.2.7|RCPT TO:<u@example.com>", "220 503"),
    ("XCLIENT HELO=x PROTO=SMTP|XCLIENT NAME=x.y ADDR=192.0.2.7", "220 220"),
    ("XCLIENT ADDR=192.0.2.7|MAIL FROM:<>|RCPT TO:<u@example.com>", "220 250 250"),
]
DIFFERENT = [
    ("XCLIENT ADDR=192.0.2.07", "501", "220"),
    ("XCLIENT PORT=65536", "501", "220"),
    ("XCLIENT LOGIN=a+0Ab", "501", "220"),
    ("XCLIENT REVERSE_NAME=a.b", "501", "220"),
    ("XCLIENT ADDR=192.0.2.7 ADDR=192.0.2.8", "501", "220"),
    ("XCLIENT\tADDR=192.0.2.7", "502", "220"),  # only a blank ends a verb, as in the original
    ("XCLIENT ADDR=192.0.2.7|XCLIENT NAME=x.y", "220 502", "220 550"),
    ("XCLIENT ADDR=192.0.2.7|XCLIENT", "220 502", "220 501"),
    ("XCLIENT ADDR=127.0.0.1|XCLIENT NAME=x.y", "220 502", "220 220"),
]
UNLISTED = [
    ("XCLIENT ADDR=192.0.2.7", "502", "550"),
    ("XCLIENT", "502", "501"),
    ("MAIL FROM:<a@b.test>|XCLIENT ADDR=192.0.2.7", "250 502", "250 503"),
]


def pipelined(data: bytes, server: "Server | Postfix", host: str) -> str:
    """Send the commands at once, and return the codes of the replies behind the greeting."""
    with socket.create_connection((host, server.port), 20) as client:
        client.sendall(data + b"QUIT\r\n")
        codes = Result(read_all(client), b"", 0, Path()).codes
    assert (codes[0], codes[-1]) == ("220", "221")
    return " ".join(code for code in codes[1:-1] if "-" not in code)


@needs_root
def test_the_codes_are_postfixs(server: Server) -> None:
    peer("/usr/sbin/postfix")
    with Postfix(POSTFIX + "smtpd_authorized_xclient_hosts = 127.0.0.1\n") as postfix:
        for commands, expected, *other in [*SAME, *DIFFERENT]:
            data = b"".join(command.encode() + b"\r\n" for command in commands.split("|"))
            assert pipelined(data, server, "127.0.0.1") == expected, commands
            assert pipelined(data, postfix, "127.0.0.1") == (other[0] if other else expected), commands


@needs_root
def test_a_host_that_is_not_listed_gets_502_where_postfix_has_other_codes(server: Server, home: Path) -> None:
    peer("/usr/sbin/postfix")
    (home / "control/xclienthosts").unlink()
    with Postfix(POSTFIX) as postfix:
        for commands, expected, postfix_codes in UNLISTED:
            data = b"".join(command.encode() + b"\r\n" for command in commands.split("|"))
            assert pipelined(data, server, "127.0.0.1") == expected
            assert pipelined(data, postfix, "127.0.0.1") == postfix_codes
