"""Who may pass: rcpthosts, badmailfrom, the strict mode."""

import pytest

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import parse
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.policy import ENVELOPE_LIMIT, is_bad_sender, rcpt_refusal
from tests.kit.echo import settings

MORE = (b"more.test", b".deep.test")


def refusal(recipient: bytes, envelope: Envelope | None = None, **changes: object) -> bytes | None:
    """The reply to a recipient, None where it passes."""
    why = rcpt_refusal(settings(**changes), envelope or Envelope(b"s@s.test"), recipient, MORE.__contains__)
    return why[0] if why else None


@pytest.mark.parametrize(
    "recipient",
    [
        b"u@ok.test",
        b"u@OK.Test",
        b"u@a.wild.test",
        b"u@a.b.wild.test",
        b"u@.wild.test",
        b"u@more.test",
        b"u@MORE.test",
        b"u@a.b.deep.test",
        b"u@evil.test@ok.test",
        b"u%evil.test@ok.test",
        b"",
        b"u",
        b"u%evil.test",
        b"evil.test!u",
    ],
)
def test_listed_domains_and_addresses_without_one_pass(recipient: bytes) -> None:
    assert refusal(recipient) is None


@pytest.mark.parametrize(
    "recipient",
    [
        b"u@evil.test",
        b"u@sub.ok.test",
        b"u@wild.test",
        b"u@xwild.test",
        b"u@ok.test.",
        b"u@ok.test@evil.test",
        b"@evil.test",
        b"u@",
        b"u@ ok.test",
        b"u@ok.test ",
        b"u@o\xe2\x84\xaa.test",  # the Kelvin sign is no k
        b"u@[127.0.0.1]",
        b"u@deep.test",
    ],
)
def test_everything_else_is_refused(recipient: bytes) -> None:
    assert refusal(recipient) == replies.RCPTHOSTS


def test_without_rcpthosts_everything_passes() -> None:
    assert refusal(b"u@evil.test", rcpthosts=None) is None


def test_an_empty_rcpthosts_lets_only_addresses_without_a_domain_pass() -> None:
    assert refusal(b"u@evil.test", rcpthosts=frozenset()) == replies.RCPTHOSTS
    assert refusal(b"u", rcpthosts=frozenset()) is None


@pytest.mark.parametrize("relayclient", [b"", b"@relay"])
def test_relayclient_passes_even_when_empty(relayclient: bytes) -> None:
    assert refusal(b"u@evil.test", relayclient=relayclient, relaystrict=True) is None


TRICKS = [
    b"u%evil.test@ok.test",
    b"evil.test!u@ok.test",
    b"u@evil.test@ok.test",
    b"",
    b"u",
    b"u%evil.test",
    b"evil.test!u",
    b"postmaster%evil.test",
    b"postmaster@",
]


@pytest.mark.parametrize("recipient", TRICKS)
def test_strict_refuses_what_somebody_may_route_onward(recipient: bytes) -> None:
    assert refusal(recipient, relaystrict=True) == replies.STRICT


@pytest.mark.parametrize(
    "argument",
    [
        b'TO:<"u%evil.test"@ok.test>',
        b"TO:<u\\%evil.test@ok.test>",
        b'TO:<"u@evil.test"@ok.test>',
        b"TO:<u\\@evil.test@ok.test>",
        b'TO:<"u"@"evil.test"@ok.test>',
        b'TO:<evil.test"!"u@OK.test>',
        b"TO:<@a.test:@evil.test:u@ok.test>",
        b"TO:<@a.test:u%evil.test@ok.test>",
        b"TO:<@ok.test>",
        b'TO:<"">',
        b"TO:u",
        b"TO:<u@>",
        b'TO:<"postmaster "@>',
        b"TO:<%postmaster>",
        b"TO:<postmaster >",
        b"",
    ],
)
def test_strict_is_not_deceived_by_the_way_it_is_written(argument: bytes) -> None:
    assert refusal(parse(argument)[0], relaystrict=True) == replies.STRICT


