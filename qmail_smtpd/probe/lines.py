"""A report as plain lines, and as JSON: what a script reads. All text of the server's is escaped. Pure."""

import json
from collections.abc import Iterator

from qmail_smtpd.probe.judge import CANNOT_TELL, INSIDE, OPEN, Control, Result, count, plural
from qmail_smtpd.probe.report import Finding, Part, Report, asked, findings, first_of_each
from qmail_smtpd.probe.text import shown

PREFIX = "relaytest: "


def plain(report: Report, every: bool) -> Iterator[str]:
    """One line for each thing that was found, the verdict last. With `every` one for each probe, too."""
    several = len(report.parts) > 1
    yield PREFIX + report.asked
    for note in report.notes:
        yield f"{PREFIX}note: {note}"
    told = {id(part) for part in first_of_each(report.parts)}
    for part in report.parts:
        yield from part_lines(part, several, every, id(part) in told)
    for change in report.changes:
        yield f"{PREFIX}change: {change.where}: {change.what}"
    yield f"{PREFIX}{report.verdict.word}: {report.verdict.why}"


def part_lines(part: Part, several: bool, every: bool, in_full: bool) -> Iterator[str]:
    """What one client may do. Where there are several, each is named, and what they share is told once."""
    prefix = PREFIX + (f"client {part.who}: " if several else "")
    for control in part.controls:
        if not control.passed or every:
            yield prefix + control_text(control)
    if every and in_full:
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
    """A control, and the answer that decided."""
    said = f": {shown(control.reply.text)}" if control.reply.text else ""
    return f"control: {'ok' if control.passed else 'FAILED'}: {control.name}: {control.why}{said}"


def finding_text(finding: Finding) -> str:
    """What was taken, for how many senders."""
    senders = f" ({plural(len(finding.senders), 'sender')})" if len(finding.senders) > 1 else ""
    return f"{finding.word}: {finding.results[0].probe.name}{senders}: {result_text(finding.results[0])}"


def result_text(result: Result) -> str:
    """The command, the answer, and what is wrong with that."""
    parts = [shown(result.command), shown(result.reply.text), because(result)]
    return ": ".join(part for part in parts if part)


def because(result: Result) -> str:
    """Why an answer does not count, where that needs saying."""
    if result.why or result.word != CANNOT_TELL:
        return result.why
    if result.outcome == "refused":
        return "this is about the domain: name one that takes mail with --outside"
    if result.outcome == "later":
        return "a 4xx, twice"
    return "taken, and by one reading it is outside: only a message can tell (--send)"


def as_json(report: Report) -> str:
    """The whole report as one object. Clients to whom the rules give the same have their probes listed once."""
    told = {id(part) for part in first_of_each(report.parts)}
    return json.dumps(
        {
            "verdict": report.verdict.word,
            "why": report.verdict.why,
            "exit": report.verdict.exit,
            "asked": report.asked,
            "when": report.when,
            "notes": list(report.notes),
            "clients": [part_object(part, id(part) in told) for part in report.parts],
            "change": [change._asdict() for change in report.changes],
        },
        indent=1,
    )


def part_object(part: Part, in_full: bool) -> dict[str, object]:
    """One client. A transcript is given for what went wrong."""
    return {
        "client": part.who,
        "reason": part.reason,
        "verdict": part.word,
        "why": part.why,
        "rule": part.rule or None,
        "environment": list(part.environment),
        "listed": shown(part.names.listed),
        "outside": shown(part.names.out),
        "controls": [
            {"name": control.name, "passed": control.passed, "why": control.why, "reply": shown(control.reply.text)}
            for control in part.controls
        ],
        "counts": count(part.results),
        "probes": [result_object(result) for result in asked(part)] if in_full else [],
    }


def result_object(result: Result) -> dict[str, object]:
    """One probe."""
    found: dict[str, object] = {
        "name": result.probe.name,
        "source": result.probe.source,
        "result": result.word,
        "command": shown(result.command),
        "reply": shown(result.reply.text),
    }
    if result.word in (OPEN, CANNOT_TELL):
        found["why"] = because(result)
        found["transcript"] = [f"{who}: {shown(line)}" for who, line in result.transcript]
    return found
