"""relaytest against other servers: mailfront on a pipe, Postfix on loopback, closed and open."""

import os
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.peers.postfixserver import Postfix
from tests.kit.relaytest import FAST, Outcome, over_network, relaytest
from tests.kit.support import peer

pytestmark = pytest.mark.peer

SMTPFRONT = "/usr/sbin/smtpfront-qmail"
LISTED = ("--listed", "example.com")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
NUL = {"nul", "nul-recipient"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {"me": "mx.example.com\n", "rcpthosts": "example.com\n"})


def kinds(done: Outcome, word: str) -> set[str]:
    """Return the kinds of recipients of the probes with this result."""
    return {name.rpartition("/")[2] for name, result in done.results.items() if result == word}


def test_smtpfront_qmail_is_closed_except_for_nul(home: Path) -> None:
    """mailfront 2.12 accepts an address with a NUL, which ends a recipient in qmail's envelope."""
    done = relaytest("--pipe", "--home", home, "--json", peer(SMTPFRONT))
    assert done.exit == 2
    assert kinds(done, "open") == set()
    assert kinds(done, "cannot tell") == NUL
    done = relaytest("--pipe", "--home", home, *WITHOUT_NUL, peer(SMTPFRONT))
    assert done.exit == 0


WITHOUT_NUL = [
    word
    for pattern in (
        "*/p*",
        "*/bang*",
        "*/q*",
        "*/d*",
        "*/route*",
        "*/t*",
        "*/literal*",
        "helo*",
        "x*",
        "second*",
        "*-rset",
    )
    for word in ("--only", pattern)
]


def test_with_that_nul_it_relays_to_the_outside(home: Path) -> None:
    words = ("--listed", "example.com", "--send", "me@mine.test", "--only", "outside/nul-recipient")
    done = relaytest("--pipe", "--home", home, *words, peer(SMTPFRONT))
    assert done.exit == 2
    assert done.verdict == "cannot tell: 1 message accepted: if one arrives, this is an open relay"
    [envelope] = (home / "dump").glob("*.e")
    assert b"\0Tme@mine.test\0T" in envelope.read_bytes()


def test_smtpfront_qmail_without_rcpthosts_is_not_open(home: Path) -> None:
    (home / "control" / "rcpthosts").unlink()  # then it refuses all recipients
    done = relaytest("--pipe", "--home", home, peer(SMTPFRONT))
    assert done.exit == 2
    assert "it accepts no mail for " in done.verdict


def test_smtpfront_qmail_with_relayclient_is_open(home: Path) -> None:
    done = relaytest("--pipe", "--home", home, "env", "RELAYCLIENT=", peer(SMTPFRONT))
    assert done.exit == 1


def test_smtpfront_qmail_is_tested_behind_rules(home: Path, tmp_path: Path) -> None:
    from tests.kit.server import compiled

    cdb = compiled(tmp_path / "r.cdb", '127.:allow,RELAYCLIENT=""\n8.8.:deny\n:allow\n')
    words = ("--json", "--only", "*/plain", peer(SMTPFRONT))
    done = relaytest("--rules", cdb, "--home", home, *words)
    assert {client["client"]: client["verdict"] for client in done.json["clients"]} == {
        "192.0.2.1": "closed",
        "2001:db8::1": "closed",
        "127.0.0.1": "inside",
        "127.1.1.1": "inside",
        "8.8.1.1": "denied",
    }


CLOSED = "mynetworks = 127.0.0.1/32"
PERMANENT = CLOSED + "\nsmtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination"
PERMISSIVE = "mynetworks = 127.0.0.0/8"


@needs_root
@pytest.mark.parametrize("more", [CLOSED, PERMANENT], ids=["454, the default", "554"])
def test_a_postfix_is_closed_to_an_address_outside_of_mynetworks(more: str) -> None:
    peer("/usr/sbin/postfix")
    with Postfix(more) as server:
        done = over_network(server.port, *LISTED, "--from-ip", "127.0.0.2", "--json")
    assert done.exit == 0
    assert kinds(done, "needs --send") == {"decnet-listed", "route-outside", "route-outside-twice", "fullwidth-percent"}


@needs_root
def test_a_postfix_with_a_permissive_mynetworks_is_open() -> None:
    peer("/usr/sbin/postfix")
    with Postfix(PERMISSIVE) as server:
        done = over_network(server.port, *LISTED, "--from-ip", "127.0.0.2")
        inside = relaytest(f"127.0.0.1:{server.port}", *LISTED, "--from-ip", "127.0.0.2")
    assert done.exit == 1
    assert done.verdict == "open: 1 probe went through"
    assert (inside.exit, inside.verdict.partition(":")[0]) == (2, "inside")


@needs_root
def test_a_postfix_that_trusts_senders_is_open_and_the_advice_says_so() -> None:
    peer("/usr/sbin/postfix")
    more = (
        CLOSED
        + "\nsmtpd_relay_restrictions = check_sender_access inline:{example.com=permit}, reject_unauth_destination"
    )
    with Postfix(more) as server:
        done = over_network(server.port, *LISTED, "--from-ip", "127.0.0.2", "--only", "*/plain", "--json")
        inside = relaytest(f"127.0.0.1:{server.port}", *LISTED, *FAST, "--from-ip", "127.0.0.2", "--only", "*/plain")
    assert done.exit == 1
    assert {name for name, word in done.results.items() if word == "open"} == {"bare/plain", "listed/plain", "me/plain"}
    assert "a sender must not allow relaying" in done.json["change"][0]["what"]
    assert inside.exit == 1  # the client's address does not allow this relaying


@needs_root
def test_a_postfix_that_trusts_xclient_is_open() -> None:
    peer("/usr/sbin/postfix")
    with Postfix(CLOSED + "\nsmtpd_authorized_xclient_hosts = 127.0.0.0/8") as server:
        done = over_network(server.port, *LISTED, "--from-ip", "127.0.0.2", "--only", "xclient*", "--only", "xforward")
    assert done.exit == 1
    assert "open: xclient: " in done.stdout
    assert "open: xforward: " not in done.stdout
    assert "change: the list of proxies" in done.stdout


@needs_root
@pytest.mark.parametrize(("value", "status"), [("no", 1), ("reject", 0)])
def test_a_postfix_that_accepts_a_bare_newline_allows_smuggling(value: str, status: int) -> None:
    peer("/usr/sbin/postfix")
    words = ("--only", "smuggling/*", "--send", "me@example.com", "--json")
    with Postfix(CLOSED + f"\nsmtpd_forbid_bare_newline = {value}") as server:
        done = over_network(server.port, *LISTED, "--from-ip", "127.0.0.2", *words)
    assert done.exit == status
    if status:
        assert {"lf-dot-lf", "lf-dot-crlf"} <= kinds(done, "open")
