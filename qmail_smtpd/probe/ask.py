"""Send one probe in a conversation: its steps in order, up to the reply that decides. Decides nothing else."""

from typing import NamedTuple

from qmail_smtpd.probe.conversation import CLOSED, OUT_OF_STEP, Conversation, Reply
from qmail_smtpd.probe.judge import BROKEN, LATER, REFUSED, SENT, TAKEN, outcome_of
from qmail_smtpd.probe.probes import DECIDES, DIALOGUE, FORGED, LOGIN, REQUIRED, SENDER, Names, Probe, Step, fill

GO_AHEAD = 354
CONTINUE = 334  # AUTH expects another line
GOODBYE = 221  # the reply to QUIT
MOST_REPLIES = 8  # more than those to two commands, two smuggled ones and a stray dot
UNACCEPTED = "unaccepted"  # an outcome only until a control has decided: see decide_smuggling
UNPREPARED = "an earlier command failed"
INDECISIVE = "a reply that neither accepts nor refuses"
MESSAGE_REFUSED = "the recipient was accepted, and the message refused"
NONSENSE_COMMAND = b"XRELAYTEST"


class Answer(NamedTuple):
    """The outcome of a probe, the reply that decided it, the command and the role of that reply."""

    outcome: str
    reply: Reply
    command: bytes
    role: str
    why: str = ""
    with_message: bool = False  # whether DATA was sent: the message must not be sent again


def ask(conversation: Conversation, probe: Probe, names: Names, message: bytes = b"") -> Answer:
    """Send the steps of a probe. If a message is given and the recipient is accepted, send the message."""
    previous = 0
    for step in probe.steps:
        if step.role == DIALOGUE and previous != CONTINUE:
            continue
        if step.role != DIALOGUE and previous == CONTINUE:
            conversation.command(b"*")  # otherwise the next command would be read as a part of the login
        command = fill(step.text, names)
        reply = conversation.command(command)
        answer = decide(step, command, reply)
        if answer is None:
            previous = reply.code
        elif answer.outcome == TAKEN and step.role == DECIDES and message:
            return send_message(conversation, message, answer)
        else:
            return answer
    return Answer(BROKEN, Reply(), b"", DECIDES, UNPREPARED)


def decide(step: Step, command: bytes, reply: Reply) -> Answer | None:
    """Return what the reply to this step decides, or None if the next step follows."""
    if reply.failure:
        return Answer(BROKEN, reply, command, step.role, reply.failure)
    if step.role == DECIDES:
        outcome = outcome_of(reply)
        return Answer(outcome, reply, command, DECIDES, "" if outcome != BROKEN else INDECISIVE)
    if step.role in (LOGIN, DIALOGUE) and reply.kind == 2:
        return Answer(TAKEN, reply, command, LOGIN)
    if step.role == SENDER and reply.kind != 2:
        outcome = {4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)
        return Answer(outcome, reply, command, SENDER, "" if outcome != BROKEN else UNPREPARED)
    if step.role == REQUIRED and reply.kind != 2:
        return Answer(LATER if reply.kind == 4 else BROKEN, reply, command, REQUIRED, UNPREPARED)
    return None


def send_message(conversation: Conversation, message: bytes, taken: Answer) -> Answer:
    """Send DATA and the message. The outcome is SENT if it is accepted.

    A refusal proves nothing: the recipient has been accepted, and a filter may have refused the text.
    The message's lines end with CRLF. No other CRLF is added, because a lone one could be an end of its own.
    """
    reply = conversation.command(b"DATA")
    if reply.code == GO_AHEAD and not reply.failure:
        failure = conversation.send(message + b".\r\n")
        reply = failure or conversation.reply()
    outcome = {2: SENT, 4: LATER}.get(reply.kind, BROKEN)
    why = MESSAGE_REFUSED if reply.kind == 5 else reply.failure
    return Answer(outcome, reply, taken.command, DECIDES, why, with_message=True)


