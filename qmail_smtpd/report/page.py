"""The report as one self-contained HTML page: what looks wrong, charts, tables. Pure.

The page has no scripts and loads nothing, which its Content-Security-Policy enforces. It is readable on a phone, on
paper and by a screen reader. Every name is printable ASCII (text.shown) and escaped for HTML.
"""

from collections.abc import Iterator
from html import escape

from qmail_smtpd.report.charts import chart, figures
from qmail_smtpd.report.findings import Finding, period
from qmail_smtpd.report.style import STYLE
from qmail_smtpd.report.summary import BYTES, Section, Summary
from qmail_smtpd.report.text import clock, plural, size

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>relayreport: {title}</title>
<style>{style}</style>
</head>
<body>
<main>
"""
FOOT = """</main>
</body>
</html>
"""
TILES = (
    ("connections", "connections"),
    ("denied", "denied"),
    ("refused", "refusals"),
    ("messages", "messages queued"),
    ("relayed", "recipients relayed"),
    ("failed_logins", "failed logins"),
)
CHARTS = (
    ("connections", "Connections"),
    ("denied", "Connections denied by rules and limits"),
    ("refused", "Refused commands"),
    ("messages", "Messages queued"),
    ("relayed", "Recipients relayed"),
    ("failed_logins", "Failed logins"),
)
WIDE = 5  # columns of a table that has the whole width
EXPLANATIONS = {
    "relayed": "by: login is SMTP AUTH, pop a recent POP login, address the rules.",
    "refusals": "tcpserver: rules and limits of connections; the others are reasons of qmail-smtpd.",
    "tls": "none: without TLS.",
}


def page(summary: Summary) -> str:
    """Return the whole page."""
    when = title(summary)
    return HEAD.format(title=escape(when), style=STYLE) + "\n".join(body(summary, when)) + "\n" + FOOT


def title(summary: Summary) -> str:
    """Return the time of the log, or that it has none."""
    if summary.first is None or summary.last is None:
        return "a log without times"
    return f"{clock(summary.first)} to {clock(summary.last)}"


def body(summary: Summary, when: str) -> Iterator[str]:
    """Yield the parts of the page, the most important first."""
    lines = plural(summary.lines, "line") + (f", {summary.unknown:,} of something else" if summary.unknown else "")
    yield f'<header><h1>Mail relay report</h1><p class="dim">{escape(when)} &middot; {escape(lines)}</p></header>'
    yield from wrong(summary.findings)
    yield '<h2 id="sums">In all</h2><ul class="tiles">'
    for name, words in TILES:
        yield f"<li><b>{summary.totals[name]:,}</b> {words}</li>"
    yield f"<li><b>{escape(size(summary.totals['bytes']))}</b> of mail</li></ul>"
    if summary.bars:
        yield '<h2 id="charts">Over time</h2><div class="charts">'
        for name, words in CHARTS:
            yield from chart(summary.bars, summary.width, name, words)
        yield "</div>"
        yield from figures(summary.bars, summary.width)
    yield '<div class="tables">'
    for section in summary.sections:
        yield from table(section)
    yield "</div>"


def wrong(found: list[Finding]) -> Iterator[str]:
    """Yield what looks wrong."""
    yield '<section aria-labelledby="wrong"><h2 id="wrong">What looks wrong</h2>'
    if not found:
        yield '<p class="good">Nothing that this report looks for.</p>'
    else:
        yield '<ol class="wrong">'
        for finding in found:
            when = period(finding)
            yield f"<li><h3>{escape(finding.title)}</h3>"
            yield f'<p class="dim">{escape(when)}</p>' if when else ""
            yield f"<p>{escape(finding.detail)}</p><p><strong>What to do:</strong> {escape(finding.advice)}</p></li>"
        yield "</ol>"
    yield "</section>"


def table(section: Section) -> Iterator[str]:
    """Yield a section. Its table scrolls by itself where the window is too narrow."""
    name = escape(section.key)
    wide = ' class="wide"' if len(section.columns) >= WIDE else ""
    yield f'<section{wide} aria-labelledby="{name}"><h2 id="{name}">{escape(section.title)}</h2>'
    if text := note(section):
        yield f'<p class="note">{escape(text)}</p>'
    yield f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0"><table>'
    yield f'<caption><span class="hidden">{escape(section.title)}</span></caption>'
    yield "<thead><tr>"
    numbers = [isinstance(value, int) for value in section.rows[0]]
    for column, number in zip(section.columns, numbers, strict=True):
        yield f'<th scope="col"{" class=number" if number else ""}>{escape(column)}</th>'
    yield "</tr></thead><tbody>"
    for row in section.rows:
        yield f'<tr><th scope="row">{escape(str(row[0]))}</th>'
        for value, column in zip(row[1:], section.columns[1:], strict=True):
            yield cell(value, column)
        yield "</tr>"
    yield "</tbody></table></div></section>"


def cell(value: str | int, column: str) -> str:
    """Return one cell."""
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="number">{escape(size(value)) if column == BYTES else f"{value:,}"}</td>'


def note(section: Section) -> str:
    """Return what the rows mean, and what the table does not show."""
    parts = [EXPLANATIONS.get(section.key, "")]
    if section.whole > len(section.rows):
        parts.append(f"The first {len(section.rows):,} of {section.whole:,}.")
    if section.pruned:
        parts.append(f"{section.pruned:,} rare names were dropped: the counts of rare names may be too low.")
    return " ".join(part for part in parts if part)
