"""The policy for recipients and senders: rcpthosts, badmailfrom, strict mode, limits."""

import pytest

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import parse
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.policy import ENVELOPE_LIMIT, is_bad_sender, rcpt_refusal
from tests.kit.echo import settings

MORE = (b"more.test", b".deep.test")


def refusal(recipient: bytes, envelope: Envelope | None = None, **changes: object) -> bytes | None:
    """Return the reply to a recipient that is refused, None if it is accepted."""
    refused = rcpt_refusal(settings(**changes), envelope or Envelope(b"s@s.test"), recipient, MORE.__contains__)
    return refused[0] if refused else None


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
def test_listed_domains_and_addresses_without_a_domain_are_accepted(recipient: bytes) -> None:
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
        b"u@o\xe2\x84\xaa.test",  # the Kelvin sign is not a k
        b"u@[127.0.0.1]",
        b"u@deep.test",
    ],
)
def test_other_domains_are_refused(recipient: bytes) -> None:
    assert refusal(recipient) == replies.RCPTHOSTS


def test_without_rcpthosts_every_recipient_is_accepted() -> None:
    assert refusal(b"u@evil.test", rcpthosts=None) is None


def test_an_empty_rcpthosts_accepts_only_addresses_without_a_domain() -> None:
    assert refusal(b"u@evil.test", rcpthosts=frozenset()) == replies.RCPTHOSTS
    assert refusal(b"u", rcpthosts=frozenset()) is None


@pytest.mark.parametrize("relayclient", [b"", b"@relay"])
def test_relayclient_allows_every_recipient_even_if_empty(relayclient: bytes) -> None:
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
def test_strict_mode_refuses_recipients_that_may_be_rerouted(recipient: bytes) -> None:
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
def test_strict_mode_refuses_them_in_every_notation(argument: bytes) -> None:
    assert refusal(parse(argument)[0], relaystrict=True) == replies.STRICT


@pytest.mark.parametrize(
    "domain", [b"ok.test.", b"[127.0.0.1]", b"[IPv6:::1]", b"ok\xef\xbc\x8etest", b"OK.TES", b"ok.test\r"]
)
def test_strict_mode_leaves_domains_to_rcpthosts(domain: bytes) -> None:
    assert refusal(b"u@" + domain, relaystrict=True) == replies.RCPTHOSTS


@pytest.mark.parametrize("recipient", [b"postmaster", b"PostMaster", b"u@ok.test", b"u@a.wild.test", b"u@more.test"])
def test_strict_mode_accepts_ordinary_recipients(recipient: bytes) -> None:
    assert refusal(recipient, relaystrict=True) is None


def test_strict_mode_without_rcpthosts_accepts_only_postmaster() -> None:
    assert refusal(b"postmaster", relaystrict=True, rcpthosts=None) is None
    for recipient in (b"u@ok.test", b"postmaster@ok.test", b"", b"u"):
        assert refusal(recipient, relaystrict=True, rcpthosts=None) == replies.STRICT


def test_syntax_is_checked_before_badmailfrom_and_rcpthosts() -> None:
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
def test_badmailfrom_lists_addresses_and_domains(sender: bytes, bad: bool) -> None:
    assert is_bad_sender(settings(badmailfrom=frozenset({b"spam@a.test", b"@spam.test"})), sender) == bad


def test_badmailfrom_applies_to_relay_clients_unless_they_are_exempt() -> None:
    listed = frozenset({b"@spam.test"})
    assert is_bad_sender(settings(badmailfrom=listed, relayclient=b""), b"x@spam.test")
    assert not is_bad_sender(settings(badmailfrom=listed, relayclient=b"", badmailfrom_relay=False), b"x@spam.test")
    assert is_bad_sender(settings(badmailfrom=listed, badmailfrom_relay=False), b"x@spam.test")


def test_the_number_of_recipients_is_limited() -> None:
    envelope = Envelope(b"s@s.test")
    for _ in range(3):
        assert refusal(b"u@ok.test", envelope, maxrcpt=3) is None
        envelope.add(b"u@ok.test")
    assert refusal(b"u@ok.test", envelope, maxrcpt=3) == replies.TOO_MANY_RECIPIENTS
    assert refusal(b"u@ok.test", envelope, maxrcpt=0) is None


def test_the_bytes_of_all_recipients_are_limited() -> None:
    envelope = Envelope(b"s@s.test")
    while refusal(b"x" * 890 + b"@ok.test", envelope, maxrcpt=0) is None:
        envelope.add(b"x" * 890 + b"@ok.test")
    assert ENVELOPE_LIMIT < len(envelope.recipients) < ENVELOPE_LIMIT + 1000
    assert refusal(b"u@ok.test", envelope, maxrcpt=0) == replies.TOO_MANY_RECIPIENTS


@pytest.mark.parametrize(
    "argument", [b'TO:<""@evil.test>', b"TO:<@@evil.test>", b"TO:<x@evil.test>", b'TO:<"@"evil.test>']
)
def test_no_byte_of_a_recipient_is_skipped(argument: bytes) -> None:
    """qmail before 1998-05-28 skipped the first byte of the recipient, and so relayed for `""@any.host`."""
    address = parse(argument)[0]
    assert address == b"" or refusal(address) == replies.RCPTHOSTS


@pytest.mark.parametrize("recipient", [b"", b"@", b"x", b".", b"[", b"@."])
def test_very_short_addresses_have_no_special_treatment(recipient: bytes) -> None:
    assert refusal(recipient) == (replies.RCPTHOSTS if b"@" in recipient else None)
