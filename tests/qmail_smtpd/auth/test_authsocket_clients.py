"""Dovecot decides the logins of real clients, by the lines of docs/qmail-smtpd.md; curl with a token, and POP3."""

import json
import os
import re
import signal
import smtplib
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.kit.maildrop import AS_NON_ROOT
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.dovecotserver import Dovecot, dovecot_version, needs_root
from tests.kit.server import Server, children, until
from tests.kit.support import ROOT, needs_channel_binding, peer, script
from tests.kit.tlspeer import certify, trusting

pytestmark = [pytest.mark.peer, needs_root]
TOKEN = "good-token"
SENDER, OUTSIDE = "joe@example.com", "someone@elsewhere.test"
OAUTH2 = {
    "2.3": "passdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = TOP/oauth2\n}\n",
    "2.4": "oauth2 {\nSETTINGS}\npassdb oauth2 {\n  mechanisms_filter = xoauth2 oauthbearer\n}\n",
}


class Introspection(BaseHTTPRequestHandler):
    """RFC 7662: whether a token is valid, and whose it is."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        known = parse_qs(body).get("token") == [TOKEN]
        data = json.dumps({"active": known, "username": "joe"} if known else {"active": False}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def introspection() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Introspection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def documented() -> str:
    """Return the lines that the documentation has for Dovecot's configuration."""
    text = (ROOT / "docs/qmail-smtpd.md").read_text()
    block = re.search(r"^    auth_mechanisms = (?:.*)\n(?:    .*\n)+", text, re.MULTILINE)
    assert block
    assert "mode = 0600\n" in block[0]
    lines = (
        block[0]
        .replace("unix_listener smtpd-auth", "unix_listener TOP/smtpd-auth")
        .replace("0600", "0666")
        .replace("qmaild", "nobody")
    )
    return "".join(line[4:] for line in lines.splitlines(keepends=True))


@pytest.fixture(scope="module")
def dovecot(introspection: int) -> Iterator[Dovecot]:
    settings = f"introspection_mode = post\nintrospection_url = http://127.0.0.1:{introspection}/\n"
    settings += "username_attribute = username\nactive_attribute = active\nactive_value = true\n"
    text = documented() + OAUTH2[dovecot_version()].replace("SETTINGS", settings)
    dovecot = Dovecot(text.replace("scram-sha-256", "scram-sha-256 cram-md5 xoauth2 oauthbearer"))
    (dovecot.top / "oauth2").write_text(settings)
    users = "joe:{PLAIN}secret\nclosed:{PLAIN}secret::::::nologin=y\naway:{PLAIN}secret::::::allow_nets=192.0.2.0/24\n"
    (dovecot.top / "users").write_text(users + "proxied:{PLAIN}secret::::::proxy=y host=127.0.0.1 nopassword=y\n")
    with dovecot:
        until(lambda: (dovecot.top / "smtpd-auth").exists())
        yield dovecot


@pytest.fixture
def server(dovecot: Dovecot, tmp_path: Path) -> Iterator[Server]:
    home = make_home(tmp_path / "home", {**CONTROL, "authsocket": f"{dovecot.top}/smtpd-auth\n"})
    certify(home / "control")
    environ = {"PATH": f"{Path(script('qmail-smtpd')).parent}:/usr/bin:/bin", "QMAILHOME": str(home), "AUTHSLEEP": "0"}
    with Server(["-vRHl0", "127.0.0.1", "0", "qmail-smtpd"], environ=environ) as server:
        yield server


def session(server: Server, tmp_path: Path) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", server.port, timeout=60)
    client._host = "localhost"  # type: ignore[attr-defined]
    client.starttls(context=trusting(tmp_path / "home/control/servercert.pem"))
    client.ehlo()
    return client


def run(*words: str, stdin: str = "Subject: t\n\nhello\n") -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(words, input=stdin, env=environ, capture_output=True, text=True, timeout=90)