@pytest.mark.parametrize(
    "domain", [b"ok.test.", b"[127.0.0.1]", b"[IPv6:::1]", b"ok\xef\xbc\x8etest", b"OK.TES", b"ok.test\r"]
)
def test_strict_leaves_domains_to_rcpthosts(domain: bytes) -> None:
    assert refusal(b"u@" + domain, relaystrict=True) == replies.RCPTHOSTS


@pytest.mark.parametrize("recipient", [b"postmaster", b"PostMaster", b"u@ok.test", b"u@a.wild.test", b"u@more.test"])
def test_strict_lets_plain_recipients_pass(recipient: bytes) -> None:
    assert refusal(recipient, relaystrict=True) is None


def test_strict_without_rcpthosts_takes_mail_for_nobody_but_postmaster() -> None:
    assert refusal(b"postmaster", relaystrict=True, rcpthosts=None) is None
    for recipient in (b"u@ok.test", b"postmaster@ok.test", b"", b"u"):
        assert refusal(recipient, relaystrict=True, rcpthosts=None) == replies.STRICT


def test_syntax_comes_before_badmailfrom_before_rcpthosts() -> None:
    bad = Envelope(b"s@s.test", sender_is_bad=True)
    assert refusal(b"x" * 895 + b"@evil", bad) == replies.SYNTAX
    assert refusal(b"u@evil.test", bad) == replies.BADMAILFROM
    assert refusal(b"x" * 891 + b"@ok.test") is None


@pytest.mark.parametrize(
    ("sender", "bad"),
    [
        (b"spam@a.test", True),
        (b"SPAM@A.test", True),
        (b"x@spam.test", True),
        (b"x@y@SPAM.test", True),
        (b"x@sub.spam.test", False),
        (b"x@a.test", False),
        (b"@spam.test", True),
        (b"spam.test", False),
        (b"", False),
    ],
)
def test_badmailfrom(sender: bytes, bad: bool) -> None:
    assert is_bad_sender(settings(badmailfrom=frozenset({b"spam@a.test", b"@spam.test"})), sender) == bad


def test_badmailfrom_is_for_relay_clients_too_unless_they_are_exempt() -> None:
    listed = frozenset({b"@spam.test"})
    assert is_bad_sender(settings(badmailfrom=listed, relayclient=b""), b"x@spam.test")
    assert not is_bad_sender(settings(badmailfrom=listed, relayclient=b"", badmailfrom_relay=False), b"x@spam.test")
    assert is_bad_sender(settings(badmailfrom=listed, badmailfrom_relay=False), b"x@spam.test")


def test_recipients_are_limited_by_number() -> None:
    envelope = Envelope(b"s@s.test")
    for _ in range(3):
        assert refusal(b"u@ok.test", envelope, maxrcpt=3) is None
        envelope.add(b"u@ok.test")
    assert refusal(b"u@ok.test", envelope, maxrcpt=3) == replies.TOO_MANY_RECIPIENTS
    assert refusal(b"u@ok.test", envelope, maxrcpt=0) is None


def test_recipients_are_limited_by_their_bytes_whatever_their_number_may_be() -> None:
    envelope = Envelope(b"s@s.test")
    while refusal(b"x" * 890 + b"@ok.test", envelope, maxrcpt=0) is None:
        envelope.add(b"x" * 890 + b"@ok.test")
    assert ENVELOPE_LIMIT < len(envelope.recipients) < ENVELOPE_LIMIT + 1000
    assert refusal(b"u@ok.test", envelope, maxrcpt=0) == replies.TOO_MANY_RECIPIENTS


@pytest.mark.parametrize(
    "argument", [b'TO:<""@evil.test>', b"TO:<@@evil.test>", b"TO:<x@evil.test>", b'TO:<"@"evil.test>']
)
def test_no_byte_of_a_recipient_is_skipped(argument: bytes) -> None:
    """qmail before 1998-05-28 looked at rcpthosts from the second byte on, and relayed for `""@any.host`."""
    address = parse(argument)[0]
    assert address == b"" or refusal(address) == replies.RCPTHOSTS


@pytest.mark.parametrize("recipient", [b"", b"@", b"x", b".", b"[", b"@."])
def test_addresses_of_no_or_one_byte_are_judged_like_any_other(recipient: bytes) -> None:
    assert refusal(recipient) == (replies.RCPTHOSTS if b"@" in recipient else None)
