"""Leave the decision about a recipient to policy services: what they are asked, and what their ruling does. Pure.

They are asked about recipients that would be accepted, and can only refuse them.
"""

from qmail_smtpd.smtp.address import declared_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.ruling import Ruling
    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session

    Facts = dict[bytes, bytes]

LONGEST_HEADERS = 65536  # bytes of all headers of one message


def is_refused(session: "Session", facts: "Facts") -> bool:
    """Whether the services refuse the recipient; it is then answered. `facts`: its sender and recipient."""
    may_relay = session.settings.relayclient is not None
    ruling = session.backend.consult(question(session, facts), may_relay)
    add_headers(session, ruling, facts)
    for note in ruling.notes:
        session.log(b"warned", {**facts, **note})
    if ruling.reply is None:
        return False
    session.counts[b"refused"] += 1
    session.log(b"refused", {**facts, **ruling.facts})
    if ruling.ends_session:
        session.finish(1, ruling.reply, b"policy")
    else:
        session.answer(ruling.reply)
    return True


def question(session: "Session", facts: "Facts") -> "Facts":
    """Return the attributes that the session knows, by their names in Postfix's SMTPD_POLICY_README."""
    return {
        b"protocol_name": session.protocol,
        b"helo_name": session.hello or b"",
        **facts,
        b"instance": b"%d" % session.transactions,
        b"sasl_method": session.mechanism if session.user is not None else b"",
        b"sasl_username": session.user or b"",
        b"size": declared_size(session.envelope.parameters) or b"0",
    }


def add_headers(session: "Session", ruling: "Ruling", facts: "Facts") -> None:
    """Add the ruling's headers to the message, as far as there is room for them."""
    envelope = session.envelope
    for header in ruling.headers:
        if len(envelope.headers) + len(header) < LONGEST_HEADERS:
            envelope.headers += header + b"\n"
        else:
            session.log(b"warned", {**facts, b"text": b"too many headers"})
