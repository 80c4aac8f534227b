"""A message's way from the client to the queue: its beginning, the text after DATA, the reply at its end. Pure."""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.envelope import Envelope
from qmail_smtpd.smtp.message import Message
from qmail_smtpd.smtp.received import protocol, received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.chunk import ChunkedMessage
    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session


def open_message(session: "Session") -> bytes | None:
    """Begin a message with this host's Received line. Return the reply if no message can begin now.

    The session may have ended then: `answer` has no effect any more.
    """
    if session.envelope.sender is None:
        return replies.MAIL_FIRST
    if not session.envelope.count:
        return replies.RCPT_FIRST
    if session.hooks is not None:
        refusal = session.hooks.data(session)
        if refusal is not None:
            return refusal
    if not session.backend.open_queue():
        session.envelope = Envelope()
        return replies.QQ_FAILURE
    settings = session.settings
    lines = received(
        settings.remotehost,
        session.helo,
        settings.remoteinfo,
        settings.remoteip,
        settings.local,
        protocol(session.cipher, session.user, session.envelope.utf8),
        session.backend.date(),
    )
    if session.hooks is not None:
        lines += session.hooks.headers
        session.hooks.clear()
    session.backend.write_message(session.envelope.headers + lines)
    return None


def begin_data(session: "Session") -> None:
    """Treat the following bytes as a message that ends with a dot."""
    session.message = Message(session.settings.databytes, session.settings.refuse_bare_cr)
    session.consume = consume_data


def consume_data(session: "Session", data: bytes, position: int) -> int:
    """Process a part of the message and return the position after it."""
    message = session.message
    assert isinstance(message, Message)
    text = message.feed(data[position:])
    if text:
        session.backend.write_message(text)
    if message.stray:
        session.finish(1, replies.STRAY_NEWLINE, b"stray-newline")
    elif message.ended:
        finish_message(session, message)
    return len(data) - len(message.rest)


def finish_message(session: "Session", message: "Message | ChunkedMessage") -> None:
    """Send the queue program the envelope, unless the message is refused, and reply with the result."""
    facts = {b"bytes": b"%d" % message.size}
    refusal = message.refusal()
    if refusal:
        session.backend.close_queue(None)
        reply, facts[b"reason"] = refusal
    else:
        reply = session.backend.close_queue(session.envelope.complete())
    if reply.startswith(b"2"):
        session.counts[b"messages"] += 1
        facts[b"qp"] = reply.rpartition(b" ")[2]
        session.log(b"queued", {**session.envelope.facts(), **facts})
    else:
        facts.setdefault(b"reason", b"queue")
        session.log(b"rejected", {**session.envelope.facts(), **facts, b"reply": reply.replace(b" ", b"_")})
    session.message = None
    session.envelope = Envelope()
    session.await_command()
    session.answer(reply)
