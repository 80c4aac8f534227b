"""The SMTP commands as the table VERBS: verb -> function of the session and the argument. Pure."""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import LONGEST, has_word, ipv6_literal_octets, literal_octets, parse
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.policy import is_bad_sender, is_relayed, mail_refusal, may_be_unknown, rcpt_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.backend import Refusal
    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session
    from qmail_smtpd.smtp.settings import Settings

    Verb = Callable[[Session, bytes], None]


def helo(session: "Session", argument: bytes) -> None:
    """Reply with the greeting alone."""
    if session.hooks is not None and not session.hooks.helo(session, argument):
        return
    reset(session, argument)
    session.protocol = b"SMTP"
    session.answer(b"250 " + session.settings.greeting)


def ehlo(session: "Session", argument: bytes) -> None:
    """Reply with the greeting and the extensions. SIZE only if there is a limit: the original does not offer it."""
    if session.hooks is not None and not session.hooks.helo(session, argument):
        return
    reset(session, argument)
    session.protocol = b"ESMTP"
    lines = [session.settings.greeting, b"PIPELINING", b"8BITMIME"]
    if session.settings.chunking:
        lines.append(b"CHUNKING")
    if session.settings.smtputf8:
        lines.append(b"SMTPUTF8")
    if session.settings.auth and session.may_log_in():
        session.settle_offer()
        position = 1 if session.settings.auth.old_style else len(lines)
        lines[position:position] = session.settings.auth.lines()
    if session.settings.starttls and session.cipher is None:
        lines.insert(1, b"STARTTLS")  # netqmail's TLS patch: before all other keywords
    if session.settings.databytes:
        lines.append(b"SIZE %d" % session.settings.databytes)
        session.size_offered = True
    if session.settings.limits and session.settings.maxrcpt:
        lines.append(b"LIMITS RCPTMAX=%d" % session.settings.maxrcpt)
    if session.settings.xclient:
        lines.append(b"XCLIENT " + b" ".join(session.settings.xclient))
    for line in lines[:-1]:
        session.answer(b"250-" + line)
    session.answer(b"250 " + lines[-1])


def reset(session: "Session", name: bytes) -> None:
    """Discard the transaction, and store the client's name unless it equals `remotehost` (qmail-smtpd.c, dohelo)."""
    session.discard_transaction()
    session.hello = name
    session.helo = None if name.lower() == session.settings.remotehost.lower() else name


def mail(session: "Session", argument: bytes) -> None:
    """Begin a transaction. A refused MAIL does not end the previous one, as in the original."""
    if session.user is None and session.settings.auth and session.settings.auth.required:
        session.log(b"refused", {b"reason": b"unauthorized"})
        session.answer(replies.AUTH_REQUIRED)
        return
    sender, parameters = parse_address(session, argument)
    if session.hooks is not None and len(sender) <= LONGEST:
        changed = session.hooks.mail(session, sender)
        if changed is None:
            return
        sender = changed
    utf8 = session.settings.smtputf8 and session.protocol == b"ESMTP" and has_word(parameters, b"smtputf8")
    offered = parameters if session.size_offered else b""
    refusal = mail_refusal(session.settings, sender, offered, session.senders, utf8)
    if refusal:
        session.log(b"refused", {b"sender": sender, b"reason": refusal[1]})
        session.answer(refusal[0])
        return
    session.envelope = Envelope(sender, is_bad_sender(session.settings, sender), parameters)
    session.envelope.utf8 = utf8
    session.transactions += 1
    session.answer(replies.OK)


