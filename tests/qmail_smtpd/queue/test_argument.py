"""One address becomes one argument: a mailer reads exactly the address that qmail-smtpd has checked."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.queue.argument import BATCH, POINTER, batches
from qmail_smtpd.smtp.mailbox import mailbox as argument

# RFC 5321 section 4.1.2 as an independent expression: a mailbox, or a local part alone
ATEXT = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+"
MAILBOX = re.compile(
    rb"(?:(?P<dot>" + ATEXT + rb"(?:\." + ATEXT + rb")*)|\"(?P<quoted>(?:[ !#-\[\]-~]|\\[ -~])*)\")"
    rb"(?:@(?P<domain>[A-Za-z0-9._-]+|\[[A-Za-z0-9.:-]+\]))?"
)

QUOTED = [
    (b"user@example.com", b"user@example.com"),
    (b"First.Last+tag@Example.COM", b"First.Last+tag@Example.COM"),
    (b"!#$%&'*+-/=?^_`{|}~@example.com", b"!#$%&'*+-/=?^_`{|}~@example.com"),
    (b"-bs@example.com", b"-bs@example.com"),
    (b"user", b"user"),
    (b"user@[192.0.2.1]", b"user@[192.0.2.1]"),
    (b"user@[IPv6:2001:db8::1]", b"user@[IPv6:2001:db8::1]"),
    (b"user@host_1.example.com.", b"user@host_1.example.com."),
    (b"a b@example.com", b'"a b"@example.com'),
    (b" @example.com", b'" "@example.com'),
    (b".a@example.com", b'".a"@example.com'),
    (b"a.@example.com", b'"a."@example.com'),
    (b"a..b@example.com", b'"a..b"@example.com'),
    (b'a"b@example.com', b'"a\\"b"@example.com'),
    (b"a\\b@example.com", b'"a\\\\b"@example.com'),
    (b'a\\"@example.com', b'"a\\\\\\""@example.com'),
    (b"a@outside,@example.com", b'"a@outside,"@example.com'),
    (b"a@outside.example@example.com", b'"a@outside.example"@example.com'),
    (b"<a@outside>@example.com", b'"<a@outside>"@example.com'),
    (b"(comment)a@example.com", b'"(comment)a"@example.com'),
    (b"group:a;@example.com", b'"group:a;"@example.com'),
    (b"a,b", b'"a,b"'),
]

NOT_EXPRESSIBLE = [
    b"",
    b"@",
    b"@example.com",
    b"user@",
    b"user@example.com,other",
    b"user@a,b.wild.example",
    b"user@example com",
    b"user@(comment)example.com",
    b"user@example.com>",
    b"user@exam;ple.com",
    b"user@exam:ple.com",
    b'user@"example".com',
    b"user@exam\\ple.com",
    b"user@[]",
    b"user@[",
    b"user@[192.0.2.1],a",
    b"user@[192.0.2.1]x",
    b"user@[a b]",
    b"us\ner@example.com",
    b"us\rer@example.com",
    b"us\ter@example.com",
    b"us\x7fer@example.com",
    b"user@example.com\n",
    b"\xc3\xbcser@example.com",
    b"user@ex\xc3\xa4mple.com",
    b"\xff@example.com",
]


@pytest.mark.parametrize(("address", "text"), QUOTED)
def test_an_address_is_quoted_only_if_necessary(address, text):
    assert argument(address) == text


@pytest.mark.parametrize("address", NOT_EXPRESSIBLE)
def test_an_address_that_rfc_5321_cannot_express_has_no_argument(address):
    assert argument(address) is None


tricky = st.text(alphabet='ab.@,"\\<>()[]:; %!-\n\x7f\xe9').map(lambda text: text.encode("latin-1"))


@given(st.one_of(tricky, st.binary(max_size=30)))
def test_an_argument_parses_as_one_mailbox_equal_to_the_address(address):
    text = argument(address)
    if text is None:
        return
    mailbox = MAILBOX.fullmatch(text)
    assert mailbox
    local = mailbox["dot"] or re.sub(rb"\\(.)", rb"\1", mailbox["quoted"])
    assert local + (b"@" + mailbox["domain"] if mailbox["domain"] else b"") == address


@given(st.lists(st.binary(max_size=1003)))
def test_batches_hold_every_argument_once_and_in_order(arguments):
    assert [text for batch in batches(arguments) for text in batch] == arguments


def test_batches_are_filled_up_to_the_limit_and_never_beyond():
    arguments = [b"x" * 100] * 10_000
    sizes = [sum(len(text) + POINTER for text in batch) for batch in batches(arguments)]
    assert max(sizes) <= BATCH
    assert min(sizes[:-1]) > BATCH - 109
    assert list(batches([b"x" * 100_000])) == [[b"x" * 100_000]]  # exec refuses a single long one
    assert list(batches([])) == []
