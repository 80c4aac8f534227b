"""Send one probe in a conversation: its steps in order, up to the reply that decides. Decides nothing else."""

from typing import NamedTuple

from qmail_smtpd.probe.conversation import CLOSED, Conversation, Reply
from qmail_smtpd.probe.judge import BROKEN, LATER, REFUSED, SENT, TAKEN, outcome_of
from qmail_smtpd.probe.probes import DECIDES, DIALOGUE, FORGED, LOGIN, REQUIRED, SENDER, Names, Probe, Step, fill

GO_AHEAD = 354
CONTINUE = 334  # AUTH expects another line
UNPREPARED = "an earlier command failed"
INDECISIVE = "a reply that neither accepts nor refuses"
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

    The message's lines end with CRLF. No other CRLF is added, because a lone one could be an end of its own.
    """
    reply = conversation.command(b"DATA")
    if reply.code == GO_AHEAD and not reply.failure:
        failure = conversation.send(message + b".\r\n")
        reply = failure or conversation.reply()
    outcome = {2: SENT, 4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)
    return Answer(outcome, reply, taken.command, DECIDES, reply.failure, with_message=True)


def ask_smuggling(conversation: Conversation, probe: Probe, names: Names, to: bytes, message: bytes) -> Answer:
    """Send a message with a false end and a NOOP in its middle, and find out whether the server executes the NOOP.

    It is one message, however the server reads it. After its true end comes a command that is always refused: if the
    first reply after the message's own is that refusal, nothing was smuggled.
    """
    start = (
        Step(b"MAIL FROM:<{sender}@{out}>", REQUIRED),
        Step(b"RCPT TO:<" + to + b">", REQUIRED),
    )
    for step in start:
        command = fill(step.text, names)
        answer = decide(step, command, conversation.command(command))
        if answer:
            return answer
    reply = conversation.command(b"DATA")
    if reply.code != GO_AHEAD or reply.failure:
        return Answer(BROKEN, reply, b"DATA", REQUIRED, UNPREPARED, with_message=True)
    text = message.removesuffix(b"\r\n") + probe.ending + b"NOOP\r\nNOOP\r\n.\r\n" + NONSENSE_COMMAND
    failure = conversation.send(text + b"\r\n")
    answer = decide_smuggling(probe.ending, failure or conversation.reply(), conversation)
    return answer._replace(with_message=True)


def decide_smuggling(ending: bytes, first: Reply, conversation: Conversation) -> Answer:
    """Return what the replies after the message decide. A server that disconnects or refuses has executed nothing."""
    if first.failure == CLOSED and not first.code:
        return Answer(REFUSED, first, ending, FORGED)
    if first.code // 100 not in (2, 4, 5):
        return Answer(BROKEN, first, ending, FORGED, first.failure or UNPREPARED)
    second = conversation.reply()
    if second.kind == 2:
        return Answer(TAKEN, second, ending, FORGED)
    if first.kind != 2 or second.kind in (4, 5):
        return Answer(REFUSED, first, ending, FORGED)
    return Answer(BROKEN, second, ending, FORGED, second.failure or UNPREPARED)
