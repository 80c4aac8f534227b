"""Decide whether a sender or recipient is accepted: rcpthosts, badmailfrom, strict mode, limits. Pure.

Addresses are already parsed, lists already read and lower-cased. A refusal is the reply and the reason for the log.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import LONGEST, declared_size, exceeds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmail_smtpd.smtp.envelope import Envelope
    from qmail_smtpd.smtp.settings import Settings

POSTMASTER = b"postmaster"  # RFC 5321 section 4.5.1: mail to it is accepted without a domain
ENVELOPE_LIMIT = 4194304  # bytes: more than 10,000 of the longest addresses of RFC 5321 (64 + 1 + 255)


def mail_refusal(
    settings: "Settings",
    sender: bytes,
    parameters: bytes,
    senders: frozenset[bytes] | None = None,
    utf8: bool = False,
) -> tuple[bytes, bytes] | None:
    """Return why this MAIL is refused, None if it is accepted. `parameters`: empty unless EHLO offered them.

    `senders`: what the user may use as sender; None: anything, or the client has not logged in. `utf8`: MAIL has the
    parameter SMTPUTF8, and it has been offered.
    """
    if len(sender) > LONGEST:
        return replies.SYNTAX, b"syntax"
    if settings.smtputf8 and (refusal := utf8_refusal(sender, utf8)):
        return refusal
    if exceeds(declared_size(parameters), settings.databytes):
        return replies.TOO_BIG, b"size"
    if senders is not None and not is_allowed_sender(senders, sender):
        return replies.NOT_YOUR_SENDER, b"authsenders"
    return None


def utf8_refusal(address: bytes, utf8: bool) -> tuple[bytes, bytes] | None:
    """Return why an address is refused where SMTPUTF8 is offered: not ASCII without it, or not UTF-8 (RFC 6531)."""
    if address.isascii():
        return None
    if not utf8:
        return replies.NEEDS_SMTPUTF8, b"smtputf8"
    try:
        address.decode()
    except UnicodeDecodeError:
        return replies.SYNTAX, b"syntax"
    return None


def is_allowed_sender(senders: frozenset[bytes], sender: bytes) -> bool:
    """Whether authsenders lists the sender, `@` and its domain, or `*`. The empty sender of bounces is allowed."""
    sender = sender.lower()
    _, at, domain = sender.rpartition(b"@")
    return not sender or not senders.isdisjoint((sender, at + domain if at else sender, b"*"))


def is_bad_sender(settings: "Settings", sender: bytes) -> bool:
    """Whether badmailfrom lists the sender, or `@` and its domain, so that every recipient is to be refused."""
    if settings.relayclient is not None and not settings.badmailfrom_relay:
        return False
    sender = sender.lower()
    at = sender.rfind(b"@")
    if sender in settings.badmailfrom or (at >= 0 and sender[at:] in settings.badmailfrom):
        return True
    if not settings.smtputf8 or not settings.badmailfrom or at < 0:
        return False
    from qmail_smtpd.smtp.idn import other_spellings  # loaded only where SMTPUTF8 is offered

    local, domains = sender[:at], other_spellings(sender[at + 1 :])
    return any(not settings.badmailfrom.isdisjoint((local + b"@" + other, b"@" + other)) for other in domains)


def rcpt_refusal(
    settings: "Settings", envelope: "Envelope", recipient: bytes, in_morercpthosts: "Callable[[bytes], bool]"
) -> tuple[bytes, bytes] | None:
    """Return why this recipient is refused, None if it is accepted."""
    if len(recipient) > LONGEST:
        return replies.SYNTAX, b"syntax"
    if settings.smtputf8 and (refusal := utf8_refusal(recipient, envelope.utf8)):
        return refusal
    if envelope.sender_is_bad:
        return replies.BADMAILFROM, b"badmailfrom"
    if settings.relayclient is None:
        if settings.relaystrict and is_relay_trick(recipient, settings.rcpthosts):
            return replies.STRICT, b"relaystrict"
        if not is_listed(settings, recipient, in_morercpthosts):
            return replies.RCPTHOSTS, b"rcpthosts"
    if 0 < settings.maxrcpt <= envelope.count or len(envelope.recipients) > ENVELOPE_LIMIT:
        return replies.TOO_MANY_RECIPIENTS, b"maxrcpt"
    return None


def may_be_unknown(settings: "Settings", recipient: bytes, in_morercpthosts: "Callable[[bytes], bool]") -> bool:
    """Whether the backend is to be asked if a recipient that is accepted so far exists, where recipients are checked.

    If the client may relay, the recipient may be at another host: only the domains of rcpthosts are asked about.
    """
    if settings.relayclient is None:
        return True
    return settings.rcpthosts is not None and is_listed(settings, recipient, in_morercpthosts)


def is_relayed(settings: "Settings", recipient: bytes, in_morercpthosts: "Callable[[bytes], bool]") -> bool:
    """Whether the recipient's mail leaves this host: its domain is not listed. Without rcpthosts no domain is."""
    if settings.rcpthosts is None:
        return b"@" in recipient
    return not is_listed(settings, recipient, in_morercpthosts)


def is_listed(settings: "Settings", recipient: bytes, in_morercpthosts: "Callable[[bytes], bool]") -> bool:
    """Whether the domain is listed, where SMTPUTF8 is offered in any of its spellings: U-labels or A-labels."""
    if in_rcpthosts(recipient, settings.rcpthosts, in_morercpthosts):
        return True
    if not settings.smtputf8:
        return False
    from qmail_smtpd.smtp.idn import other_spellings  # loaded only where SMTPUTF8 is offered

    others = other_spellings(recipient[recipient.rfind(b"@") + 1 :])
    return any(in_rcpthosts(b"@" + other, settings.rcpthosts, in_morercpthosts) for other in others)


def in_rcpthosts(
    recipient: bytes, rcpthosts: frozenset[bytes] | None, in_morercpthosts: "Callable[[bytes], bool]"
) -> bool:
    """Whether the domain is listed. True without rcpthosts, and for an address without a domain (rcpthosts.c)."""
    if rcpthosts is None or b"@" not in recipient:
        return True
    return not rcpthosts.isdisjoint(domain_keys(recipient)) or any(map(in_morercpthosts, domain_keys(recipient)))


def domain_keys(address: bytes) -> "Iterator[bytes]":
    """Yield the entries that match the address: its whole domain, then every suffix that begins with a dot."""
    domain = address[address.rfind(b"@") + 1 :].lower()
    if domain:
        yield domain
    dot = domain.find(b".", 1)
    while dot > 0:
        yield domain[dot:]
        dot = domain.find(b".", dot + 1)


def is_relay_trick(recipient: bytes, rcpthosts: frozenset[bytes] | None) -> bool:
    """Whether strict mode refuses the recipient: another mailer may reroute it, or it has no domain of this host.

    Quotes have been removed already, so they cannot hide a `%` or an `@`.
    """
    if recipient.lower() == POSTMASTER:
        return False
    if rcpthosts is None or recipient.count(b"@") != 1 or recipient.endswith(b"@"):
        return True
    return b"%" in recipient or b"!" in recipient
