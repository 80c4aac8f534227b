"""relaytest and STARTTLS: is a command that was sent in plaintext executed within TLS (CVE-2011-0411)?"""

import ssl
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.peers.standin import StandIn, behave
from tests.kit.relaytest import Outcome, over_network, relaytest
from tests.kit.support import script
from tests.kit.tlspeer import certify

pytestmark = pytest.mark.peer  # openssl makes the certificates

NAME = "starttls-injection"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*certify(tmp_path_factory.mktemp("tls")))
    return server_context


def ask(server: StandIn) -> Outcome:
    return over_network(server.port, "--listed", "example.com", "--only", NAME, "--json", "--timeout", "3")


def test_a_server_that_executes_the_command_within_tls_is_open(context: ssl.SSLContext) -> None:
    with StandIn(tls=context, discards_early=False) as server:
        done = ask(server)
    assert done.exit == 1
    assert done.results[NAME] == "open"
    assert "CVE-2011-0411" in done.json["change"][0]["what"]


def test_a_server_that_discards_the_command_is_closed(context: ssl.SSLContext) -> None:
    with StandIn(tls=context) as server:
        done = ask(server)
    assert (done.exit, done.results[NAME]) == (0, "refused")


def test_our_server_is_closed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {"me": "mx.example.com\n", "rcpthosts": "example.com\n"})
    certificate, key = certify(tmp_path)
    (home / "control" / "servercert.pem").write_text(key.read_text() + certificate.read_text())
    (home / "control" / "servercert.pem").chmod(0o600)
    done = relaytest("--pipe", "--home", home, "--only", NAME, "--json", script("qmail-smtpd"))
    assert (done.exit, done.results[NAME]) == (0, "refused")
    assert probe(done)["command"] == "NOOP, sent before TLS"  # so the probe reached TLS


def test_a_server_without_tls_is_closed() -> None:
    with StandIn() as server:
        done = ask(server)
    assert (done.exit, done.results[NAME]) == (0, "refused")
    assert probe(done)["command"] == "STARTTLS"


def test_a_server_that_refuses_the_command_within_tls_is_cannot_tell(context: ssl.SSLContext) -> None:
    """It has executed the command, and refused it. It may accept another command than NOOP."""
    refuse = {b"NOOP": b"503 EHLO first\r\n"}
    with StandIn(
        lambda visit, line: refuse.get(line) or behave(visit, line), tls=context, discards_early=False
    ) as server:
        done = ask(server)
    assert (done.exit, done.results[NAME]) == (2, "cannot tell")


def test_a_server_that_has_no_tls_for_a_time_is_cannot_tell() -> None:
    with StandIn(lambda visit, line: b"454 later\r\n" if line == b"STARTTLS" else behave(visit, line)) as server:
        done = ask(server)
    assert (done.exit, done.results[NAME]) == (2, "cannot tell")


def test_a_failed_handshake_is_cannot_tell() -> None:
    with StandIn(lambda visit, line: b"220 go\r\n" if line == b"STARTTLS" else behave(visit, line)) as server:
        done = ask(server)  # the NOOP is answered in plaintext
    assert (done.exit, done.results[NAME]) == (2, "cannot tell")


def probe(done: Outcome) -> dict[str, object]:
    return next(result for result in done.json["clients"][0]["probes"] if result["name"] == NAME)
