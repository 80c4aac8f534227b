"""relaytest's verdicts on misbehaving servers: never closed without a real refusal."""

import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as some

from qmail_smtpd.probe.catalogue import address_probes
from qmail_smtpd.probe.conversation import ENDLESS, NO_REPLY, Conversation, Reply
from qmail_smtpd.probe.judge import (
    BROKEN,
    CLOSED,
    LATER,
    REFUSED,
    SENT,
    SKIPPED,
    TAKEN,
    Control,
    Result,
    outcome_of,
    verdict,
)
from qmail_smtpd.probe.transport import ConnectionLost, TimedOut
from qmail_smtpd.probe.tricks import trick_probes
from tests.kit.peers.standin import StandIn, behave
from tests.kit.relaytest import FAST, over_network, relaytest

pytestmark = pytest.mark.slow

LISTED = ("--listed", "example.com")
PROBES = {probe.name: probe for probe in (*address_probes(), *trick_probes())}
FINE = (Control("greeting", True, ""),)


def ask(answer, *words, **options):
    with StandIn(answer, **options) as server:
        return over_network(server.port, *LISTED, *words)


def is_plain(line):
    return line == b"RCPT TO:<relaytest@example.net>"


# the controls


def test_the_well_behaved_server_is_closed():
    done = ask(behave)
    assert (done.exit, done.stderr) == (0, "")
    assert done.verdict.startswith("closed: ")


def test_a_server_that_accepts_every_recipient_is_cannot_tell():
    def accept(visit, line):
        return b"250 ok\r\n" if line[:4] == b"RCPT" else behave(visit, line)

    done = ask(accept)
    assert done.exit == 2
    assert done.verdict.startswith("cannot tell: it accepts any recipient, even impossible ones")


@pytest.mark.parametrize("end", [None, b"421 too long\r\n", b"354 go on\r\n"])
def test_a_missing_reply_to_an_impossible_recipient_is_no_refusal(end):
    def accept(visit, line):
        if line[:4] == b"RCPT" and visit.mail:
            return end if len(line) > 512 else b"250 ok\r\n"
        return behave(visit, line)

    done = ask(accept)
    assert done.exit == 2
    assert done.verdict.startswith("cannot tell: it accepts any recipient, even impossible ones")


def test_a_server_that_disconnects_at_an_impossible_recipient_gets_the_next_one():
    assert (
        ask(lambda visit, line: None if line == b"RCPT TO:<>" else behave(visit, line), "--only", "null/plain").exit
        == 0
    )


def test_a_server_that_accepts_every_command_is_cannot_tell():
    done = ask(lambda visit, line: b"250 ok\r\n")
    assert done.exit == 2
    assert done.verdict.startswith("cannot tell: it does not refuse a command that does not exist")


def test_a_server_that_refuses_everything_is_not_closed():
    done = ask(lambda visit, line: b"550 no\r\n" if line[:4] == b"RCPT" else behave(visit, line))
    assert done.exit == 2
    assert done.verdict.startswith("cannot tell: it accepts no mail for example.com")


def test_without_a_listed_domain_no_probe_is_sent():
    with StandIn(greeting=b"220 \x1b[2J ESMTP\r\n") as server:
        done = over_network(server.port)
        assert done.exit == 2
        assert done.verdict == "cannot tell: name a domain that it accepts mail for with --listed"
        assert b"RCPT TO:<relaytest@example.net>" not in server.commands


def test_the_listed_domain_is_derived_from_the_servers_name():
    with StandIn(greeting=b"220 mx.example.com ESMTP\r\n") as server:
        assert over_network(server.port).exit == 0


def test_a_server_that_blocks_the_client_during_the_run_is_not_closed():
    """After many refusals it accepts nothing from this client, which says nothing about relaying."""
    refused = []

    def block(visit, line):
        answer = behave(visit, line)
        refused.extend([line] if answer.startswith(b"553") else [])
        return b"550 you are on our list now\r\n" if len(refused) > 100 and line[:4] == b"RCPT" else answer

    done = ask(block)
    assert done.exit == 2
    assert "at the end it refused a recipient that it had accepted before" in done.verdict