def test_smtplib_logs_in_with_each_of_its_mechanisms(server: Server, tmp_path: Path) -> None:
    for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
        with session(server, tmp_path) as client:
            offered = client.esmtp_features["auth"].split()
            assert {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"} == set(offered)
            client.esmtp_features["auth"] = mechanism
            client.login("JOE" if mechanism == "PLAIN" else "joe", "secret")
            assert client.sendmail(SENDER, OUTSIDE, "Subject: t\n\nhello\n") == {}
    server.wait_for_log(rb"result=yes mechanism=PLAIN user=joe$")


def test_who_may_not_log_in_does_not_and_the_log_says_why(server: Server, tmp_path: Path) -> None:
    cases = {"joe": "password", "closed": "nologin", "away": "password", "proxied": "proxy", "nobody": "password"}
    for user in cases:
        with session(server, tmp_path) as client:
            client.esmtp_features["auth"] = "PLAIN"
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login(user, "wrong" if user == "joe" else "secret")
            assert caught.value.smtp_code == 535
            assert client.docmd(f"MAIL FROM:<{SENDER}>")[0] == 250
            assert client.docmd(f"RCPT TO:<{OUTSIDE}>")[0] == 553
    found = re.findall(rb"result=no reason=(\S+) mechanism=PLAIN user=(\w+)", server.log())
    assert [(user.decode(), reason.decode()) for reason, user in found] == list(cases.items())


def test_swaks_sends_a_message(server: Server) -> None:
    for mechanism in ("PLAIN", "CRAM-MD5"):
        words = ["--server", f"127.0.0.1:{server.port}", "--tls", "--auth", mechanism, "-au", "joe", "-ap", "secret"]
        done = run(peer("/usr/bin/swaks"), *words, "--from", SENDER, "--to", OUTSIDE)
        assert done.returncode == 0, done.stdout
    server.wait_for_log(rb"result=yes mechanism=CRAM-MD5 user=joe$")


@pytest.mark.parametrize("token", [TOKEN, "other"])
def test_curl_logs_in_with_a_token(server: Server, token: str) -> None:
    words = ["-skS", "--ssl-reqd", "--oauth2-bearer", token, "-u", "joe"]
    words += ["--mail-from", SENDER, "--mail-rcpt", OUTSIDE, "--crlf", "-T", "-", f"smtp://127.0.0.1:{server.port}"]
    done = run(peer("/usr/bin/curl"), *words)
    right = token == TOKEN
    assert done.returncode == (0 if right else 67), done.stderr
    server.wait_for_log(rb"result=%b mechanism=OAUTHBEARER user=joe$" % (b"yes" if right else b"no reason=password"))


@pytest.mark.parametrize("token", [TOKEN, "other"])
def test_a_token_logs_in_by_xoauth2(server: Server, tmp_path: Path, token: str) -> None:
    with session(server, tmp_path) as client:
        message = b64encode(f"user=joe\1auth=Bearer {token}\1\1".encode()).decode()
        code, _ = client.docmd("AUTH XOAUTH2", message)
        if code == 334:  # Dovecot 2.4 says why first
            code, _ = client.docmd("")
        assert code == (235 if token == TOKEN else 535)


@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_msmtp_logs_in_by_scram(server: Server, password: str) -> None:
    words = ["--host=127.0.0.1", f"--port={server.port}", "--tls=on", "--tls-starttls=on", "--tls-certcheck=off"]
    words += ["--auth=scram-sha-256", "--user=joe", f"--passwordeval=echo {password}", f"--from={SENDER}", "--"]
    done = run(peer("/usr/bin/msmtp"), "--file=/dev/null", *words, OUTSIDE)
    if needs_channel_binding("/usr/bin/msmtp"):
        assert (done.returncode, "GNU SASL" in done.stderr) == (70, True), done
        return
    assert (done.returncode == 0) is (password == "secret"), done.stderr
    found = b"yes" if password == "secret" else b"no reason=password"
    server.wait_for_log(rb"result=%b mechanism=SCRAM-SHA-256 user=joe$" % found)


def test_a_restart_of_dovecot_in_the_middle_costs_no_login_after_it(
    server: Server, dovecot: Dovecot, tmp_path: Path
) -> None:
    with session(server, tmp_path) as before:
        before.ehlo()
        for pid in children(dovecot.process.pid):
            os.kill(pid, signal.SIGKILL)  # with SIGTERM they wait for their clients, 30 seconds
        dovecot.stop()
        with session(server, tmp_path) as during:
            assert "PLAIN" in during.esmtp_features["auth"]
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                during.login("joe", "secret")
            assert caught.value.smtp_code == 454
        dovecot.__enter__()
        code, reply = before.docmd("AUTH PLAIN", b64encode(b"\0joe\0secret").decode())
        assert code == 235, (reply, server.log(), dovecot.log())
    with session(server, tmp_path) as after:
        after.login("joe", "secret")


@pytest.fixture(params=["pop3", "pop3s"])
def pop3(dovecot: Dovecot, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """qmail-popup, which asks Dovecot itself: under TLS, or where passwords may come in clear."""
    for part in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / part).mkdir(parents=True)
    programs = Path(script("qmail-popup")).parent
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "POPAUTHSOCKET": f"{dovecot.top}/smtpd-auth"}
    chain = ["qmail-popup", "mx", "sh", "-c", "echo USER=$USER >&2; exec qmail-pop3d Maildir"]
    words = ["-vRHl0", "127.0.0.1", "0", *chain]
    (tmp_path / "control").mkdir()
    if request.param == "pop3s":
        certify(tmp_path / "control")
        environ["POP3S"] = "1"
    with Server(words, environ={**environ, "QMAILHOME": str(tmp_path)}, cwd=tmp_path, before=AS_NON_ROOT) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_pop3_clients_log_in_by_the_mechanisms_that_dovecot_has(
    pop3: Server, tmp_path: Path, password: str, request: pytest.FixtureRequest
) -> None:
    scheme = request.node.callspec.params["pop3"]
    curl = [peer("/usr/bin/curl"), "-sSk", "-u", f"joe:{password}", f"{scheme}://127.0.0.1:{pop3.port}/"]
    mpop = [
        peer("/usr/bin/mpop"),
        "--host=127.0.0.1",
        f"--port={pop3.port}",
        *(["--tls=on", "--tls-starttls=off", "--tls-certcheck=off"] if scheme == "pop3s" else ["--tls=off"]),
        "--user=joe",
        "--file=/dev/null",
    ]
    mpop += [
        f"--passwordeval=echo {password}",
        f"--delivery=maildir,{tmp_path}/Maildir",
        f"--uidls-file={tmp_path}/uidls",
    ]
    no_scram = scheme == "pop3s" and needs_channel_binding("/usr/bin/mpop")
    mechanisms = ["plain", "user"] if no_scram else ["scram-sha-256", "plain", "user"]
    for words in (
        curl,
        *([*curl, "--login-options", f"AUTH={name}"] for name in ("PLAIN", "LOGIN", "CRAM-MD5", "*")),
        *([*mpop, f"--auth={name}"] for name in mechanisms),
    ):
        done = run(*words)
        assert (done.returncode == 0) is (password == "secret"), (words, done, pop3.log())
    if password == "secret":
        assert pop3.wait_for_log(rb"USER=joe\n", times=5 + len(mechanisms))
    else:
        assert pop3.wait_for_log(rb"result=no reason=password user=joe", times=5 + len(mechanisms))


