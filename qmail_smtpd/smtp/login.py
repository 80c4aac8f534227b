"""AUTH in a session: what is asked, what the answers come to, and what a login changes. Pure.

The texts and their order are qmail-authentication 0.8.x's.
"""

from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.offer import CRAM_MD5, LOGIN, PLAIN, SCRAM_SHA_256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session

    Opening = Callable[[Session, bytes], sasl.Steps]

LONGEST_NAME = 20  # RFC 4422 section 3.1, as the next one
NAME_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def open_cram(session: "Session", argument: bytes) -> "sasl.Steps":
    """CRAM-MD5. An argument is ignored, as ever."""
    return sasl.cram_md5(session.backend.challenge())


def open_scram(session: "Session", argument: bytes) -> "sasl.Steps":
    """SCRAM-SHA-256, which is not for checkers: they are told a password or a digest."""
    return sasl.scram(sasl.decode_initial(argument), session.backend.scram())


MECHANISMS: "dict[bytes, Opening]" = {
    LOGIN: lambda session, argument: sasl.login(sasl.decode_initial(argument)),
    PLAIN: lambda session, argument: sasl.plain(sasl.decode_initial(argument)),
    CRAM_MD5: open_cram,
    SCRAM_SHA_256: open_scram,
}


def begin(session: "Session", argument: bytes) -> None:
    """The command AUTH, where AUTH is offered."""
    name, _, rest = argument.partition(b" ")
    mechanism = name.upper()
    settings = session.settings
    assert settings.auth is not None
    if session.user is not None:
        session.answer(replies.AUTH_TWICE)
    elif session.envelope.sender is not None:
        session.answer(replies.AUTH_IN_MAIL)
    elif 0 < settings.maxauth <= session.failed_logins:
        session.log(b"refused", {b"reason": b"maxauth"})
        session.finish(1, replies.TOO_MANY_LOGINS, b"maxauth")
    elif mechanism not in settings.auth.mechanisms:
        fail(session, named(mechanism), replies.AUTH_UNKNOWN, b"mechanism")
    else:
        try:
            steps = MECHANISMS[mechanism](session, rest.lstrip(b" "))
        except sasl.Malformed:
            fail(session, mechanism, replies.AUTH_MALFORMED, b"malformed")
        else:
            go_on(session, mechanism, steps, None)


def named(word: bytes) -> bytes:
    """The word, if it can be a mechanism's name: a client that forgets the name says a password in its place."""
    return word if len(word) <= LONGEST_NAME and not word.strip(NAME_LETTERS) else b"?"


def go_on(session: "Session", mechanism: bytes, steps: "sasl.Steps", line: bytes | None) -> None:
    """One line of the client's, None for the command itself: another challenge, or the end of the exchange."""
    session.exchange = None
    try:
        challenge = next(steps) if line is None else steps.send(sasl.decode(line))
    except StopIteration as end:
        conclude(session, mechanism, end.value)
    except sasl.Cancelled:
        fail(session, mechanism, replies.AUTH_CANCELLED, b"cancelled")
    except sasl.Malformed:
        fail(session, mechanism, replies.AUTH_MALFORMED, b"malformed")
    except sasl.Failed as failure:
        refuse(session, mechanism, failure.user, failure.reply, failure.reason)
    else:
        session.exchange = lambda answer: go_on(session, mechanism, steps, answer)
        session.backend.reply(b"334 " + sasl.encode(challenge))


def conclude(session: "Session", mechanism: bytes, result: "sasl.Credentials | sasl.Proven") -> None:
    """Everything is said. Is it true?"""
    if isinstance(result, sasl.Credentials):
        refusal = session.backend.why_not_login(result)
        if refusal:
            refuse(session, mechanism, result.user, *refusal)
            return
    session.identify(result.user)
    session.log(b"login", {b"result": b"yes", b"mechanism": mechanism, b"user": result.user})
    session.answer(replies.AUTH_OK)


def refuse(session: "Session", mechanism: bytes, user: bytes, reply: bytes, reason: bytes) -> None:
    """A wrong password, or nobody who could say: it counts, and whoever guesses has to wait.

    The log does not: a client that leaves, or comes again meanwhile, has been seen.
    """
    session.failed_logins += 1
    note(session, mechanism, user, reason)
    session.backend.pause()
    session.answer(reply)


def fail(session: "Session", mechanism: bytes, reply: bytes, reason: bytes) -> None:
    """An exchange that came to nothing."""
    note(session, mechanism, b"", reason)
    session.answer(reply)


def note(session: "Session", mechanism: bytes, user: bytes, reason: bytes) -> None:
    """Log an exchange without a login."""
    facts = {b"result": b"no", b"reason": reason, b"mechanism": mechanism}
    session.log(b"login", {**facts, b"user": user} if user else facts)