# a missing reply is no refusal


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "no answer in time"),
        (b"421 too many errors\r\n", "421, the server ends the session"),
        (None, "the connection was closed"),
        (b"never mind\r\n", "not an SMTP reply"),
        (b"5\r\n", "not an SMTP reply"),
        (b"999 what\r\n", "not an SMTP reply"),
        (b"553-no\r\n250 or yes\r\n", "not an SMTP reply"),
        (b"553-no\r\n" * 200, "a reply without an end"),
        (b"553 " + b"x" * 5000 + b"\r\n", "a reply without an end"),
        (b"354 go on\r\n", "a reply that neither accepts nor refuses"),
    ],
)
def test_a_missing_or_malformed_reply_is_cannot_tell(answer, why):
    def broken(visit, line):
        return answer if is_plain(line) else behave(visit, line)

    done = ask(broken, "--only", "null/plain", "--timeout", "0.3")
    assert done.exit == 2
    assert "cannot tell: 2 probes undecided" in done.verdict
    assert done.stdout.count(why) == 1


@pytest.mark.parametrize("how", ["421", "closed"])
def test_after_an_error_limit_the_run_continues_on_a_new_connection(how):
    """The server ends each connection after three refusals."""
    counts = {}

    def limited(visit, line):
        answer = behave(visit, line)
        counts[visit.number] = counts.get(visit.number, 0) + answer.startswith(b"5")
        if counts[visit.number] > 3:
            return b"421 too many errors\r\n" if how == "421" else None
        return answer

    done = ask(limited, "--json")
    assert done.exit == 0
    assert done.results == ask(behave, "--json").results


def test_an_extra_reply_ends_the_connection_and_is_not_read_as_the_next_one():
    """The server replies twice to RSET on its second connection: all later replies would be shifted by one."""

    def twice(visit, line):
        answer = behave(visit, line)
        return answer * 2 if line == b"RSET" and visit.number == 2 else answer

    done = ask(twice, "--only", "*/plain", "--json")
    assert done.results["outside/plain"] == "refused"
    assert done.exit == 0


def test_after_the_server_dies_the_remaining_probes_are_not_asked():
    def dies(visit, line):
        return None if visit.number > 3 else behave(visit, line)

    done = ask(dies, "--only", "null/*", "--timeout", "0.3")
    assert done.exit == 2
    assert "not asked" in done.stdout


