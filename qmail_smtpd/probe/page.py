"""A report as one self-contained HTML page: the verdict, what to change, what each client may do, the findings. Pure.

The page has no scripts and loads nothing, which its Content-Security-Policy enforces. It is readable on a phone and on
paper. Text from the server is escaped twice: by text.printable, and for HTML.
"""

from collections.abc import Iterator
from html import escape

from qmail_smtpd.probe.judge import (
    CANNOT_TELL,
    CLOSED,
    INSIDE,
    NEEDS_SEND,
    OPEN,
    REFUSED,
    SENT,
    TAKEN_BELOW,
    TAKES_UNKNOWN,
    count,
    plural,
)
from qmail_smtpd.probe.lines import because
from qmail_smtpd.probe.report import DENIED, Finding, Part, Report, asked_results, findings, with_own_results
from qmail_smtpd.probe.text import printable

COLOURS = {CLOSED: "good", REFUSED: "good", DENIED: "good", OPEN: "bad", INSIDE: "calm"}  # any other word: "fair"
HEADLINES = {
    CLOSED: "Closed",
    OPEN: "Open relay",
    INSIDE: "You are inside",
    CANNOT_TELL: "Cannot tell",
}
MEANINGS = {
    OPEN: "Mail for an outside address was accepted.",
    CANNOT_TELL: "Neither accepted nor refused: the reason is below.",
    SENT: "A message was accepted. If it arrives, this is an open relay.",
    NEEDS_SEND: "Accepted at your own domain, or without a domain. A later mailer may route it onward: only a message"
    " can tell (--send).",
    TAKES_UNKNOWN: "A recipient that does not exist is accepted: its mail is returned to a forged sender.",
    TAKEN_BELOW: "Every name below a listed domain is accepted. This is correct if intended.",
}
STYLE = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --fair: #9a6700; --calm: #0969da;
  --line: #8884; --dim: #666; }
@media (prefers-color-scheme: dark) {
  :root { --good: #3fb950; --bad: #ff7b72; --fair: #d29922; --calm: #58a6ff; --dim: #999; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
code, pre, .answer { font: .85rem/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; margin: .5rem 0; padding: .5rem .75rem; border: 1px solid var(--line); }
header { border-left: .5rem solid; padding: .25rem 1rem; }
.good { border-color: var(--good); } .bad { border-color: var(--bad); } .fair { border-color: var(--fair); }
.calm { border-color: var(--calm); } b.calm, h1.calm { color: var(--calm); }
b.good { color: var(--good); } b.bad { color: var(--bad); } b.fair { color: var(--fair); }
h1.good { color: var(--good); } h1.bad { color: var(--bad); } h1.fair { color: var(--fair); }
.dim { color: var(--dim); }
ul { list-style: none; margin: 0; padding: 0; }
li, details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td, th { text-align: left; vertical-align: top; padding: .2rem .5rem .2rem 0; border-top: 1px solid var(--line); }
th:first-child { width: 30%; } th:nth-child(2) { width: 8rem; }
@media (max-width: 40rem) {
  table, tbody, tr, td { display: block; } thead { display: none; }
  tr { border-top: 1px solid var(--line); padding: .3rem 0; } td { border: 0; padding: 0; }
}
"""
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>relaytest: {title}</title>
<style>{style}</style>
</head>
<body>
<main>
"""
FOOT = """</main>
</body>
</html>
"""


def page(report: Report) -> str:
    """Return the whole page."""
    title = escape(f"{report.verdict.word}: {report.asked}")
    return HEAD.format(title=title, style=STYLE) + "\n".join(body(report)) + "\n" + FOOT


def body(report: Report) -> Iterator[str]:
    """Yield the parts of the page, the most important first."""
    word = report.verdict.word
    yield f'<header class="{colour(word)}"><h1 class="{colour(word)}">{HEADLINES[word]}</h1>'
    yield f"<p>{escape(report.verdict.why)}</p>"
    yield f'<p class="dim">{escape(report.asked)}, {escape(report.when)}</p>'
    yield "".join(f'<p class="dim">{escape(note)}</p>' for note in report.notes) + "</header>"
    if report.changes:
        yield "<h2>What to change</h2><ul>"
        for change in report.changes:
            yield f"<li><code>{escape(change.where)}</code><br>{escape(change.what)}</li>"
        yield "</ul>"
    yield "<h2>What each client may do</h2><ul>"
    for part in report.parts:
        yield from client(part)
    yield "</ul>"
    several = len(report.parts) > 1
    for part in with_own_results(report.parts):
        yield from probes(part, f": {part.client}" if several else "")


def client(part: Part) -> Iterator[str]:
    """Yield the entry of one client."""
    yield f"<li>{badge(part.word)} <code>{escape(part.client)}</code>"
    yield f' <span class="dim">{escape(part.reason)}</span>'
    yield f"<p>{escape(part.why)}</p>"
    if part.rule:
        yield f"<p><code>{escape(', '.join([part.rule, *part.environment]))}</code></p>"
    if part.controls:
        names = f"{printable(part.names.listed)} is listed, {printable(part.names.out)} is outside"
        yield f'<p class="dim">{escape(names)}</p>'
    for control in part.controls:
        if not control.passed:
            text = escape(printable(control.reply.text))
            reply = f'<br><span class="answer">{text}</span>' if text else ""
            yield f'<p><b class="fair">control failed</b> {escape(control.name)}: {escape(control.why)}{reply}</p>'
    yield "</li>"


def probes(part: Part, suffix: str) -> Iterator[str]:
    """Yield the probes of one client: the findings with transcripts, then all results."""
    client_findings = findings(part)
    if client_findings:
        yield f"<h2>What was not refused{escape(suffix)}</h2>"
    for finding in client_findings:
        yield from finding_block(finding)
    if part.results:
        counts = ", ".join(f"{word} {number}" for word, number in count(part.results).items())
        yield f"<h2>All probes{escape(suffix)}</h2><details><summary>{escape(counts)}</summary>"
        yield "<table><thead><tr><th>probe</th><th>result</th><th>answer</th></tr></thead><tbody>"
        for result in asked_results(part):
            answer = printable(result.reply.text) or result.why
            yield f"<tr><td>{escape(result.probe.name)}</td><td>{badge(result.word)}</td>"
            yield f'<td class="answer">{escape(answer)}</td></tr>'
        yield "</tbody></table></details>"


def finding_block(finding: Finding) -> Iterator[str]:
    """Yield one kind of probe.

    An open or undecided one is unfolded and has all transcripts, any other one is folded and has one.
    """
    is_serious = finding.word in (OPEN, CANNOT_TELL, SENT)
    first = finding.results[0]
    senders = f" ({plural(len(finding.senders), 'sender')}: {', '.join(finding.senders)})" if finding.senders else ""
    yield f"<details{' open' if is_serious else ''}><summary>{badge(finding.word)}"
    yield f" {escape(finding.name)}{escape(senders)}</summary>"
    yield f"<p>{escape(MEANINGS[finding.word])}</p>"
    yield f'<p class="dim">{escape(first.probe.why)} ({escape(first.probe.source)})</p>'
    for result in finding.results if is_serious else finding.results[:1]:
        lines = [f"{who}: {printable(line)}" for who, line in result.transcript]
        lines += [because(result)] if because(result) else []
        if lines:
            yield f"<pre>{escape(chr(10).join(lines))}</pre>"
    yield "</details>"


def badge(word: str) -> str:
    """Return the word in its colour."""
    return f'<b class="{colour(word)}">{escape(word)}</b>'


def colour(word: str) -> str:
    """Return the CSS class of the word."""
    return COLOURS.get(word, "fair")
