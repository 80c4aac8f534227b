"""The meaning of the replies: of one probe, and of all together. Pure.

The verdict is closed only if everything else is excluded: a missing reply never counts as a refusal.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.conversation import Reply
from qmail_smtpd.probe.probes import BELOW, DECIDES, FORGED, HERE, LOGIN, NOBODY, OPAQUE, OUTSIDE, UNCLEAR, Probe

# The outcome of a probe.
REFUSED = "refused"
TAKEN = "taken"
LATER = "later"  # 4xx
BROKEN = "broken"
SKIPPED = "skipped"
SENT = "sent"  # a message was accepted

# The meaning of an outcome.
OPEN = "open"
NEEDS_SEND = "needs --send"
CANNOT_TELL = "cannot tell"
STAYS = "stays here"
TAKEN_BELOW = "taken below"
TAKES_UNKNOWN = "takes unknown"
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
    NOBODY: TAKES_UNKNOWN,
}
YOU_ARE_INSIDE = "you are inside, and may relay: test from outside, or use --rules or --pipe"
PLAIN_CASE_ACCEPTED = "not asked: the plain case was already accepted"
PLAIN_CASE = "outside/plain"  # from an outside sender to an outside recipient
PLAIN_BOUNCE = "null/plain"
FINAL_CONTROL = "listed recipient, at the end"
PROOFS = (FORGED, LOGIN)  # roles of replies that prove an open relay even if a control has failed
EXITS = {CLOSED: 0, OPEN: 1, INSIDE: 2, CANNOT_TELL: 2}

# postconf(5), defer_unauth_destination, Postfix's default: the only 4xx that counts as a refusal.
RELAY_DENIED = re.compile(rb"454[ -]4\.7\.1 .*Relay access denied", re.DOTALL)
# RFC 3463 sections 3.2 and 3.5, RFC 7504, RFC 7505, and Exim's text: the domain itself is refused, for every client.
BAD_RECIPIENT_DOMAIN = re.compile(rb"(?:5..[ -](?:5\.1\.(?:2|10)|5\.4\.4|(?i:Unrouteable address))|556)\b")
BAD_SENDER_DOMAIN = re.compile(rb"5..[ -]5\.(?:1\.8|7\.27)\b")  # at MAIL or, by Postfix, at RCPT


class Result(NamedTuple):
    """One probe, its outcome, and the evidence."""

    probe: Probe
    outcome: str
    reply: Reply = Reply()
    command: bytes = b""  # the command whose reply decided
    role: str = ""  # the role of that command
    transcript: tuple[tuple[str, bytes], ...] = ()
    why: str = ""  # why there is no reply, or why it does not count

    @property
    def word(self) -> str:
        """The meaning of the outcome."""
        if self.outcome == REFUSED:
            return CANNOT_TELL if self.refuses_the_domain else REFUSED
        if self.outcome == SENT:
            return OPEN if self.probe.reading in (OUTSIDE, FORGED) else SENT
        if self.outcome == TAKEN:
            return OPEN if self.role == LOGIN else BY_READING[self.probe.reading]
        return NOT_ASKED if self.outcome == SKIPPED else CANNOT_TELL

    @property
    def refuses_the_domain(self) -> bool:
        """Whether the domain itself is refused because it receives no mail: an open relay would refuse it as well."""
        text = self.reply.text
        plain = self.probe.group == "plain" and self.role == DECIDES
        return bool(BAD_SENDER_DOMAIN.match(text) or (plain and BAD_RECIPIENT_DOMAIN.match(text)))


class Control(NamedTuple):
    """A condition that must hold before the server's replies count."""

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
        """The exit code of the verdict."""
        return EXITS[self.word]


def outcome_of(reply: Reply) -> str:
    """Return the outcome for the reply that decides."""
    if reply.kind == 4 and RELAY_DENIED.match(b"\n".join(reply.lines)):
        return REFUSED
    return {2: TAKEN, 4: LATER, 5: REFUSED}.get(reply.kind, BROKEN)


def count(results: Sequence[Result]) -> dict[str, int]:
    """Return the number of results for each meaning."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.word] = counts.get(result.word, 0) + 1
    return counts


def plain_case_accepted(results: Sequence[Result]) -> bool:
    """Whether the server accepts the plain case, so that the client may relay.

    If the outside sender gave no result, for example because its domain is refused, the null sender counts.
    """
    by_name = {result.probe.name: result for result in results}
    plain = [by_name[name] for name in (PLAIN_CASE, PLAIN_BOUNCE) if name in by_name]
    decided = [result.outcome for result in plain if result.word != CANNOT_TELL]
    return bool(decided) and decided[0] in (TAKEN, SENT)


def verdict(controls: Sequence[Control], results: Sequence[Result], inside: bool) -> Verdict:
    """Return the verdict on all results. `inside` says that the client is allowed to relay."""
    failed = [control for control in controls if not control.passed and control.name != FINAL_CONTROL]
    proven = [result for result in results if result.word == OPEN and result.role in PROOFS]
    if failed and not proven:
        sent = undecided_reason({SENT: sent_of(results)}) if sent_of(results) else ""
        return Verdict(CANNOT_TELL, "; ".join(text for text in (failed[0].why, sent) if text))
    counts = count(results)
    if counts.get(OPEN):
        if inside and plain_case_accepted(results):
            return Verdict(INSIDE, YOU_ARE_INSIDE)
        return Verdict(OPEN, f"{plural(counts[OPEN], 'probe')} went through")
    if counts.get(CANNOT_TELL) or counts.get(SENT):
        return Verdict(CANNOT_TELL, undecided_reason(counts))
    if counts.get(NOT_ASKED):
        return Verdict(CANNOT_TELL, f"{plural(counts[NOT_ASKED], 'probe')} could not be asked")
    blocked = [control for control in controls if not control.passed]
    if blocked:
        return Verdict(CANNOT_TELL, blocked[0].why)
    if not counts.get(REFUSED):
        return Verdict(CANNOT_TELL, "no probe was sent that could be refused")
    return Verdict(CLOSED, closed_reason(counts))


def sent_of(results: Sequence[Result]) -> int:
    """Return the number of accepted messages."""
    return sum(result.outcome == SENT for result in results)


def undecided_reason(counts: dict[str, int]) -> str:
    """Return why the verdict is neither open nor closed."""
    texts = []
    if counts.get(CANNOT_TELL):
        texts.append(f"{plural(counts[CANNOT_TELL], 'probe')} undecided")
    if counts.get(SENT):
        texts.append(f"{plural(counts[SENT], 'message')} accepted: if one arrives, this is an open relay")
    return "; ".join(texts)


def closed_reason(counts: dict[str, int]) -> str:
    """Return the sentence for a closed server."""
    text = f"{plural(counts[REFUSED], 'probe')} refused, none went through"
    if counts.get(NEEDS_SEND):
        text += f"; {counts[NEEDS_SEND]} accepted at your own domain: --send shows what happens to those"
    if counts.get(TAKES_UNKNOWN):
        text += "; a recipient that does not exist is accepted"
    return text


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
