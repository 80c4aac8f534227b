"""XCLIENT under tcpserver: clients of a proxy that relay by the rules of their own addresses, one after the other."""

import re
import smtplib
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, Result, make_home
from tests.kit.server import Server, compiled
from tests.kit.support import script
from tests.kit.tlspeer import certify

PROXY, OTHER = "127.0.0.1", "127.0.0.9"
RULES = """127.0.0.1:allow,RELAYCLIENT="",PROXY="proxy",DATABYTES="100"
192.0.2.7:allow,RELAYCLIENT="@r"
192.0.2.8:deny
192.0.2.9:allow,SMTPD_LOG="all"
192.0.2.10:allow,QMAILHOME="{home}/other"
192.0.2.11:allow,SMTPAUTHFILE="{home}/users",DATABYTES="10M"
:allow
"""
HOSTS = "127.0.0.1 login\n::1\n"
TO_OUTSIDE = "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@outside.test>\r\n"
SEND = "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@example.com>\r\nDATA\r\nhello\r\n.\r\n"
LOG_IN = "AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n"  # joe, secret
WAYS = {"exec'd": ["--exec"], "called": ["--reuse", "1"], "reused": ["--reuse", "100"]}
# A queue program that shows its environment.
SHOW = """#!/bin/sh
{ cat; env | sort; } >>"$QMAILHOME/shown"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home", {**CONTROL, "xclienthosts": HOSTS})
    (home / "bin/qmail-queue").write_text(SHOW)
    return home


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return compiled(tmp_path / "rules.cdb", RULES.replace("{home}", str(tmp_path)))


def serving(
    home: Path, rules: Path | None, *options: str, host: str = "127.0.0.1", chain: Sequence[str] = (), **more: str
) -> Server:
    """Return a server that asks the rules, and asks them again for the clients of proxies."""
    environ = {"QMAILHOME": str(home), **more}
    words = ["-v", "-RHl0", *options]
    if rules is not None:
        words += ["-x", str(rules)]
        environ = {"XCLIENTRULES": str(rules), **environ}
    return Server([*words, host, "0", *chain, script("qmail-smtpd")], environ=environ)


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, home: Path, rules: Path) -> Iterator[Server]:
    with serving(home, rules, *WAYS[request.param]) as server:
        yield server


def ask(server: Server, *commands: str, source: str = PROXY) -> list[str]:
    """Use one connection, wait for its end in the log, and return the codes of the replies."""
    before = server.log().count(b"tcpserver: end ")
    answer = server.ask("".join(f"{command}\r\n" for command in commands).encode() + b"QUIT\r\n", source)
    server.wait_for_log(rb"^tcpserver: end ", before + 1)
    return Result(answer, b"", 0, Path("nowhere")).codes


def shown(home: Path) -> str:
    """Return what the queue programs have shown, and forget it."""
    text = (home / "shown").read_text()
    (home / "shown").unlink()
    return text


def test_clients_relay_by_the_rules_of_their_own_addresses(server: Server) -> None:
    to_outside = TO_OUTSIDE.strip()
    assert ask(server, to_outside) == ["220", "250", "250", "221"]  # the proxy itself
    assert ask(server, "XCLIENT ADDR=192.0.2.7", to_outside) == ["220", "220", "250", "250", "221"]
    assert ask(server, "XCLIENT ADDR=192.0.2.5", to_outside) == ["220", "220", "250", "553", "221"]
    assert ask(server, "XCLIENT ADDR=192.0.2.8", to_outside) == ["220", "554"]
    assert ask(server, "XCLIENT ADDR=IPV6:2001:db8::1", to_outside) == ["220", "220", "250", "553", "221"]
    assert ask(server, "XCLIENT ADDR=192.0.2.5 LOGIN=joe", to_outside) == ["220", "220", "250", "250", "221"]
    assert ask(server, "XCLIENT HELO=x", to_outside) == ["220", "220", "250", "250", "221"]  # still the proxy
    assert ask(server, "XCLIENT ADDR=192.0.2.7", source=OTHER) == ["220", "502", "221"]
    twice = ["XCLIENT ADDR=127.0.0.1 HELO=a", "XCLIENT ADDR=192.0.2.7"]  # a listed address, but not of the connection
    assert ask(server, *twice) == ["220", "220", "502", "221"]


@pytest.mark.parametrize("cdb", [False, True], ids=["", "morercpthosts.cdb"])
def test_nothing_of_a_proxys_client_is_there_for_the_next_client(cdb: bool, home: Path, rules: Path) -> None:
    """The same process serves all of them. It would have ended if a descriptor had been left open."""
    if cdb:
        (home / "control/morercpthosts.cdb").write_bytes(bytes(2048))  # without a domain; a session holds it open
    with serving(home, rules) as server:
        ask(server, SEND.strip(), source=OTHER)
        expected = shown(home)
        xclient = "XCLIENT ADDR=IPV6:2001:db8::7 NAME=c.test PORT=1 DESTADDR=192.0.2.25 DESTPORT=26 HELO=h LOGIN=joe"
        for commands in (
            [xclient, SEND.strip()],
            ["XCLIENT ADDR=192.0.2.7"],
            ["XCLIENT ADDR=192.0.2.8"],
            ["XCLIENT X"],
        ):
            ask(server, *commands)
            (home / "shown").unlink(missing_ok=True)
            assert ask(server, "HELO x", TO_OUTSIDE.strip(), "RSET", SEND.strip(), source=OTHER)[3] == "553"
            assert masked(shown(home)) == masked(expected)
        assert len(set(re.findall(rb"^tcpserver: ok (\d+)", server.log(), re.MULTILINE))) == 1


def masked(text: str) -> str:
    """Return a message and an environment without what differs for each connection."""
    return re.sub(r"(?<=TCPREMOTEPORT=)\d+| \(HELO x\)|(?<= with SMTP; ).*", "", text)


def test_the_queue_program_sees_the_client(server: Server, home: Path) -> None:
    assert ask(server, "EHLO proxy", "XCLIENT ADDR=192.0.2.7 NAME=C.test PORT=99 DESTADDR=192.0.2.25", SEND.strip())
    text = shown(home)
    assert text.startswith("Received: from c.test (192.0.2.7)\n  by 0 with SMTP; ")
    variables = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_0-9]+=", line))
    assert {name: value for name, value in variables.items() if name.startswith(("TCP", "RELAY", "PROXYREMOTEIP"))} == {
        "PROXYREMOTEIP": "127.0.0.1",
        "TCPREMOTEIP": "192.0.2.7",
        "TCPREMOTEHOST": "c.test",
        "TCPREMOTEPORT": "99",
        "TCPLOCALIP": "192.0.2.25",
        "TCPLOCALPORT": str(server.port),
        "TCPLOCALHOST": "0",
        "RELAYCLIENT": "@r",
    }
    assert not {"PROXY", "DATABYTES"} & set(variables)


def test_a_user_that_the_proxy_names_has_the_rights_of_a_login(server: Server, home: Path) -> None:
    (home / "control/authsenders").write_text("joe: joe@s.test\n")
    commands = ["XCLIENT ADDR=192.0.2.5 LOGIN=joe", TO_OUTSIDE.strip(), TO_OUTSIDE.replace("<s@", "<joe@").strip()]
    assert ask(server, *commands, "DATA", ".") == ["220", "220", "553", "503", "250", "250", "354", "250", "221"]
    text = shown(home)
    assert "Received: from unknown (joe@192.0.2.5)\n  by 0 with ESMTPA; " in text
    assert "\nTCPREMOTEINFO=joe\n" in text
    assert re.search(rb"event=login pid=\d+ ip=192.0.2.5 result=yes mechanism=XCLIENT user=joe\n", server.log())


def test_log_lines_name_the_client_and_one_the_proxy(home: Path, rules: Path) -> None:
    with serving(home, rules, SMTPD_LOG="all") as server:
        ask(server, "XCLIENT ADDR=192.0.2.5 NAME=c.test HELO=h", TO_OUTSIDE.strip())
        ask(server, "XCLIENT ADDR=192.0.2.8")
        lines = [re.sub(rb" pid=\d+", b"", line) for line in server.log().split(b"\n") if b"event=" in line]
    assert lines == [
        b"qmail-smtpd: event=xclient ip=192.0.2.5 proxy=127.0.0.1",
        b"qmail-smtpd: event=refused ip=192.0.2.5 helo=h sender=s@s.test recipient=u@outside.test reason=rcpthosts",
        b"qmail-smtpd: event=end ip=192.0.2.5 helo=h reason=quit messages=0 recipients=0 refused=1 errors=0",
        b"qmail-smtpd: event=xclient ip=192.0.2.8 proxy=127.0.0.1",
        b"qmail-smtpd: event=refused ip=192.0.2.8 reason=rules",
        b"qmail-smtpd: event=end ip=192.0.2.8 reason=rules messages=0 recipients=0 refused=0 errors=0",
    ]


def test_a_rule_of_the_client_sets_the_log_level_and_the_limits(server: Server) -> None:
    ask(server, "XCLIENT ADDR=192.0.2.9", SEND.strip())
    assert b"event=queued" in server.log()
    sizes = [line for line in server.ask(b"XCLIENT ADDR=192.0.2.9\r\nEHLO x\r\n").split(b"\r\n") if b"SIZE" in line]
    assert not sizes  # DATABYTES was the proxy's


def test_a_rule_of_the_client_selects_another_home_for_this_client_alone(home: Path, rules: Path) -> None:
    other = make_home(home.parent / "other", {"me": "other.example.org\n", "rcpthosts": "outside.test\n"})
    with serving(home, rules) as server:
        for _ in range(2):
            greeting = server.ask(b"XCLIENT ADDR=192.0.2.10\r\n" + TO_OUTSIDE.encode() + b"DATA\r\n.\r\n", PROXY)
            assert greeting.startswith(
                b"220 mx.example.org ESMTP\r\n220 other.example.org ESMTP\r\n250 ok\r\n250 ok\r\n354 "
            )
            assert ask(server, TO_OUTSIDE.strip(), source=OTHER) == ["220", "250", "553", "221"]
            assert server.ask(b"", OTHER) == b"220 mx.example.org ESMTP\r\n"
    assert len(list((other / "dump").glob("*.m"))) == 2


def test_a_rule_of_the_client_offers_logins_and_its_mistakes_are_warnings(server: Server, home: Path) -> None:
    (home.parent / "users").write_text("joe:{PLAIN}secret\n")
    (home.parent / "users").chmod(0o600)
    (home / "control/authcleartext").touch()
    (home / "control/timeoutsmtpd").write_text("100 seconds\n")
    assert ask(server, "XCLIENT ADDR=192.0.2.11", LOG_IN.strip(), TO_OUTSIDE.strip())[2:] == [
        "235",
        "250",
        "250",
        "221",
    ]
    log = server.log()
    assert log.count(b"warning: control/timeoutsmtpd has more than digits") == 1  # of the connection, and not again
    assert log.count(b"warning: DATABYTES has more than digits") == 1


def test_a_checker_sees_the_client(home: Path, rules: Path, tmp_path: Path) -> None:
    checker = tmp_path / "checker"
    checker.write_text(f"#!/bin/sh\ncat <&3 >/dev/null\nenv >{tmp_path}/seen\n")
    checker.chmod(0o755)
    words = ["-RHl0", "-x", str(rules), "127.0.0.1", "0", script("qmail-smtpd"), str(checker), "true"]
    environ = {"QMAILHOME": str(home), "SMTPAUTH": "", "XCLIENTRULES": str(rules)}
    with Server(words, environ=environ) as server:
        codes = Result(server.ask(f"XCLIENT ADDR=192.0.2.5\r\n{LOG_IN}{TO_OUTSIDE}".encode()), b"", 0, Path()).codes
    assert codes == ["220", "220", "235", "250", "250"]
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert (seen["TCPREMOTEIP"], seen["PROXYREMOTEIP"]) == ("192.0.2.5", "127.0.0.1")
    assert not {"RELAYCLIENT", "PROXY"} & set(seen)


def test_without_xclientrules_no_client_relays(home: Path, rules: Path) -> None:
    words = ["-v", "-RHl0", "-x", str(rules), "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        assert ask(server, TO_OUTSIDE.strip())[-2:] == ["250", "221"]
        for client in ("192.0.2.7", "192.0.2.8", "127.0.0.1", "[UNAVAILABLE]"):
            codes = ask(server, f"XCLIENT ADDR={client}", TO_OUTSIDE.strip())
            assert codes == ["220", "220", "250", "553", "221"]


def test_a_client_whose_address_the_proxy_does_not_know_never_relays_by_a_rule(home: Path, tmp_path: Path) -> None:
    (home / "control/rcpthosts").unlink()
    with serving(home, compiled(tmp_path / "open.cdb", ':allow,RELAYCLIENT=""\n')) as server:
        assert ask(server, "XCLIENT ADDR=192.0.2.5", TO_OUTSIDE.strip()) == ["220", "220", "250", "250", "221"]
        assert ask(server, "XCLIENT ADDR=[UNAVAILABLE]", TO_OUTSIDE.strip()) == ["220", "220", "250", "553", "221"]


def test_a_client_that_a_proxy_header_names_is_listed_by_that_address(home: Path, rules: Path) -> None:
    with serving(home, rules, "--proxy-from", "127.0.0.0/8") as server:
        for header, codes in (
            ("TCP4 127.0.0.1 127.0.0.1 1 25", ["220", "220", "250", "250", "221"]),
            ("TCP4 192.0.2.7 127.0.0.1 1 25", ["220", "502", "250", "250", "221"]),  # relays by its own rule
            ("UNKNOWN", ["220", "502", "250", "553", "221"]),
        ):
            data = f"PROXY {header}\r\nXCLIENT ADDR=192.0.2.7\r\n{TO_OUTSIDE}QUIT\r\n"
            assert Result(server.ask(data.encode()), b"", 0, Path()).codes == codes


def test_rules_that_have_gone_end_the_session(server: Server, rules: Path) -> None:
    ask(server, "XCLIENT ADDR=192.0.2.7")
    rules.rename(rules.with_suffix(".gone"))
    codes = Result(server.ask(b"XCLIENT ADDR=192.0.2.7\r\n" + TO_OUTSIDE.encode(), PROXY), b"", 0, Path()).codes
    assert codes in (["220", "421"], [])  # [] if tcpserver itself has missed them


def test_the_pop_right_of_the_proxys_address_is_not_its_clients(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "relay"
    store.mkdir(mode=0o700)
    (home / "control/relayproxies").write_text("192.0.2.1\n")
    environ = {"RELAY_DIR": str(store), "RELAY_PROXIES": "192.0.2.1"}
    allow = {"PATH": "/usr/bin:/bin", "TCPREMOTEIP": PROXY, "USER": "joe", "QMAILHOME": str(home), **environ}
    subprocess.run([script("relay-allow"), "true"], env=allow, check=True)
    with serving(home, None, chain=[script("relay-check")], **environ) as server:
        assert ask(server, TO_OUTSIDE.strip()) == ["220", "250", "250", "221"]
        assert ask(server, "XCLIENT ADDR=192.0.2.7", TO_OUTSIDE.strip()) == ["220", "220", "250", "553", "221"]
        ask(server, "XCLIENT ADDR=192.0.2.7", SEND.strip())
        assert not {"RELAY_USER", "RBLSMTPD", "RELAYCLIENT"} & {line.split("=")[0] for line in shown(home).splitlines()}


def test_an_ipv6_proxy_is_listed_and_its_variables_go(home: Path) -> None:
    with serving(home, None, host="::1") as server:
        data = b"XCLIENT ADDR=192.0.2.7\r\n" + SEND.encode() + b"XCLIENT ADDR=::1\r\nQUIT\r\n"
        codes = Result(server.ask(data, host="::1"), b"", 0, Path()).codes
        assert codes == ["220", "220", "250", "250", "354", "250", "502", "221"]
    text = shown(home)
    assert "PROTO=TCP\n" in text
    assert "TCP6" not in text


def test_the_address_that_the_client_has_connected_to_is_an_address_of_this_host(server: Server) -> None:
    literal = ["MAIL FROM:<>", "RCPT TO:<u@[192.0.2.25]>"]
    for destination, recipient in ("", b"u@[192.0.2.25]"), (" DESTADDR=192.0.2.25", b"u@mx.example.org"):
        codes = ask(server, f"XCLIENT ADDR=192.0.2.5{destination}", *literal)
        assert codes[-2:] == ["553", "221"]  # neither is in rcpthosts
        assert server.log().count(b" recipient=" + recipient + b" ") == 1


def test_tls_stays_and_so_does_the_client_under_tls(home: Path, rules: Path) -> None:
    certify(home / "control")
    (home / "control/authcleartext").touch()
    context = ssl.create_default_context(cafile=str(home / "control/servercert.pem"))
    with serving(home, rules) as server, smtplib.SMTP("localhost", server.port, timeout=20) as client:
        assert client.docmd("XCLIENT", "ADDR=192.0.2.5")[0] == 220
        client.starttls(context=context)
        assert client.docmd("XCLIENT", "ADDR=127.0.0.1")[0] == 502
        assert client.docmd("MAIL", "FROM:<s@s.test>")[0] == 250
        assert client.docmd("RCPT", "TO:<u@outside.test>")[0] == 553
    with serving(home, rules) as server, smtplib.SMTP("localhost", server.port, timeout=20) as client:
        client.starttls(context=context)
        assert client.docmd("XCLIENT", "ADDR=192.0.2.7")[0] == 220
        assert client.docmd("STARTTLS")[0] == 503
        client.sendmail("s@s.test", ["u@outside.test"], "hello\r\n")
    text = shown(home)
    assert re.match(r"Received: from unknown \(HELO .*\) \(192.0.2.7\)\n  by 0 with ESMTPS \(\S+ encrypted\); ", text)
    assert "\nTLS_PROTOCOL=TLSv1.3\n" in text
