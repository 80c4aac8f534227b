"""The findings of a whole run, as values: one part for each client, and the advice. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.judge import (
    CANNOT_TELL,
    CLOSED,
    EXITS,
    INSIDE,
    NEEDS_SEND,
    OPEN,
    PLAIN_CASE_ACCEPTED,
    SENT,
    TAKEN_BELOW,
    TAKES_UNKNOWN,
    Control,
    Result,
    Verdict,
    plural,
)
from qmail_smtpd.probe.probes import ENVELOPE, Names

DENIED = "denied"
NOT_REFUSED = (OPEN, CANNOT_TELL, SENT, NEEDS_SEND, TAKES_UNKNOWN, TAKEN_BELOW)  # the most serious first
WITH_TRANSCRIPT = (OPEN, CANNOT_TELL, SENT, NEEDS_SEND)


class Finding(NamedTuple):
    """One kind of probe that was not refused, with its senders."""

    name: str
    word: str
    senders: tuple[str, ...]
    results: tuple[Result, ...]


class Change(NamedTuple):
    """A place and what to change there, as text that is safe to print."""

    where: str
    what: str


class Part(NamedTuple):
    """The results for one client."""

    client: str
    reason: str  # why this client was tested
    word: str  # CLOSED, OPEN, INSIDE, CANNOT_TELL or DENIED
    why: str
    names: Names = Names()
    controls: tuple[Control, ...] = ()
    results: tuple[Result, ...] = ()
    rule: str = ""  # the rule that applies to it
    environment: tuple[str, ...] = ()
    rule_key: bytes | None = None


class Report(NamedTuple):
    """The results of a run."""

    verdict: Verdict
    asked: str
    parts: tuple[Part, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()  # remarks on the run
    when: str = ""


def findings(part: Part) -> list[Finding]:
    """Return the probes that were not refused, by kind, the most serious first. A client inside has none."""
    results = () if part.word == INSIDE else part.results
    groups: dict[tuple[int, str], list[Result]] = {}
    for result in results:
        if result.word in NOT_REFUSED:
            groups.setdefault((NOT_REFUSED.index(result.word), result.probe.recipient), []).append(result)
    return [
        Finding(name, NOT_REFUSED[rank], tuple(filter(None, map(sender_of, group))), tuple(group))
        for (rank, name), group in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def sender_of(result: Result) -> str:
    """Return the kind of sender, or "" for a probe without senders of its own."""
    return result.probe.name.rpartition("/")[0] if result.probe.kind == ENVELOPE else ""


def combine(parts: Sequence[Part]) -> Verdict:
    """Return one verdict for all clients. An open client counts more than an undecided one."""
    if len(parts) == 1 and parts[0].word in EXITS:
        return Verdict(parts[0].word, parts[0].why)
    words = (OPEN, CANNOT_TELL, CLOSED, INSIDE, DENIED)
    by_word = {word: [part for part in parts if part.word == word] for word in words}
    if by_word[OPEN]:
        return Verdict(OPEN, f"{first_and_rest(by_word[OPEN])} may relay")
    if by_word[CANNOT_TELL]:
        return Verdict(CANNOT_TELL, f"{first_and_rest(by_word[CANNOT_TELL])}: {by_word[CANNOT_TELL][0].why}")
    if not by_word[CLOSED] and not by_word[DENIED]:
        return Verdict(CANNOT_TELL, "no outside client was tested")
    counts = [f"{plural(len(by_word[CLOSED]), 'client')} may not relay"] if by_word[CLOSED] else []
    counts += [f"{len(by_word[INSIDE])} inside may"] if by_word[INSIDE] else []
    counts += [f"{len(by_word[DENIED])} denied"] if by_word[DENIED] else []
    return Verdict(CLOSED, ", ".join(counts))


def first_and_rest(parts: Sequence[Part]) -> str:
    """Return the first client, and the number of further ones."""
    more = len(parts) - 1
    return parts[0].client + (f" and {more} more" if more else "")


def asked_results(part: Part) -> list[Result]:
    """Return the results without the probes that were unnecessary because the plain case was accepted."""
    return [result for result in part.results if result.why != PLAIN_CASE_ACCEPTED]


def with_own_results(parts: Sequence[Part]) -> list[Part]:
    """Return the parts whose results are their own: clients with the same variables share one examination."""
    first: dict[int, Part] = {}
    for part in parts:
        first.setdefault(id(part.results) if part.results else id(part), part)
    return list(first.values())