def rcpt(session: "Session", argument: bytes) -> None:
    """Accept or refuse a recipient. The value of RELAYCLIENT is appended to each.

    One that counts for the relay limits waits, and so do those after it, until the session asks for all at once.
    """
    envelope, settings = session.envelope, session.settings
    if envelope.sender is None:
        session.answer(replies.MAIL_FIRST)
        return
    if settings.brtlimit > 0 and had_too_many_unknown(session):
        session.log(b"refused", {b"reason": b"brtlimit"})
        session.finish(1, replies.TOO_MANY_UNKNOWN, b"brtlimit")
        return
    recipient = parse_address(session, argument)[0]
    if session.hooks is not None:
        changed = session.hooks.rcpt(session, recipient)
        if changed is None:
            return
        recipient = changed
    refusal = rcpt_refusal(settings, envelope, recipient, session.backend.in_morercpthosts)
    if settings.recipients_are_checked and not refusal:
        refusal = unknown_refusal(session, envelope.sender, recipient)
    if settings.policy_services and not refusal:
        from qmail_smtpd.smtp.delegation import is_refused  # loaded only where policy services are asked

        if is_refused(session, {b"sender": envelope.sender, b"recipient": recipient}):
            return
    counts = (
        settings.relay_limited
        and refusal is None
        and settings.relayclient is not None
        and is_relayed(settings, recipient, session.backend.in_morercpthosts)
    )
    answer = (refusal[0], {b"reason": refusal[1]}) if refusal else None
    if counts or session.waiting:
        session.waiting.append((recipient, answer, counts))
    else:
        answer_rcpt(session, recipient, answer)


def had_too_many_unknown(session: "Session") -> bool:
    """Whether brtlimit is reached, with authfaillimit also by the unknown recipients of earlier sessions."""
    if counts_unknown_over_sessions(session.settings) and not session.asked_for_unknown:
        session.asked_for_unknown = True
        session.unknown_recipients += session.backend.unknown_recipients()
    return session.unknown_recipients >= session.settings.brtlimit


def counts_unknown_over_sessions(settings: "Settings") -> bool:
    return settings.recipients_are_checked and settings.brtlimit > 0 and settings.logins_limited


def unknown_refusal(session: "Session", sender: bytes, recipient: bytes) -> "tuple[bytes, bytes] | None":
    """Ask whether an acceptable recipient exists. Return the reply and the reason if not, and count it."""
    settings, backend = session.settings, session.backend
    if not may_be_unknown(settings, recipient, backend.in_morercpthosts):
        return None
    helo = settings.remotehost if session.hello is None else session.hello  # qmail-smtpd.c, setup: dohelo(remotehost)
    refusal = backend.recipient_refusal(sender, recipient, helo)
    if refusal and refusal[0] == replies.UNKNOWN:
        session.unknown_recipients += 1
        if counts_unknown_over_sessions(settings) and not backend.count_unknown():
            session.unknown_recipients = settings.brtlimit  # closed by default: the next RCPT ends the session
    return refusal


def answer_rcpt(session: "Session", recipient: bytes, refusal: "Refusal | None") -> None:
    """Add the recipient to the envelope, or refuse it."""
    envelope = session.envelope
    facts = {b"sender": envelope.sender or b"", b"recipient": recipient}
    if refusal:
        session.counts[b"refused"] += 1
        session.log(b"refused", facts | refusal[1])
        session.answer(refusal[0])
        return
    envelope.add(recipient + (session.settings.relayclient or b""))
    session.counts[b"recipients"] += 1
    if session.hooks is not None:
        session.hooks.recipients += 1
    session.log(b"accepted", facts)
    session.answer(replies.OK)


def parse_address(session: "Session", argument: bytes) -> tuple[bytes, bytes]:
    """Return the address and its parameters. A literal of this host is replaced by localiphost, in senders too."""
    address, parameters = parse(argument)
    localiphost = session.settings.localiphost
    if localiphost is None or not address.endswith(b"]"):
        return address, parameters
    octets = literal_octets(address) or ipv6_literal_octets(address)
    if octets is not None and session.backend.is_own_address(octets):
        address = address[: address.rfind(b"@") + 1] + localiphost
    return address, parameters


