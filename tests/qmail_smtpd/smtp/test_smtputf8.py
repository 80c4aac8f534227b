"""SMTPUTF8 (RFC 6531): who may send which addresses, and a domain's two spellings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.idn import other_spelling, other_spellings
from qmail_smtpd.smtp.policy import in_rcpthosts
from qmail_smtpd.smtp.received import protocol
from tests.kit.echo import Echo, converse
from tests.kit.mailhome import CONTROL, make_home, talk

U, A = "münchen.test".encode(), b"xn--mnchen-3ya.test"
MAIL = "MAIL FROM:<jürgen@s.test> SMTPUTF8\r\n".encode()
EHLO = b"EHLO a\r\n"


def codes(data: bytes, **changes: object) -> str:
    _, echo = converse(data, **{"smtputf8": True, **changes})
    return " ".join(line[:3].decode() for line in echo.replies[1:] if line[3:4] == b" ")


def rcpt(address: str | bytes) -> bytes:
    return b"RCPT TO:<" + (address.encode() if isinstance(address, str) else address) + b">\r\n"


def test_smtputf8_is_offered_where_its_control_file_exists(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "smtputf8": "", "chunking": ""})
    assert b"250-8BITMIME\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n" in talk(home, "EHLO me\r\nQUIT\r\n").stdout


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (EHLO + MAIL + rcpt("ü@ok.test"), "250 250 250"),
        (EHLO + MAIL.replace(b"SMTPUTF8", b"BODY=8BITMIME smtpUTF8"), "250 250"),
        (EHLO + MAIL.replace(b" SMTPUTF8", b""), "250 553"),
        (EHLO + MAIL.replace(b"SMTPUTF8", b"SMTPUTF8=1"), "250 553"),
        (MAIL, "553"),  # not offered yet
        (b"HELO a\r\n" + MAIL, "250 553"),
        (EHLO + b"HELO a\r\n" + MAIL, "250 250 553"),
        (EHLO + b"MAIL FROM:<\xff@s.test> SMTPUTF8\r\n", "250 555"),
        (EHLO + b"MAIL FROM:<s@s.test>\r\n" + rcpt("ü@ok.test") + rcpt("u@ok.test"), "250 250 553 250"),
        (EHLO + b"MAIL FROM:<s@s.test> SMTPUTF8\r\n" + rcpt(b"\xc3@ok.test") + rcpt("ü@evil.test"), "250 250 555 553"),
        (EHLO + MAIL + b"RSET\r\nMAIL FROM:<s@s.test>\r\n" + rcpt("ü@ok.test"), "250 250 250 250 553"),
    ],
)
def test_addresses_of_8_bits_need_the_parameter_of_mail(data: bytes, wanted: str) -> None:
    assert codes(data) == wanted


def test_without_the_control_file_8_bits_pass_and_no_domain_has_another_spelling() -> None:
    data = EHLO + b"MAIL FROM:<\xff@s.test> SMTPUTF8\r\n" + rcpt(b"\xff@ok.test") + rcpt(b"u@" + A)
    assert codes(data, smtputf8=False, rcpthosts=frozenset({b"ok.test", U})) == "250 250 250 553"
    assert b"SMTPUTF8" not in b"".join(converse(EHLO)[1].replies)


@pytest.mark.parametrize("listed", [U, A, b".test"])
@pytest.mark.parametrize("domain", [U, A, b"XN--mnchen-3YA.test", "MüNCHEN.TEST".encode()])
def test_both_spellings_of_a_domain_meet_each_other(listed: bytes, domain: bytes) -> None:
    data = EHLO + b"MAIL FROM:<> SMTPUTF8\r\n" + rcpt(b"u@" + domain) + b"DATA\r\n.\r\n"
    for changes in ({"rcpthosts": frozenset({listed})}, {"rcpthosts": frozenset(), "echo": Echo((listed,))}):
        _, echo = converse(data, smtputf8=True, **changes)  # type: ignore[arg-type]
        assert echo.queued[0][1] == b"F\0Tu@" + domain + b"\0\0"  # as the client has written it


MIXED = "bücher.xn--mnchen-3ya.test".encode()
ALL_U, ALL_A = "bücher.münchen.test".encode(), b"xn--bcher-kva.xn--mnchen-3ya.test"


@pytest.mark.parametrize("listed", [ALL_U, ALL_A])
@pytest.mark.parametrize("domain", [ALL_U, ALL_A, MIXED, MIXED.replace(b"b", b"B")])
def test_a_domain_of_mixed_labels_meets_both_spellings(listed: bytes, domain: bytes) -> None:
    mail = b"MAIL FROM:<u@" + domain + b"> SMTPUTF8\r\n"
    assert codes(EHLO + mail + rcpt(b"u@" + domain), rcpthosts=frozenset({listed})) == "250 250 250"
    assert set(other_spellings(domain)) == {ALL_U, ALL_A} - {domain}


@pytest.mark.parametrize("listed", [U, A])
@pytest.mark.parametrize("start", [b"@", b"u@"])
@pytest.mark.parametrize("domain", [U, A, A.upper(), "MüNCHEN.test".encode()])
def test_badmailfrom_meets_both_spellings(listed: bytes, start: bytes, domain: bytes) -> None:
    mail = b"MAIL FROM:<u@" + domain + b"> SMTPUTF8\r\n"
    wanted = {"badmailfrom": frozenset({start + listed})}
    assert codes(EHLO + mail + rcpt("u@ok.test"), **wanted) == "250 250 553"
    assert codes(EHLO + mail.replace(b"<u@", b"<x@") + rcpt("u@ok.test"), **wanted)[-3:] == (
        "553" if start == b"@" else "250"
    )
    other = A if listed == U else U
    if domain.lower() == other:
        assert codes(EHLO + mail + rcpt("u@ok.test"), smtputf8=False, **wanted) == "250 250 250"


NO_OTHER = ["münchen\u3002test", "münchen\uff0etest", "\uff4dünchen.test", "mÜnchen.test", "ü..test", "u\uff20ü.test"]
NO_OTHER += ["", "a.test", "xn--a.test"]


@pytest.mark.parametrize("domain", NO_OTHER)
def test_nothing_is_mapped_to_another_domain(domain: str) -> None:
    assert other_spelling(domain.encode()) == b""


@given(st.text(alphabet="aüß.-xn\u3002\uff0e\uff20\0%!@ \u0130\u200d", max_size=30) | st.text(max_size=12))
def test_another_spelling_has_the_same_labels_and_leads_back(domain: str) -> None:
    text = domain.encode()
    spelling = other_spelling(text)
    if spelling:
        assert spelling.count(b".") == text.count(b".")
        assert spelling.isascii() != text.isascii() or spelling == text.lower()
        assert not set(spelling) & set(b"\0%!@ ") - set(text)


def test_a_longer_domain_is_not_converted() -> None:
    assert other_spelling("ü".encode() * 200) == b""


def test_an_unlisted_domain_is_refused_in_either_spelling() -> None:
    assert codes(EHLO + MAIL + rcpt(b"u@" + U) + rcpt(b"u@" + A) + rcpt(b"u@\xc3.test")) == "250 250 553 553 555"
    assert not in_rcpthosts(b"u@" + A, frozenset({U}), lambda key: False)


@pytest.mark.parametrize(
    ("cipher", "user", "word"),
    [
        (None, None, b"UTF8SMTP"),
        (None, b"joe", b"UTF8SMTPA"),
        (b"X", None, b"UTF8SMTPS (X encrypted)"),
        (b"X", b"joe", b"UTF8SMTPSA (X encrypted, authenticated)"),
    ],
)
def test_the_received_line_has_the_words_of_rfc_6531(cipher: bytes | None, user: bytes | None, word: bytes) -> None:
    assert protocol(cipher, user, True) == word


def test_the_received_line_says_utf8smtp_only_for_a_message_with_the_parameter() -> None:
    for parameter, word in ((b" SMTPUTF8", b" with UTF8SMTP; "), (b"", b" with SMTP; ")):
        transaction = b"MAIL FROM:<s@s.test>%b\r\n" % parameter + rcpt("u@ok.test")
        _, echo = converse(EHLO + transaction + b"DATA\r\n.\r\n", smtputf8=True)
        assert word in echo.queued[0][0]


def test_a_refused_address_is_logged() -> None:
    _, echo = converse(EHLO + MAIL.replace(b" SMTPUTF8", b""), smtputf8=True)
    assert echo.replies[-1] == replies.NEEDS_SMTPUTF8
    assert echo.decisions[0][1][b"reason"] == b"smtputf8"
