"""Real proxies in front of tcpserver and qmail-smtpd: haproxy, nginx, stunnel. The rules are those of the client.

The proxy's own address may relay: a client that passes for the proxy would be noticed.
"""

import json
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.peers.proxies import Proxy, haproxy, nginx, stunnel
from tests.kit.server import PATIENCE, Server, children, compiled, until
from tests.kit.support import script
from tests.kit.tlspeer import certify

pytestmark = pytest.mark.peer
RULES = (
    '127.0.0.1:allow,RELAYCLIENT=""\n127.0.0.2:allow,RELAYCLIENT=""\n127.0.0.3:deny\n::1:allow,RELAYCLIENT=""\n:allow\n'
)
PROXY, INSIDE, DENIED, OUTSIDE = (f"127.0.0.{last}" for last in range(1, 5))
TLVS = "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id"
TLS_TLVS = "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id,ssl,cert-cn,ssl-cipher,cert-sig,cert-key"
UNIQUE = "unique-id-format %ci:%cp-%fi:%fp-%Ts"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_home(tmp_path_factory.mktemp("mail") / "home")
    compiled(directory / "cdb", RULES)
    certificate, key = certify(directory)
    (directory / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    return directory


@contextmanager
def serving(home: Path, *options: str) -> Iterator[Server]:
    words = ["-v", "-RHl0", "-x", str(home / "cdb"), "--proxy-from", PROXY, "--log-format", "json", *options]
    with Server([*words, "127.0.0.1", "0", script("qmail-smtpd")], environ={"QMAILHOME": str(home)}) as server:
        yield server


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as server:
        yield server


PROXIES: dict[str, Callable[[Path, int], Proxy]] = {
    "haproxy, v1": lambda home, port: haproxy(home, port, "send-proxy"),
    "haproxy, v2": lambda home, port: haproxy(home, port, "send-proxy-v2"),
    "haproxy, v2 with TLVs": lambda home, port: haproxy(home, port, TLVS, more=UNIQUE),
    "haproxy, v2 with TLS": lambda home, port: haproxy(home, port, TLS_TLVS, f"ssl crt {home}/both.pem", UNIQUE),
    "nginx": nginx,
    "stunnel": lambda home, port: stunnel(home, port, home / "servercert.pem", home / "serverkey.pem"),
}
ENCRYPTED = ("haproxy, v2 with TLS", "stunnel")


def connected(proxy: Proxy, source: str, tls: bool = False) -> smtplib.SMTP:
    """A session of a client with this address, through the proxy."""
    if not tls:
        return smtplib.SMTP(proxy.host, proxy.port, "client.example", PATIENCE, source_address=(source, 0))
    context = ssl._create_unverified_context()
    return smtplib.SMTP_SSL(
        "localhost" if proxy.host == "127.0.0.1" else proxy.host,
        proxy.port,
        "client.example",
        timeout=PATIENCE,
        context=context,
        source_address=(source, 0),
    )


def replies(session: smtplib.SMTP) -> list[int]:
    """The codes for a recipient elsewhere, and for one of this host."""
    with session:
        session.ehlo()
        session.mail("s@sender.test")
        return [session.rcpt("u@elsewhere.test")[0], session.rcpt("u@example.com")[0]]


def events(server: Server, event: str, remote_ip: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in server.log().splitlines() if line.startswith(b"{")]
    return [entry for entry in found if (entry["event"], entry.get("remote_ip")) == (event, remote_ip)]


@pytest.mark.parametrize("name", PROXIES)
def test_a_client_behind_a_real_proxy_has_the_rules_of_its_own_address(home: Path, server: Server, name: str) -> None:
    with PROXIES[name](home, server.port) as proxy:
        tls = name in ENCRYPTED
        for _ in range(2):
            assert replies(connected(proxy, INSIDE, tls)) == [250, 250]
            assert replies(connected(proxy, OUTSIDE, tls)) == [553, 250]
            with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
                connected(proxy, DENIED, tls)
        until(lambda: len(events(server, "deny", DENIED)) >= 2, server.log)
        last = events(server, "ok", OUTSIDE)[-1]
        assert (last["local_port"], last["proxy_ip"]) == (proxy.port, PROXY)
        assert {entry["pid"] for entry in events(server, "deny", DENIED)} == {server.pid}  # no process of their own
        assert b'"drop"' not in server.log()


def test_an_ipv6_client_behind_haproxy_and_nginx(home: Path, server: Server) -> None:
    for make in (
        lambda: haproxy(home, server.port, "send-proxy-v2", host="::1"),
        lambda: nginx(home, server.port, "::1"),
    ):
        with make() as proxy:
            assert replies(connected(proxy, "::1")) == [250, 250]
            assert events(server, "ok", "::1")[-1]["local_port"] == proxy.port


def test_the_message_names_the_client(home: Path, server: Server) -> None:
    with haproxy(home, server.port, "send-proxy") as proxy, connected(proxy, OUTSIDE) as session:
        session.sendmail("s@sender.test", ["u@example.com"], "Subject: t\r\n\r\nhello\r\n")
    (message,) = [path.read_bytes() for path in (home / "dump").glob("*.m")]
    assert re.match(rb"Received: from unknown \(HELO client.example\) \(127.0.0.4\)\n", message)


CHECKS = {  # the words of haproxy's lines, and whether the header names haproxy as its own client
    "v1": ("send-proxy check inter 100", "", True),
    "v2": ("send-proxy-v2 check inter 100", "", False),
    "v2, crc32c": (f"{TLVS} check inter 100", "", False),
    "v1, smtpchk": ("send-proxy check inter 100", "option smtpchk EHLO haproxy.example", True),
    "v2, smtpchk": ("send-proxy-v2 check inter 100", "option smtpchk EHLO haproxy.example", False),
}


@pytest.mark.parametrize("name", CHECKS)
def test_haproxys_health_check_is_served_by_the_rules_of_the_proxy(home: Path, name: str) -> None:
    words, more, is_named = CHECKS[name]
    with serving(home) as server, haproxy(home, server.port, words, more=more) as proxy:
        until(lambda: len([entry for entry in events(server, "ok", PROXY) if entry["remote_port"]]) > 3, server.log)
        assert replies(connected(proxy, INSIDE)) == [250, 250]
        assert b" is DOWN" not in proxy.log()
        last = events(server, "ok", PROXY)[-1]
        assert is_named or (last["remote_ip"], last["remote_port"]) == (last["proxy_ip"], last["proxy_port"])
        assert last["rule"] == PROXY


def test_a_denied_health_check_takes_the_server_out(home: Path, tmp_path: Path) -> None:
    rules = compiled(tmp_path / "cdb", "127.0.0.1:deny\n:allow\n")
    more = "option smtpchk EHLO haproxy.example"
    with serving(home, "-x", str(rules)) as server:
        with haproxy(home, server.port, "send-proxy check inter 100 fall 1", more=more) as proxy:
            until(lambda: b" is DOWN" in proxy.log(), proxy.log)
        assert not children(server.pid)