def data(session: "Session", argument: bytes) -> None:
    """Begin the message, with this host's Received line."""
    from qmail_smtpd.smtp.transfer import begin_data, open_message  # loaded only by sessions with a message

    refusal = open_message(session)
    if refusal is not None:
        session.answer(refusal)
        return
    session.answer(replies.GO_AHEAD)
    begin_data(session)


def bdat(session: "Session", argument: bytes) -> None:
    """Take a chunk of a message (RFC 3030), if CHUNKING is on offer."""
    if not session.settings.chunking:
        unimplemented(session, argument)
        return
    from qmail_smtpd.smtp.chunking import begin_chunk  # loaded only by sessions that use it

    begin_chunk(session, argument)


def auth(session: "Session", argument: bytes) -> None:
    """Begin a login, if AUTH is on offer."""
    session.saw_secret = True  # in any case: the password may be in the argument
    if session.settings.auth is None:
        unimplemented(session, argument)
        return
    if session.settings.auth.is_possible() and not session.may_log_in():
        session.log(b"login", {b"result": b"no", b"reason": b"clear"})
        session.answer(replies.AUTH_NEEDS_TLS)
        return
    session.settle_offer()
    if not session.settings.auth.is_possible():
        session.answer(replies.AUTH_UNAVAILABLE)
        return
    from qmail_smtpd.smtp.login import begin  # loaded only by sessions with a login

    begin(session, argument)


def starttls(session: "Session", argument: bytes) -> None:
    """Switch to TLS, if there is a certificate."""
    if session.cipher is not None:
        session.answer(replies.TLS_TWICE)
    elif not session.settings.starttls:
        session.answer(replies.UNIMPLEMENTED)
    elif argument:
        session.answer(replies.NO_PARAMETERS)
    elif not session.backend.prepare_tls():
        session.log(b"refused", {b"reason": b"tls"})
        session.answer(replies.TLS_UNAVAILABLE)
    else:
        session.answer(replies.READY_FOR_TLS)
        session.start_tls()


def xclient(session: "Session", argument: bytes) -> None:
    """Begin again with the client that a listed proxy speaks for."""
    if not session.settings.xclient:
        unimplemented(session, argument)
        return
    if session.envelope.sender is not None:
        session.answer(replies.XCLIENT_IN_MAIL)
        return
    from qmail_smtpd.smtp.xclient import Malformed, parse  # loaded only by sessions of listed proxies

    try:
        attributes = parse(argument, session.settings.xclient, session.backend.canonical_address)
    except Malformed as error:
        session.answer(error.reply)
    else:
        session.become_client(attributes)


def rset(session: "Session", argument: bytes) -> None:
    if session.hooks is not None:
        session.hooks.clear()
    session.discard_transaction()
    session.answer(replies.FLUSHED)


def quit_(session: "Session", argument: bytes) -> None:
    session.finish(0, b"221 " + session.settings.greeting, b"quit")


def unimplemented(session: "Session", argument: bytes) -> None:
    session.answer(replies.UNIMPLEMENTED)


def fixed(reply: bytes) -> "Verb":
    """Return a command that always has this reply and changes nothing."""
    return lambda session, argument: session.answer(reply)


VERBS: "dict[bytes, Verb]" = {
    b"helo": helo,
    b"ehlo": ehlo,
    b"mail": mail,
    b"rcpt": rcpt,
    b"data": data,
    b"bdat": bdat,
    b"auth": auth,
    b"starttls": starttls,
    b"xclient": xclient,
    b"rset": rset,
    b"quit": quit_,
    b"noop": fixed(replies.OK),
    b"help": fixed(replies.HELP),
    b"vrfy": fixed(replies.VRFY),
}

# The commands between two chunks of one message (RFC 3030 section 2): no other transaction begins.
BETWEEN_CHUNKS = {**VERBS, **dict.fromkeys((b"mail", b"rcpt", b"data"), fixed(replies.BDAT_FIRST))}
