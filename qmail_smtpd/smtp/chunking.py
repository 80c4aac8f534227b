"""BDAT (RFC 3030): which bytes belong to a chunk, and the replies to it. Pure.

A chunk's bytes are never commands: a chunk that is refused is read and dropped, and a size that cannot be known ends
the session.
"""

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.chunk import Chunk, ChunkedMessage, parse
from qmail_smtpd.smtp.transfer import finish_message, open_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session


def begin_chunk(session: "Session", argument: bytes) -> None:
    """Take the chunk that follows, or drop it, or end the session if its size is unknown."""
    parsed = parse(argument)
    if parsed is None:
        session.log(b"refused", {b"reason": b"chunk"})
        session.finish(1, replies.BDAT_SYNTAX, b"chunk")
        return
    refusal = None
    if session.message is None:
        refusal = open_message(session)
        if refusal is None:
            session.message = ChunkedMessage(session.settings.databytes, session.settings.refuse_bare_cr)
    session.chunk = Chunk(*parsed, refusal)
    session.consume = consume_chunk
    if not session.chunk.remaining:
        consume_chunk(session, b"", 0)


def consume_chunk(session: "Session", data: bytes, position: int) -> int:
    """Process a part of the chunk and return the position after it."""
    chunk, message = session.chunk, session.message
    assert chunk is not None
    part = data[position : position + chunk.remaining]
    chunk.remaining -= len(part)
    if chunk.refusal is None:
        assert isinstance(message, ChunkedMessage)
        text = message.feed(part, chunk.is_last and not chunk.remaining)
        if text:
            session.backend.write_message(text)
    if not chunk.remaining:
        end_chunk(session, chunk)
    return position + len(part)


def end_chunk(session: "Session", chunk: Chunk) -> None:
    """Reply to a chunk that has come whole. Nothing is left of a message that is queued or refused."""
    session.chunk = None
    session.await_command()
    if chunk.refusal is not None:
        session.answer(chunk.refusal)
        return
    assert session.message is not None
    if chunk.is_last or session.message.refusal():
        finish_message(session, session.message)
    else:
        session.answer(replies.OK)