def ask_smuggling(conversation: Conversation, probe: Probe, names: Names, to: bytes, message: bytes) -> Answer:
    """Send a message with a false end and two RSETs in its middle, and find out whether the server executes a RSET.

    It is one message, however the server reads it. RSET, as MAIL, may be anywhere in a group of commands (RFC 2920
    section 3.1): Postfix 3.9 refuses a NOOP there, and would execute a smuggled MAIL.
    """
    if probe.chunked and not conversation.offers(b"CHUNKING"):
        return ask_without_chunking(conversation)
    start = (
        Step(b"MAIL FROM:<{sender}@{out}>", REQUIRED),
        Step(b"RCPT TO:<" + to + b">", REQUIRED),
    )
    for step in start:
        command = fill(step.text, names)
        answer = decide(step, command, conversation.command(command))
        if answer:
            return answer
    text = message.removesuffix(b"\r\n") + probe.ending + b"RSET\r\nRSET\r\n"
    if probe.chunked:
        failure = conversation.send(b"BDAT %d LAST\r\n" % len(text) + text)
    else:
        reply = conversation.command(b"DATA")
        if reply.code != GO_AHEAD or reply.failure:
            return Answer(BROKEN, reply, b"DATA", REQUIRED, UNPREPARED, with_message=True)
        failure = conversation.send(text + b".\r\n")
    first = conversation.reply()  # even if not everything could be sent: the reply may have come before
    answer = decide_smuggling(probe.ending, failure if failure and not first.code else first, conversation)
    return answer._replace(with_message=True)


def ask_without_chunking(conversation: Conversation) -> Answer:
    """Find out whether a server that does not offer CHUNKING refuses BDAT. It gets no text that it could execute."""
    command = b"BDAT 0 LAST"
    reply = conversation.command(command)
    outcome = REFUSED if reply.kind == 5 else BROKEN
    return Answer(outcome, reply, command, FORGED, reply.failure or ("" if outcome == REFUSED else INDECISIVE))


def decide_smuggling(ending: bytes, first: Reply, conversation: Conversation) -> Answer:
    """Return what the replies decide. `first` is the one to the message, as far as the server has read it.

    UNACCEPTED: nothing was executed, but the message was refused, perhaps for another reason than its false end.
    """
    if first.kind not in (2, 4, 5):
        return Answer(BROKEN, first, ending, FORGED, first.failure or UNPREPARED)
    replies = last_replies(conversation)
    if executed := executed_one(replies):
        return Answer(TAKEN, executed, ending, FORGED)
    ended = first.kind != 2 and replies[0].failure == CLOSED  # instead of reading on
    if not (ended or is_in_step(replies)):
        return Answer(BROKEN, replies[0], ending, FORGED, replies[0].failure or OUT_OF_STEP)
    return Answer(REFUSED if first.kind == 2 else UNACCEPTED, first, ending, FORGED)


def last_replies(conversation: Conversation) -> list[Reply]:
    """Send a command that is always refused, then QUIT. Return all replies up to that to QUIT, or up to a failure.

    Replies to commands that were executed earlier come before these two, so no wait is needed.
    """
    failure = conversation.send(NONSENSE_COMMAND + b"\r\n")
    replies = [failure or conversation.reply()]
    if not replies[0].failure:
        conversation.send(b"QUIT\r\n")
    while not replies[-1].failure and replies[-1].code != GOODBYE and len(replies) < MOST_REPLIES:
        replies.append(conversation.reply())
    return replies


def executed_one(replies: list[Reply]) -> Reply | None:
    """Return the first of the `last_replies` that can only be for an earlier command."""
    return next((reply for reply in replies if reply.kind == 2 and reply.code != GOODBYE), None)


def is_in_step(replies: list[Reply]) -> bool:
    """Whether the server has replied to the two commands of `last_replies` and to no other."""
    return len(replies) == 2 and replies[0].kind == 5 and replies[1].code == GOODBYE
