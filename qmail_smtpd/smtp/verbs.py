"""What each command does to a session, as the table VERBS: verb -> function of the session and the argument. Pure."""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import literal_octets, parse
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.policy import is_bad_sender, why_not_mail, why_not_rcpt
from qmail_smtpd.smtp.received import protocol, received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session

    Verb = Callable[[Session, bytes], None]


def helo(session: "Session", argument: bytes) -> None:
    """The greeting, and no more."""
    forget(session, argument)
    session.answer(b"250 " + session.settings.greeting)


def ehlo(session: "Session", argument: bytes) -> None:
    """The greeting, and what is on offer. SIZE only where there is a limit: the original has no such line."""
    forget(session, argument)
    lines = [session.settings.greeting, b"PIPELINING", b"8BITMIME"]
    if session.settings.auth and session.may_log_in():
        place = 1 if session.settings.auth.first else len(lines)
        lines[place:place] = session.settings.auth.lines()
    if session.settings.starttls and session.cipher is None:
        lines.insert(1, b"STARTTLS")  # netqmail's TLS patch: before all others
    if session.settings.databytes:
        lines.append(b"SIZE %d" % session.settings.databytes)
        session.size_offered = True
    for line in lines[:-1]:
        session.answer(b"250-" + line)
    session.answer(b"250 " + lines[-1])


def forget(session: "Session", name: bytes) -> None:
    """Forget the transaction; remember the name, unless it is the one that we know already (qmail-smtpd.c, dohelo)."""
    session.envelope = Envelope()
    session.helo = None if name.lower() == session.settings.remotehost.lower() else name


def mail(session: "Session", argument: bytes) -> None:
    """Begin a transaction. A refused MAIL leaves the earlier one alive, as in the original."""
    if session.user is None and session.settings.auth and session.settings.auth.required:
        session.log(b"refused", {b"reason": b"unauthorized"})
        session.answer(replies.AUTH_REQUIRED)
        return
    sender, parameters = find_address(session, argument)
    refusal = why_not_mail(session.settings, sender, parameters if session.size_offered else b"", session.senders)
    if refusal:
        session.log(b"refused", {b"sender": sender, b"reason": refusal[1]})
        session.answer(refusal[0])
        return
    session.envelope = Envelope(sender, is_bad_sender(session.settings, sender))
    session.answer(replies.OK)


def rcpt(session: "Session", argument: bytes) -> None:
    """Take a recipient, or say why not. RELAYCLIENT's value is appended to each."""
    envelope, settings = session.envelope, session.settings
    if envelope.sender is None:
        session.answer(replies.MAIL_FIRST)
        return
    recipient = find_address(session, argument)[0]
    facts = {b"sender": envelope.sender, b"recipient": recipient}
    refusal = why_not_rcpt(settings, envelope, recipient, session.backend.in_morercpthosts)
    if refusal:
        session.counts[b"refused"] += 1
        session.log(b"refused", {**facts, b"reason": refusal[1]})
        session.answer(refusal[0])
        return
    envelope.add(recipient + (settings.relayclient or b""))
    session.counts[b"recipients"] += 1
    session.log(b"accepted", facts)
    session.answer(replies.OK)


def find_address(session: "Session", argument: bytes) -> tuple[bytes, bytes]:
    """The address and its parameters. A literal that means this host becomes localiphost, in senders, too."""
    address, parameters = parse(argument)
    localiphost = session.settings.localiphost
    octets = None if localiphost is None else literal_octets(address)
    if localiphost is not None and octets is not None and session.backend.is_own_address(octets):
        address = address[: address.rfind(b"@") + 1] + localiphost
    return address, parameters


def data(session: "Session", argument: bytes) -> None:
    """Begin the message. Its first lines are ours."""
    if session.envelope.sender is None:
        session.answer(replies.MAIL_FIRST)
    elif not session.envelope.count:
        session.answer(replies.RCPT_FIRST)
    elif not session.backend.open_queue():
        session.envelope = Envelope()
        session.answer(replies.QQ_FAILURE)
    else:
        session.answer(replies.GO_AHEAD)
        s = session.settings
        when = session.backend.date()
        how = protocol(session.cipher, session.user)
        lines = received(s.remotehost, session.helo, s.remoteinfo, s.remoteip, s.local, how, when)
        session.backend.write_message(lines)
        session.begin_message()


def auth(session: "Session", argument: bytes) -> None:
    """Begin a login, where that is on offer."""
    if session.settings.auth is None:
        unimplemented(session, argument)
        return
    if not session.settings.auth.mechanisms:
        session.answer(replies.AUTH_UNAVAILABLE)
        return
    if not session.may_log_in():
        session.log(b"login", {b"result": b"no", b"reason": b"clear"})
        session.answer(replies.AUTH_NEEDS_TLS)
        return
    from qmail_smtpd.smtp.login import begin  # a session without a login does not need it

    begin(session, argument)


def starttls(session: "Session", argument: bytes) -> None:
    """Go on under TLS, where there is a certificate."""
    if session.cipher is not None:
        session.answer(replies.TLS_TWICE)
    elif not session.settings.starttls:
        session.answer(replies.UNIMPLEMENTED)
    elif argument:
        session.answer(replies.NO_PARAMETERS)
    elif not session.backend.prepare_tls():
        session.answer(replies.TLS_UNAVAILABLE)
    else:
        session.answer(replies.READY_FOR_TLS)
        session.secure()


def rset(session: "Session", argument: bytes) -> None:
    session.envelope = Envelope()
    session.answer(replies.FLUSHED)


def quit_(session: "Session", argument: bytes) -> None:
    session.finish(0, b"221 " + session.settings.greeting, b"quit")


def unimplemented(session: "Session", argument: bytes) -> None:
    session.answer(replies.UNIMPLEMENTED)


def constant(reply: bytes) -> "Verb":
    """A command that has one answer and changes nothing."""
    return lambda session, argument: session.answer(reply)


VERBS: "dict[bytes, Verb]" = {
    b"helo": helo,
    b"ehlo": ehlo,
    b"mail": mail,
    b"rcpt": rcpt,
    b"data": data,
    b"auth": auth,
    b"starttls": starttls,
    b"rset": rset,
    b"quit": quit_,
    b"noop": constant(replies.OK),
    b"help": constant(replies.HELP),
    b"vrfy": constant(replies.VRFY),
}
