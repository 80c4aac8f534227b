"""AUTH in a session: the exchange of challenges and responses, and its result. Pure.

The replies and their order are those of qmail-authentication 0.8.x.
"""

from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.offer import CRAM_MD5, LOGIN, PLAIN, SCRAM_SHA_256, is_mechanism_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session

    Starter = Callable[[Session, bytes], sasl.Steps]


def start_cram(session: "Session", argument: bytes) -> "sasl.Steps":
    """Start CRAM-MD5. The argument is ignored, as in the original."""
    return sasl.cram_md5(session.backend.challenge())


def start_scram(session: "Session", argument: bytes) -> "sasl.Steps":
    """Start SCRAM-SHA-256. Not offered with a checker, which takes a password or a digest."""
    return sasl.scram(sasl.decode_initial(argument), session.backend.scram())


MECHANISMS: "dict[bytes, Starter]" = {
    LOGIN: lambda session, argument: sasl.login(sasl.decode_initial(argument)),
    PLAIN: lambda session, argument: sasl.plain(sasl.decode_initial(argument)),
    CRAM_MD5: start_cram,
    SCRAM_SHA_256: start_scram,
}


def begin(session: "Session", argument: bytes) -> None:
    """Handle the command AUTH, in a session that offers it."""
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
    elif not settings.auth.settled:
        refuse(session, loggable_name(mechanism), b"", replies.AUTH_NOT_CHECKED, session.backend.server_trouble())
    elif mechanism not in settings.auth.mechanisms:
        fail(session, loggable_name(mechanism), replies.AUTH_UNKNOWN, b"mechanism")
    else:
        try:
            steps = start(session, mechanism, rest.lstrip(b" "))
        except sasl.Malformed:
            fail(session, mechanism, replies.AUTH_MALFORMED, b"malformed")
        else:
            advance(session, mechanism, steps, None)


def start(session: "Session", mechanism: bytes, argument: bytes) -> "sasl.Steps":
    """Start an exchange, here or at the server that conducts them. Raises sasl.Malformed."""
    assert session.settings.auth is not None
    if session.settings.auth.select is None:
        return MECHANISMS[mechanism](session, argument)
    return sasl.passed_on(sasl.decode_initial(argument), session.backend.pass_on(mechanism))


def loggable_name(word: bytes) -> bytes:
    """Return the word if it can be a mechanism's name, else `?`: a client that omits the name may send a password."""
    return word if is_mechanism_name(word) or not word else b"?"


def advance(session: "Session", mechanism: bytes, steps: "sasl.Steps", line: bytes | None) -> None:
    """Process one line of the client (None: the command itself): send the next challenge, or end the exchange."""
    session.exchange = None
    if session.settings.logins_limited and is_barred(session):
        return
    try:
        challenge = next(steps) if line is None else steps.send(sasl.decode(line))
    except StopIteration as end:
        conclude(session, mechanism, end.value)
    except sasl.Cancelled:
        steps.close()
        fail(session, mechanism, replies.AUTH_CANCELLED, b"cancelled")
    except sasl.Malformed:
        steps.close()
        fail(session, mechanism, replies.AUTH_MALFORMED, b"malformed")
    except sasl.LoginRefused as refusal:
        refuse(session, mechanism, refusal.user, refusal.reply, refusal.reason)
    else:
        session.exchange = lambda answer: advance(session, mechanism, steps, answer)
        session.backend.reply(b"334 " + sasl.encode(challenge))


def is_barred(session: "Session") -> bool:
    """Whether the client may not try a login at this time; it is then answered. No checker is run."""
    refusal = session.backend.attempt_refusal()
    if refusal is None:
        return False
    reply, facts = refusal
    session.failed_logins += 1
    session.log(b"refused", facts)
    if reply.startswith(b"421"):
        session.finish(1, reply, facts[b"reason"])
    else:
        session.answer(reply)
    return True


def conclude(session: "Session", mechanism: bytes, result: "sasl.Credentials | sasl.VerifiedUser") -> None:
    """Check the credentials, unless the mechanism has verified the user already; log in or refuse."""
    if isinstance(result, sasl.Credentials):
        refusal = session.backend.login_refusal(result)
        if refusal:
            refuse(session, mechanism, result.user, *refusal)
            return
    if session.hooks is not None and not session.hooks.auth(session, result.user, mechanism):
        return
    session.log_in(result.user, mechanism)
    session.log(b"login", {b"result": b"yes", b"mechanism": mechanism, b"user": result.user})
    session.answer(replies.AUTH_OK)


def refuse(session: "Session", mechanism: bytes, user: bytes, reply: bytes, reason: bytes) -> None:
    """Refuse a login: the password is wrong, or could not be checked. It is counted, and the reply is delayed.

    The log line is not delayed: it must be there even if the client disconnects during the pause.
    """
    session.failed_logins += 1
    log_failure(session, mechanism, user, reason)
    if session.settings.logins_limited and reply == replies.AUTH_FAILED:
        session.backend.count_failure(reason)
    session.backend.pause()
    session.answer(reply)


def fail(session: "Session", mechanism: bytes, reply: bytes, reason: bytes) -> None:
    """End an exchange that produced no credentials. It is not counted as a failed login."""
    log_failure(session, mechanism, b"", reason)
    session.answer(reply)


def log_failure(session: "Session", mechanism: bytes, user: bytes, reason: bytes) -> None:
    """Log an exchange that did not end in a login."""
    facts = {b"result": b"no", b"reason": reason, b"mechanism": mechanism}
    session.log(b"login", {**facts, b"user": user} if user else facts)
