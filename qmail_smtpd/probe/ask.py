"""Ask one probe in a conversation: its steps in order, up to the answer that decides. Decides nothing else."""

from typing import NamedTuple

from qmail_smtpd.probe.conversation import CLOSED, Conversation, Reply
from qmail_smtpd.probe.judge import BROKEN, LATER, REFUSED, SENT, TAKEN, outcome_of
from qmail_smtpd.probe.probes import ASK, DIALOGUE, FORGED, LOGIN, MUST, SENDER, Names, Probe, Step, fill

GO_AHEAD = 354
CONTINUE = 334  # AUTH wants more
UNPREPARED = "the server did not come so far"
NONSENSE_COMMAND = b"XRELAYTEST"


class Answer(NamedTuple):
    """The outcome, the reply that decided, to which command, and what it was for."""

    outcome: str
    reply: Reply
    command: bytes
    role: str
    why: str = ""
    with_message: bool = False  # whether a message was begun: it must not be sent again


def ask(conversation: Conversation, probe: Probe, names: Names, message: bytes = b"") -> Answer:
    """Say the steps. Where a `message` is given, and the recipient is taken, it is sent."""
    previous = 0
    for step in probe.steps:
        if step.role == DIALOGUE and previous != CONTINUE:
            continue
        if step.role != DIALOGUE and previous == CONTINUE:
            conversation.command(b"*")  # or the next command would be taken for a part of the login
        command = fill(step.text, names)
        reply = conversation.command(command)
        answer = judged(step, command, reply)
        if answer is None:
            previous = reply.code
        elif answer.outcome == TAKEN and step.role == ASK and message:
            return send(conversation, message, answer)
        else:
            return answer
    return Answer(BROKEN, Reply(), b"", ASK, UNPREPARED)


def judged(step: Step, command: bytes, reply: Reply) -> Answer | None:
    """What the answer to this step decides, None for nothing: the next one is said."""
    if reply.trouble:
        return Answer(BROKEN, reply, command, step.role, reply.trouble)
    if step.role == ASK:
        outcome = outcome_of(reply)
        return Answer(outcome, reply, command, ASK, "" if outcome != BROKEN else "an answer that is neither yes nor no")
    if step.role in (LOGIN, DIALOGUE) and reply.kind == 2:
        return Answer(TAKEN, reply, command, LOGIN)
    if step.role == SENDER and reply.kind != 2:
        outcome = {4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)
        return Answer(outcome, reply, command, SENDER, "" if outcome != BROKEN else UNPREPARED)
    if step.role == MUST and reply.kind != 2:
        return Answer(LATER if reply.kind == 4 else BROKEN, reply, command, MUST, UNPREPARED)
    return None


def send(conversation: Conversation, message: bytes, taken: Answer) -> Answer:
    """DATA and the message, CRLF at the end of each line and none too much. Its acceptance is SENT."""
    reply = conversation.command(b"DATA")
    if reply.code == GO_AHEAD and not reply.trouble:
        trouble = conversation.say(message + b".\r\n")
        reply = trouble or conversation.reply()
    outcome = {2: SENT, 4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)
    return Answer(outcome, reply, taken.command, ASK, reply.trouble, with_message=True)


def ask_smuggling(conversation: Conversation, probe: Probe, names: Names, to: bytes, message: bytes) -> Answer:
    """Send a message that may seem to end in its middle, where a NOOP stands: is that obeyed?

    The message is one, whatever the server makes of it. After its true end comes a command that is always refused:
    whoever answers that one first behind the message has smuggled nothing.
    """
    start = (
        Step(b"MAIL FROM:<{sender}@{out}>", MUST),
        Step(b"RCPT TO:<" + to + b">", MUST),
    )
    for step in start:
        command = fill(step.text, names)
        answer = judged(step, command, conversation.command(command))
        if answer:
            return answer
    reply = conversation.command(b"DATA")
    if reply.code != GO_AHEAD or reply.trouble:
        return Answer(BROKEN, reply, b"DATA", MUST, UNPREPARED, with_message=True)
    text = message.removesuffix(b"\r\n") + probe.ending + b"NOOP\r\nNOOP\r\n.\r\n" + NONSENSE_COMMAND
    trouble = conversation.say(text + b"\r\n")
    answer = smuggled(probe.ending, trouble or conversation.reply(), conversation)
    return answer._replace(with_message=True)


def smuggled(ending: bytes, first: Reply, conversation: Conversation) -> Answer:
    """What the answers behind the message say. A server that hangs up, or says no, has let nothing through."""
    if first.trouble == CLOSED and not first.code:
        return Answer(REFUSED, first, ending, FORGED)
    if first.code // 100 not in (2, 4, 5):
        return Answer(BROKEN, first, ending, FORGED, first.trouble or UNPREPARED)
    second = conversation.reply()
    if second.kind == 2:
        return Answer(TAKEN, second, ending, FORGED)
    if first.kind != 2 or second.kind in (4, 5):
        return Answer(REFUSED, first, ending, FORGED)
    return Answer(BROKEN, second, ending, FORGED, second.trouble or UNPREPARED)
