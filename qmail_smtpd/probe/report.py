"""What a whole run of relaytest has found, as values: one part for each vantage or client, and what to change. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.judge import (
    CANNOT_TELL,
    CLOSED,
    EXITS,
    INSIDE,
    NEEDS_SEND,
    NOTHING_TO_FIND,
    OPEN,
    SENT,
    TAKEN_BELOW,
    Control,
    Result,
    Verdict,
    plural,
)
from qmail_smtpd.probe.probes import ENVELOPE, Names

DENIED = "denied"
WENT_WRONG = (OPEN, CANNOT_TELL, SENT, NEEDS_SEND, TAKEN_BELOW)  # the worst first
WITH_TRANSCRIPT = (OPEN, CANNOT_TELL, SENT, NEEDS_SEND)


class Finding(NamedTuple):
    """One kind of probe that was not refused, with all senders for whom that is so."""

    name: str
    word: str
    senders: tuple[str, ...]
    results: tuple[Result, ...]


class Change(NamedTuple):
    """What to change, and where: both for people, safe to show."""

    where: str
    what: str


class Part(NamedTuple):
    """What one client may do."""

    who: str
    reason: str  # why it was asked about
    word: str  # CLOSED, OPEN, INSIDE, CANNOT_TELL or DENIED
    why: str
    names: Names = Names()
    controls: tuple[Control, ...] = ()
    results: tuple[Result, ...] = ()
    rule: str = ""  # how it was let in, or not
    environment: tuple[str, ...] = ()
    rule_key: bytes | None = None


class Report(NamedTuple):
    """All of it."""

    verdict: Verdict
    asked: str
    parts: tuple[Part, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()  # what is to be known of the run itself
    when: str = ""


def findings(part: Part) -> list[Finding]:
    """What was not refused, by its kind, the worst first. Of a client that may relay nothing is a finding."""
    results = () if part.word == INSIDE else part.results
    found: dict[tuple[int, str], list[Result]] = {}
    for result in results:
        if result.word in WENT_WRONG:
            found.setdefault((WENT_WRONG.index(result.word), result.probe.recipient), []).append(result)
    return [
        Finding(name, WENT_WRONG[rank], tuple(sender_of(result) for result in group if sender_of(result)), tuple(group))
        for (rank, name), group in sorted(found.items(), key=lambda item: item[0][0])
    ]


def sender_of(result: Result) -> str:
    """The kind of sender, empty for a probe that has none of its own."""
    return result.probe.name.rpartition("/")[0] if result.probe.kind == ENVELOPE else ""


def together(parts: Sequence[Part]) -> Verdict:
    """One verdict for all clients: an open one is worse than one of whom nothing is known."""
    if len(parts) == 1 and parts[0].word in EXITS:
        return Verdict(parts[0].word, parts[0].why)
    of = {word: [part for part in parts if part.word == word] for word in (OPEN, CANNOT_TELL, CLOSED, INSIDE, DENIED)}
    if of[OPEN]:
        return Verdict(OPEN, f"{who(of[OPEN])} may relay")
    if of[CANNOT_TELL]:
        return Verdict(CANNOT_TELL, f"{who(of[CANNOT_TELL])}: {of[CANNOT_TELL][0].why}")
    if not of[CLOSED] and not of[DENIED]:
        return Verdict(CANNOT_TELL, "no client outside was asked about")
    counts = [f"{plural(len(of[CLOSED]), 'client')} may not relay"] if of[CLOSED] else []
    counts += [f"{len(of[INSIDE])} inside may"] if of[INSIDE] else []
    counts += [f"{len(of[DENIED])} denied"] if of[DENIED] else []
    return Verdict(CLOSED, ", ".join(counts))


def who(parts: Sequence[Part]) -> str:
    """The first of them, and how many more."""
    more = len(parts) - 1
    return parts[0].who + (f" and {more} more" if more else "")


def asked(part: Part) -> list[Result]:
    """The probes that were asked, or should have been: not those that nobody needs once the plain case is taken."""
    return [result for result in part.results if result.why != NOTHING_TO_FIND]


def first_of_each(parts: Sequence[Part]) -> list[Part]:
    """Those whose results are not an earlier one's: clients to whom the rules give the same share one examination."""
    found: dict[int, Part] = {}
    for part in parts:
        found.setdefault(id(part.results) if part.results else id(part), part)
    return list(found.values())
