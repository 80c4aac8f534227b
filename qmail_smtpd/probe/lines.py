"""A report as plain lines and as JSON, for scripts. All text from the server is escaped. Pure."""

import json
from collections.abc import Iterator

from qmail_smtpd.probe.judge import CANNOT_TELL, INSIDE, OPEN, Control, Result, count, plural
from qmail_smtpd.probe.report import Finding, Part, Report, asked_results, findings, with_own_results
from qmail_smtpd.probe.text import printable

PREFIX = "relaytest: "


def plain(report: Report, verbose: bool) -> Iterator[str]:
    """Yield a line for each finding, and the verdict last. With `verbose` also yield one for each probe."""
    several = len(report.parts) > 1
    yield PREFIX + report.asked
    for note in report.notes:
        yield f"{PREFIX}note: {note}"
    own_results = {id(part) for part in with_own_results(report.parts)}
    for part in report.parts:
        yield from part_lines(part, several, verbose, id(part) in own_results)
    for change in report.changes:
        yield f"{PREFIX}change: {change.where}: {change.what}"
    yield f"{PREFIX}{report.verdict.word}: {report.verdict.why}"


def part_lines(part: Part, several: bool, verbose: bool, in_full: bool) -> Iterator[str]:
    """Yield what one client may do.

    With several clients every line names its client. Results that clients share are printed once (`in_full`).
    """
    prefix = PREFIX + (f"client {part.client}: " if several else "")
    for control in part.controls:
        if not control.passed or verbose:
            yield prefix + control_text(control)
    if verbose and in_full:
        for result in part.results:
            yield f"{prefix}{result.word}: {result.probe.name}: {result_text(result)}"
    for finding in findings(part) if in_full else ():
        yield prefix + finding_text(finding)
    if part.results and in_full and part.word != INSIDE:
        yield f"{prefix}counts: " + ", ".join(f"{word} {number}" for word, number in count(part.results).items())
    if several:
        how = f" ({', '.join([part.rule, *part.environment])})" if part.rule else ""
        yield f"{prefix}{part.word}: {part.why}{how}"


def control_text(control: Control) -> str:
    """Return the control and the reply that decided it."""
    reply = f": {printable(control.reply.text)}" if control.reply.text else ""
    return f"control: {'ok' if control.passed else 'FAILED'}: {control.name}: {control.why}{reply}"


def finding_text(finding: Finding) -> str:
    """Return what was accepted, and for how many senders."""
    senders = f" ({plural(len(finding.senders), 'sender')})" if len(finding.senders) > 1 else ""
    return f"{finding.word}: {finding.results[0].probe.name}{senders}: {result_text(finding.results[0])}"


def result_text(result: Result) -> str:
    """Return the command, its reply, and why the reply does not count."""
    parts = [printable(result.command), printable(result.reply.text), because(result)]
    return ": ".join(part for part in parts if part)


def because(result: Result) -> str:
    """Return why a reply does not count, or ""."""
    if result.why or result.word != CANNOT_TELL:
        return result.why
    if result.outcome == "refused":
        return "refused because of the domain: name one that receives mail with --outside"
    if result.outcome == "later":
        return "4xx twice"
    return "accepted, and outside in one reading: only a message can tell (--send)"


def as_json(report: Report) -> str:
    """Return the whole report as one object. Probes of clients with the same variables are listed once."""
    own_results = {id(part) for part in with_own_results(report.parts)}
    return json.dumps(
        {
            "verdict": report.verdict.word,
            "why": report.verdict.why,
            "exit": report.verdict.exit,
            "asked": report.asked,
            "when": report.when,
            "notes": list(report.notes),
            "clients": [part_object(part, id(part) in own_results) for part in report.parts],
            "change": [change._asdict() for change in report.changes],
        },
        indent=1,
    )


def part_object(part: Part, in_full: bool) -> dict[str, object]:
    """Return one client as an object."""
    return {
        "client": part.client,
        "reason": part.reason,
        "verdict": part.word,
        "why": part.why,
        "rule": part.rule or None,
        "environment": list(part.environment),
        "listed": printable(part.names.listed),
        "outside": printable(part.names.out),
        "controls": [
            {"name": control.name, "passed": control.passed, "why": control.why, "reply": printable(control.reply.text)}
            for control in part.controls
        ],
        "counts": count(part.results),
        "probes": [result_object(result) for result in asked_results(part)] if in_full else [],
    }


def result_object(result: Result) -> dict[str, object]:
    """Return one probe as an object, with a transcript if it is open or undecided."""
    fields: dict[str, object] = {
        "name": result.probe.name,
        "source": result.probe.source,
        "result": result.word,
        "command": printable(result.command),
        "reply": printable(result.reply.text),
    }
    if result.word in (OPEN, CANNOT_TELL):
        fields["why"] = because(result)
        fields["transcript"] = [f"{who}: {printable(line)}" for who, line in result.transcript]
    return fields