@pytest.mark.parametrize("token", [TOKEN, "other"])
def test_a_token_logs_in_to_pop3(pop3: Server, token: str, request: pytest.FixtureRequest) -> None:
    scheme = request.node.callspec.params["pop3"]
    words = ["-sSk", "-u", "joe:", "--oauth2-bearer", token, f"{scheme}://127.0.0.1:{pop3.port}/"]
    assert (run(peer("/usr/bin/curl"), *words).returncode == 0) is (token == TOKEN), pop3.log()


def test_pop3_clients_log_in_by_checkdovecot(dovecot: Dovecot, tmp_path: Path) -> None:
    for part in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / part).mkdir(parents=True)
    programs = Path(script("qmail-popup")).parent
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "SMTPAUTHSOCKET": f"{dovecot.top}/smtpd-auth"}
    environ |= {"QMAILHOME": str(tmp_path), "POPNOAPOP": "1"}
    chain = ["qmail-popup", "mx", "checkdovecot", "sh", "-c", "echo USER=$USER >&2; exec qmail-pop3d Maildir"]
    words = ["-vRHl0", "127.0.0.1", "0", *chain]
    with Server(words, environ=environ, cwd=tmp_path, before=AS_NON_ROOT) as server:
        for user, password, code in (("JOE", "secret", 0), ("joe", "wrong", 67), ("closed", "secret", 67)):
            words = ["-sS", "-u", f"{user}:{password}", f"pop3://127.0.0.1:{server.port}/"]
            assert run(peer("/usr/bin/curl"), *words).returncode == code, server.log()
        log = server.wait_for_log(rb"result=no reason=password", times=2)
    assert log.count(b"USER=joe\n") == 1
