"""May this sender and this recipient pass? rcpthosts, morercpthosts, badmailfrom, the strict mode, the limits. Pure.

Addresses come parsed, lists come read and lower-cased. A refusal is the reply and a word for the log.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import LONGEST, declared_size, exceeds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmail_smtpd.smtp.envelope import Envelope
    from qmail_smtpd.smtp.settings import Settings

POSTMASTER = b"postmaster"  # RFC 5321 section 4.5.1: mail to it is taken without a domain
ENVELOPE_LIMIT = 4194304  # bytes: more than 10,000 of the longest addresses of RFC 5321 (64 + 1 + 255)


class Unreadable(Exception):
    """What the answer depends on cannot be read: `reply` ends the session, `why` is for the administrator."""

    def __init__(self, reply: bytes, why: bytes) -> None:
        super().__init__(reply, why)
        self.reply = reply
        self.why = why


def why_not_mail(
    settings: "Settings", sender: bytes, parameters: bytes, senders: frozenset[bytes] | None = None
) -> tuple[bytes, bytes] | None:
    """Why this MAIL is refused, None if it is not. Parameters are those that the client was invited to use.

    `senders`: what the user may call himself; None: anything, or there is no user.
    """
    if len(sender) > LONGEST:
        return replies.SYNTAX, b"syntax"
    if exceeds(declared_size(parameters), settings.databytes):
        return replies.TOO_BIG, b"size"
    if senders is not None and not is_among(senders, sender):
        return replies.NOT_YOUR_SENDER, b"authsenders"
    return None


def is_among(senders: frozenset[bytes], sender: bytes) -> bool:
    """Whether an entry of authsenders is the sender, `@` and its domain, or `*`. Bounces have no sender: they pass."""
    sender = sender.lower()
    _, at, domain = sender.rpartition(b"@")
    return not sender or not senders.isdisjoint((sender, at + domain if at else sender, b"*"))


def is_bad_sender(settings: "Settings", sender: bytes) -> bool:
    """Whether every recipient of this sender is to be refused: badmailfrom has it, or `@` and its domain."""
    if settings.relayclient is not None and not settings.badmailfrom_relay:
        return False
    sender = sender.lower()
    at = sender.rfind(b"@")
    return sender in settings.badmailfrom or (at >= 0 and sender[at:] in settings.badmailfrom)


def why_not_rcpt(
    settings: "Settings", envelope: "Envelope", recipient: bytes, more: "Callable[[bytes], bool]"
) -> tuple[bytes, bytes] | None:
    """Why this recipient is refused, None if it is not. `more` looks a key up in morercpthosts.cdb."""
    if len(recipient) > LONGEST:
        return replies.SYNTAX, b"syntax"
    if envelope.sender_is_bad:
        return replies.BADMAILFROM, b"badmailfrom"
    if settings.relayclient is None:
        if settings.relaystrict and is_relay_trick(recipient, settings.rcpthosts):
            return replies.STRICT, b"relaystrict"
        if not in_rcpthosts(recipient, settings.rcpthosts, more):
            return replies.RCPTHOSTS, b"rcpthosts"
    if 0 < settings.maxrcpt <= envelope.count or len(envelope.recipients) > ENVELOPE_LIMIT:
        return replies.TOO_MANY_RECIPIENTS, b"maxrcpt"
    return None


def in_rcpthosts(recipient: bytes, rcpthosts: frozenset[bytes] | None, more: "Callable[[bytes], bool]") -> bool:
    """Whether the domain is listed. No rcpthosts, or no domain: yes (rcpthosts.c)."""
    if rcpthosts is None or b"@" not in recipient:
        return True
    return not rcpthosts.isdisjoint(domain_keys(recipient)) or any(map(more, domain_keys(recipient)))


def domain_keys(address: bytes) -> "Iterator[bytes]":
    """What may be listed for the address: its whole domain, then every suffix that begins at a dot, with the dot."""
    domain = address[address.rfind(b"@") + 1 :].lower()
    if domain:
        yield domain
    dot = domain.find(b".", 1)
    while dot > 0:
        yield domain[dot:]
        dot = domain.find(b".", dot + 1)


def is_relay_trick(recipient: bytes, rcpthosts: frozenset[bytes] | None) -> bool:
    """The strict mode: whether the recipient is one that a later mailer may route onward, or names no domain of ours.

    Quotes are gone by now, so that what they hid is seen here.
    """
    if recipient.lower() == POSTMASTER:
        return False
    if rcpthosts is None or recipient.count(b"@") != 1 or recipient.endswith(b"@"):
        return True
    return b"%" in recipient or b"!" in recipient
