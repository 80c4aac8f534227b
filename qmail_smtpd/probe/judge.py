"""What the answers mean: for one probe, and for all of them together. Pure.

Closed is what is left when everything else is excluded: nothing here makes a no of an answer that did not come.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.conversation import Reply
from qmail_smtpd.probe.probes import ASK, BELOW, FORGED, HERE, LOGIN, OPAQUE, OUTSIDE, UNCLEAR, Probe

# What became of a probe.
REFUSED = "refused"
TAKEN = "taken"
LATER = "later"  # 4xx
BROKEN = "broken"
SKIPPED = "skipped"
SENT = "sent"  # a message was accepted

# What that means.
OPEN = "open"
NEEDS_SEND = "needs --send"
CANNOT_TELL = "cannot tell"
STAYS = "stays here"
TAKEN_BELOW = "taken below"
NOT_ASKED = "not asked"
CLOSED = "closed"
INSIDE = "inside"

BY_READING = {
    OUTSIDE: OPEN,
    FORGED: OPEN,
    OPAQUE: NEEDS_SEND,
    UNCLEAR: CANNOT_TELL,
    BELOW: TAKEN_BELOW,
    HERE: STAYS,
}
YOU_ARE_INSIDE = "you are inside, and may relay: ask from outside, or use --rules or --pipe"
NOTHING_TO_FIND = "not asked: the plain case is taken already"
PLAINEST = "outside/plain"  # from a stranger to a stranger
PLAIN_BOUNCE = "null/plain"
AT_THE_END = "listed recipient, at the end"
PROOFS = (FORGED, LOGIN)  # roles of answers that show a hole whatever else the server says
EXITS = {CLOSED: 0, OPEN: 1, INSIDE: 2, CANNOT_TELL: 2}

# postconf(5), defer_unauth_destination, which Postfix has by default: the one 4xx that says what it means.
NOT_EVER = re.compile(rb"454[ -]4\.7\.1 .*Relay access denied", re.DOTALL)
# RFC 3463 section 3.2, RFC 7504, RFC 7505: it is the domain that is not good, whoever asks.
BAD_RECIPIENT_DOMAIN = re.compile(rb"(?:5..[ -]5\.1\.(?:2|10)|556)\b")
BAD_SENDER_DOMAIN = re.compile(rb"5..[ -]5\.(?:1\.8|7\.27)\b")  # at MAIL, or as Postfix does, at RCPT


class Result(NamedTuple):
    """One probe, what became of it, and how one can see that."""

    probe: Probe
    outcome: str
    reply: Reply = Reply()
    command: bytes = b""  # the one whose answer decided
    role: str = ""  # and what that answer was for
    transcript: tuple[tuple[str, bytes], ...] = ()
    why: str = ""  # where there is no answer

    @property
    def word(self) -> str:
        """What it means."""
        if self.outcome == REFUSED:
            return CANNOT_TELL if self.is_about_the_domain else REFUSED
        if self.outcome == SENT:
            return OPEN if self.probe.reading in (OUTSIDE, FORGED) else SENT
        if self.outcome == TAKEN:
            return OPEN if self.role == LOGIN else BY_READING[self.probe.reading]
        return NOT_ASKED if self.outcome == SKIPPED else CANNOT_TELL

    @property
    def is_about_the_domain(self) -> bool:
        """Whether the refusal would have come from an open relay, too: the name is not one that mail can go to."""
        text = self.reply.text
        plain = self.probe.group == "plain" and self.role == ASK
        return bool(BAD_SENDER_DOMAIN.match(text) or (plain and BAD_RECIPIENT_DOMAIN.match(text)))


class Control(NamedTuple):
    """What must be so before anything is believed."""

    name: str
    passed: bool
    why: str
    reply: Reply = Reply()


class Verdict(NamedTuple):
    """One of CLOSED, OPEN, INSIDE, CANNOT_TELL, and a sentence."""

    word: str
    why: str

    @property
    def exit(self) -> int:
        """The exit code that goes with it."""
        return EXITS[self.word]


def outcome_of(reply: Reply) -> str:
    """What the answer to the question that decides says."""
    if reply.kind == 4 and NOT_EVER.match(b"\n".join(reply.lines)):
        return REFUSED
    return {2: TAKEN, 4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)


def count(results: Sequence[Result]) -> dict[str, int]:
    """How many there are of each word."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.word] = counts.get(result.word, 0) + 1
    return counts


def is_trusted(results: Sequence[Result]) -> bool:
    """Whether the server takes the plain case, from anybody's sender: whoever asked may relay.

    Where it has no answer for a stranger's sender (whose domain it may not like), a bounce is as good.
    """
    said = {result.probe.name: result for result in results}
    plain = [said[name] for name in (PLAINEST, PLAIN_BOUNCE) if name in said]
    decided = [result.outcome for result in plain if result.word != CANNOT_TELL]
    return bool(decided) and decided[0] in (TAKEN, SENT)


def verdict(controls: Sequence[Control], results: Sequence[Result], inside: bool) -> Verdict:
    """All in one word. `inside`: whoever asked is a client that may well relay."""
    failed = [control for control in controls if not control.passed and control.name != AT_THE_END]
    proven = [result for result in results if result.word == OPEN and result.role in PROOFS]
    if failed and not proven:
        sent = undecided({SENT: sent_of(results)}) if sent_of(results) else ""
        return Verdict(CANNOT_TELL, "; ".join(text for text in (failed[0].why, sent) if text))
    counts = count(results)
    if counts.get(OPEN):
        if inside and is_trusted(results):
            return Verdict(INSIDE, YOU_ARE_INSIDE)
        return Verdict(OPEN, f"{plural(counts[OPEN], 'probe')} went through")
    if counts.get(CANNOT_TELL) or counts.get(SENT):
        return Verdict(CANNOT_TELL, undecided(counts))
    if counts.get(NOT_ASKED):
        return Verdict(CANNOT_TELL, f"{plural(counts[NOT_ASKED], 'probe')} could not be asked")
    shut_out = [control for control in controls if not control.passed]
    if shut_out:
        return Verdict(CANNOT_TELL, shut_out[0].why)
    if not counts.get(REFUSED):
        return Verdict(CANNOT_TELL, "nothing was asked that could be refused")
    return Verdict(CLOSED, remark(counts))


def sent_of(results: Sequence[Result]) -> int:
    """How many messages were accepted."""
    return sum(result.outcome == SENT for result in results)


def undecided(counts: dict[str, int]) -> str:
    """Why it is neither open nor closed."""
    texts = []
    if counts.get(CANNOT_TELL):
        texts.append(f"{plural(counts[CANNOT_TELL], 'probe')} undecided")
    if counts.get(SENT):
        texts.append(f"{plural(counts[SENT], 'message')} accepted: if one arrives, this is an open relay")
    return "; ".join(texts)


def remark(counts: dict[str, int]) -> str:
    """What there is to say of a closed one."""
    text = f"{plural(counts[REFUSED], 'probe')} refused, none went through"
    if counts.get(NEEDS_SEND):
        text += f"; {counts[NEEDS_SEND]} taken at your own domain: --send shows what becomes of those"
    return text


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