def test_single_bytes_without_end_are_no_reply():
    """The timeout applies to the whole reply."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        import threading

        def drip():
            connection, _ = listener.accept()
            with connection:
                try:
                    for _ in itertools.count():
                        connection.sendall(b"2")
                        if stop.wait(0.05):
                            return
                except OSError:
                    return

        stop = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        done = relaytest(f"127.0.0.1:{port}", *FAST, "--timeout", "0.5", "--total", "2")
        stop.set()
        thread.join()
    assert done.exit == 2
    assert done.verdict == "cannot tell: no answer in time"


# 4xx


def test_a_probe_with_a_4xx_is_repeated():
    seen = set()

    def defer(visit, line):
        if is_plain(line) and visit.mail not in seen:
            seen.add(visit.mail)
            return b"451 later\r\n"
        return behave(visit, line)

    assert ask(defer).exit == 0
    assert len(seen) > 3


def test_a_repeated_4xx_is_cannot_tell():
    done = ask(lambda visit, line: b"451 later\r\n" if is_plain(line) else behave(visit, line))
    assert done.exit == 2
    assert "4xx twice" in done.stdout


def test_a_greylisted_listed_recipient_is_repeated():
    seen = []

    def greylist(visit, line):
        if line == b"RCPT TO:<postmaster@example.com>" and not seen:
            seen.append(line)
            return b"451 greylisted\r\n"
        return behave(visit, line)

    assert ask(greylist).exit == 0


def test_greylisted_senders_are_repeated():
    seen = []

    def greylist(visit, line):
        if line[:4] == b"MAIL" and len(seen) < 2:  # the null sender, and the other
            seen.append(line)
            return b"451 greylisted\r\n"
        return behave(visit, line)

    assert ask(greylist).exit == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"530 5.7.0 Authentication required\r\n", "it requires a login or TLS before any mail"),
        (b"451 later\r\n", "it defers every sender: try again later (--again)"),
        (b"550 no\r\n", "it accepts no sender"),
    ],
)
def test_a_server_that_accepts_no_sender_is_cannot_tell_and_its_reply_is_shown(answer, why):
    done = ask(lambda visit, line: answer if line[:4] == b"MAIL" else behave(visit, line))
    assert done.exit == 2
    assert done.verdict.startswith(f"cannot tell: {why}")
    assert answer.decode().strip() in done.stdout


def test_postfixs_relay_access_denied_with_454_is_a_refusal():
    def postfix(visit, line):
        answer = behave(visit, line)
        return b"454 4.7.1 <x>: Relay access denied\r\n" if answer.startswith(b"553") else answer

    assert ask(postfix).exit == 0
    assert outcome_of(Reply(454, (b"454 4.7.1 <x>: Relay access denied",))) == REFUSED
    assert outcome_of(Reply(454, (b"454 4.7.1 try again",))) == LATER
    assert outcome_of(Reply(450, (b"450 4.7.1 Relay access denied",))) == LATER


# refusals because of the domain


@pytest.mark.parametrize(
    "answer",
    [
        b"550 5.1.2 no such domain\r\n",
        b"556 5.1.10 Recipient address rejected: Domain does not accept mail (nullMX)\r\n",
        b"550 5.1.10 nullMX\r\n",
        b"550 5.4.4 unable to route\r\n",
        b"550 Unrouteable address\r\n",  # Exim with `require verify = recipient`
        b"550-Verification failed\r\n550 Unrouteable address\r\n",
    ],
)
def test_a_refusal_of_the_domain_itself_is_cannot_tell(answer):
    done = ask(lambda visit, line: answer if is_plain(line) else behave(visit, line))
    assert done.exit == 2
    assert "name one that receives mail with --outside" in done.stdout


def test_a_refused_sender_is_a_refusal_unless_its_domain_is_refused():
    def no_null(visit, line):
        return b"550 no bounces\r\n" if line == b"MAIL FROM:<>" else behave(visit, line)

    assert ask(no_null).exit == 0

    def no_domain(visit, line):
        return b"550 5.1.8 no such domain\r\n" if b"sender@example.net" in line else behave(visit, line)

    def no_domain_at_rcpt(visit, line):  # Postfix, smtpd_delay_reject
        bad = line[:4] == b"RCPT" and b"sender@example.net" in (visit.mail or b"")
        return b"550 5.7.27 nullMX\r\n" if bad else behave(visit, line)

    assert ask(no_domain).exit == 2
    assert ask(no_domain_at_rcpt).exit == 2


def test_a_server_that_disconnects_at_some_probes_gets_the_others():
    def disconnect(visit, line):
        return None if b"\0" in line else behave(visit, line)

    done = ask(disconnect, "--json")
    assert done.exit == 2
    undecided = {name.partition("/")[2] for name, word in done.results.items() if word == "cannot tell"}
    assert undecided == {"nul", "nul-recipient", "nul-after"}
    assert "not asked" not in done.results.values()


# open relays


@pytest.mark.parametrize(
    ("is_open", "name"),
    [
        (lambda visit, line: b"sender@example.com" in (visit.mail or b"") and is_plain(line), "listed/plain"),
        (lambda visit, line: line == b"RCPT TO:<@example.com:relaytest@example.net>", "route-listed"),
        (lambda visit, line: line == b"RCPT TO: <relaytest@example.net>", "blank-after-colon"),
        (lambda visit, line: line == b"RCPT TO:relaytest@example.net", "no-brackets"),
        (lambda visit, line: line == b"RCPT TO:<relaytest@eXaMpLe.nEt>", "mixed-case"),
        (lambda visit, line: line == b"RCPT TO:<relaytest@relaytestexample.com>", "suffix"),
        (lambda visit, line: is_plain(line) and b"EHLO localhost" in visit.commands[:1], "helo-localhost"),
        (lambda visit, line: is_plain(line) and b"EHLO example.com" in visit.commands[:1], "helo-listed"),
        (lambda visit, line: is_plain(line) and visit.recipients != [], "second-rcpt"),
        (lambda visit, line: is_plain(line) and any(c.startswith(b"XCLIENT ADDR") for c in visit.commands), "xclient"),
        (lambda visit, line: is_plain(line) and any(c.startswith(b"XFORWARD") for c in visit.commands), "xforward"),
        (lambda visit, line: is_plain(line) and any(c.startswith(b"PROXY ") for c in visit.commands), "proxy-line"),
        (lambda visit, line: line == b"RCPT TO:<relaytest@[IPv6:::ffff:198.51.100.25]>", "literal-mapped"),
    ],
)  # fmt: skip
def test_each_kind_of_open_relay_is_found(is_open, name):
    def answer(visit, line):
        if line.startswith((b"XCLIENT", b"XFORWARD")):
            return b"250 ok\r\n"
        return b"250 ok\r\n" if is_open(visit, line) else behave(visit, line)

    done = ask(answer)
    assert done.exit == 1, done.stdout
    assert f"relaytest: open: {name}" in done.stdout.replace("outside/", "")


class Filtering(StandIn):
    """Relays for a forged sender, and refuses every message."""

    def answer_to(self, visit, text):
        if visit.reading:
            visit.reading = False
            return b"554 5.7.1 spam\r\n"
        if text == b"RCPT TO:<me@mine.test>" and b"sender@example.com" in visit.mail:
            visit.recipients.append(text)
            return b"250 ok\r\n"
        return super().answer_to(visit, text)


def test_a_refused_message_does_not_undo_an_accepted_recipient():
    with Filtering() as server:
        done = over_network(server.port, *LISTED, "--send", "me@mine.test", "--only", "*/plain")
    assert done.exit == 2
    assert "relaytest: cannot tell: listed/plain: RCPT TO:<me@mine.test>: 554 5.7.1 spam: the recipient" in done.stdout


def test_an_accepted_subdomain_is_reported_and_is_not_open():
    done = ask(
        lambda visit, line: (
            b"250 ok\r\n" if line == b"RCPT TO:<relaytest@relaytest.example.com>" else behave(visit, line)
        )
    )
    assert done.exit == 0
    assert "taken below: outside/below" in done.stdout


@pytest.mark.parametrize("taken", [True, False])
def test_a_recipient_that_does_not_exist_is_reported_if_it_is_accepted_and_is_never_open(taken):
    def answer(visit, line):
        if line.startswith(b"RCPT TO:<relaytest-") and line.endswith(b"@example.com>"):
            return b"250 ok\r\n" if taken else b"550 no\r\n"
        return behave(visit, line)

    done = ask(answer, "--only", "unknown-recipient")
    assert done.exit == 0
    assert ("takes unknown: unknown-recipient" in done.stdout) == taken
    assert ("change: the recipient check: list the recipients that exist" in done.stdout) == taken
    assert done.verdict.endswith("a recipient that does not exist is accepted") == taken


def test_an_accepted_address_with_a_nul_is_cannot_tell():
    done = ask(lambda visit, line: b"250 ok\r\n" if b"\0T" in line else behave(visit, line))
    assert done.exit == 2
    assert "accepted, and outside in one reading" in done.stdout


def test_logins_are_tried_only_with_auth():
    def any_password(visit, line):
        return b"235 welcome\r\n" if line.startswith(b"AUTH PLAIN ") and len(line) > 30 else behave(visit, line)

    with StandIn(any_password) as server:
        assert over_network(server.port, *LISTED).exit == 0
        assert not any(line.startswith(b"AUTH") for line in server.commands)
        done = over_network(server.port, *LISTED, "--auth")
    assert done.exit == 1
    assert "open: auth-plain: AUTH PLAIN " in done.stdout
    assert "change: the password checker" in done.stdout


def test_an_endless_login_is_cancelled_before_the_plain_case():
    """The server replies 334 to everything but *: the next command would be read as a password."""

    def endless(visit, line):
        if line.startswith(b"AUTH"):
            visit.reading_login = True
            return b"334 more\r\n"
        if getattr(visit, "reading_login", False):
            visit.reading_login = line != b"*"
            return b"501 cancelled\r\n" if line == b"*" else b"334 more\r\n"
        return behave(visit, line)

    done = ask(endless, "--auth", "--json")
    assert done.exit == 0
    assert done.results["auth-plain"] == done.results["auth-login"] == "refused"


def test_a_failed_login_that_allows_relaying_is_found():
    def open_after_login(visit, line):
        if line == b"AUTH LOGIN":
            return b"334 VXNlcm5hbWU6\r\n"
        if visit.commands[-2:-1] == [b"AUTH LOGIN"]:
            return b"334 UGFzc3dvcmQ6\r\n" if line != b"*" else b"501 cancelled\r\n"
        if visit.commands[-3:-2] == [b"AUTH LOGIN"]:
            return b"535 no\r\n" if not line.startswith(b"MAIL") else behave(visit, line)
        return b"250 ok\r\n" if is_plain(line) and b"AUTH LOGIN" in visit.commands else behave(visit, line)

    done = ask(open_after_login, "--auth")
    assert done.exit == 1
    assert "open: auth-login" in done.stdout
    assert "open: auth-cancelled" in done.stdout


# inside and outside


def test_an_inside_client_with_a_refused_sender_domain_is_inside():
    """A Postfix that trusts loopback, but refuses a sender at example.net, which has a null MX."""

    def trust(visit, line):
        if line.startswith(b"MAIL FROM:<relaytest-sender@example.net"):
            return b"550 5.7.27 Sender address rejected: Domain example.net does not accept mail (nullMX)\r\n"
        return b"250 ok\r\n" if is_plain(line) and visit.mail else behave(visit, line)

    with StandIn(trust) as server:
        done = relaytest(f"127.0.0.1:{server.port}", *LISTED, *FAST)
        assert done.exit == 2
        assert done.verdict.startswith("inside: ")
        assert over_network(server.port, *LISTED).exit == 1


def test_an_inside_client_for_which_only_a_trick_works_is_open():
    def is_open(visit, line):
        return b"250 ok\r\n" if line == b"RCPT TO:<@example.com:relaytest@example.net>" else behave(visit, line)

    with StandIn(is_open) as server:
        assert relaytest(f"127.0.0.1:{server.port}", *FAST, *LISTED).exit == 1


def test_an_ipv6_server_is_tested_with_its_own_literal():
    try:
        server = StandIn(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        assert relaytest(f"[::1]:{server.port}", *FAST, *LISTED).exit == 0
        assert b"RCPT TO:<@[IPv6:::1]:relaytest@example.net>" in server.commands


# the verdict function


def result(name, outcome, reply=Reply()):  # noqa: B008
    return Result(PROBES[name], outcome, reply, role="decides")


@given(some.lists(some.sampled_from([TAKEN, LATER, BROKEN, SKIPPED, SENT, REFUSED]), min_size=1, max_size=8))
def test_closed_requires_that_everything_was_refused(outcomes):
    names = itertools.islice((name for name, probe in PROBES.items() if probe.reading == "outside"), len(outcomes))
    results = [result(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
    for inside in (False, True):
        is_closed = verdict(FINE, results, inside).word == CLOSED
        assert is_closed == (set(outcomes) == {REFUSED})
        failed = (Control("listed", False, "why"),)
        assert verdict(failed, results, inside).word != CLOSED


@given(some.lists(some.binary(max_size=40), max_size=20), some.integers(1, 20))
def test_a_conversation_survives_any_bytes(chunks, size):
    class Bytes:
        def __init__(self):
            data = b"".join(chunks)
            self.parts = [data[at : at + size] for at in range(0, len(data), size)]

        def send(self, data, deadline):
            pass

        def receive(self, deadline):
            if deadline == 0.0:
                raise TimedOut
            if not self.parts:
                raise ConnectionLost
            return self.parts.pop(0)

    conversation = Conversation(Bytes(), 1.0)
    reply = conversation.command(b"NOOP")
    assert bool(reply.failure) or reply.code // 100 in (2, 3, 4, 5)
    assert reply.failure or all(line[:3] == reply.lines[0][:3] for line in reply.lines)
    assert reply.failure not in (ENDLESS,) or reply.kind == 0
    assert NO_REPLY
