"""The report for a terminal, by rich. Every name is printable ASCII (text.shown) and never read as markup."""

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qmail_smtpd.report.findings import Finding, period
from qmail_smtpd.report.summary import BYTES, Bar, Section, Summary
from qmail_smtpd.report.text import clock, plural, size

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"  # where the terminal has no others
LINES = (("connections", "cyan"), ("denied", "yellow"), ("refused", "yellow"), ("messages", "green"))
MORE_LINES = (("relayed", "magenta"), ("failed_logins", "red"))
INDENT = (0, 0, 0, 4)
WITHOUT_TERMINAL = 120  # columns
SECTION_NAMES = {"failed_logins": "failed logins"}


def show(summary: Summary, console: Console | None = None) -> None:
    """Print the report."""
    console = console or make_console()
    for part in parts(summary, console.encoding.lower().startswith("utf")):
        console.print(part)


def make_console() -> Console:
    """Return the console of descriptor 1. A pipe gets lines of a fixed width."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=WITHOUT_TERMINAL)


def parts(summary: Summary, has_blocks: bool = True) -> "list[RenderableType]":
    """Return what looks wrong, then the charts, then the tables."""
    found: list[RenderableType] = [Text(heading(summary), "bold"), wrong(summary.findings)]
    if summary.bars:
        found.append(charts(summary.bars, summary.width, BLOCKS if has_blocks else ASCII_BLOCKS))
    for section in summary.sections:
        found += [Text(f"\n{section.title}", "bold"), table(section)]
    return found


def heading(summary: Summary) -> str:
    """Return what the report is about, in one line."""
    lines = plural(summary.lines, "line")
    if summary.unknown:
        lines += f", {summary.unknown:,} of something else"
    if summary.first is None or summary.last is None:
        return f"relayreport: {lines}, without times"
    return f"relayreport: {clock(summary.first)} to {clock(summary.last)}, {lines}"


def wrong(found: list[Finding]) -> Panel:
    """Return what looks wrong."""
    if not found:
        return Panel(Text("Nothing that this report looks for."), title="What looks wrong", title_align="left")
    lines: list[RenderableType] = []
    for finding in found:
        when = period(finding)
        lines.append(Text.assemble((finding.title, "bold red"), (f"  {when}" if when else "", "dim")))
        lines.append(Padding(Text(finding.detail), INDENT))
        lines.append(Padding(Text(finding.advice, "italic"), INDENT))
    return Panel(Group(*lines), title="What looks wrong", title_align="left", border_style="red")


def charts(bars: list[Bar], width: int, ramp: str) -> Table:
    """Return a line of blocks for each counter that is not always 0."""
    unit = "hour" if width == 3600 else "day" if width == 86400 else f"{width // 86400} days"
    grid = Table(
        box=None, title=f"From {clock(bars[0].start)} by {unit}", title_justify="left", title_style="bold not italic"
    )
    for column in ("", "total", "most", ""):
        grid.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, colour in (*LINES, *MORE_LINES):
        counts = [bar.counters[name] for bar in bars]
        if any(counts):
            blocks = Text(blocks_of(counts, ramp), colour)
            grid.add_row(SECTION_NAMES.get(name, name), f"{sum(counts):,}", f"{max(counts):,}", blocks)
    return grid


def blocks_of(counts: list[int], ramp: str) -> str:
    """Return a block for each count. What is not 0 is visible."""
    most = max(counts)
    return "".join(ramp[-(-count * (len(ramp) - 1) // most)] for count in counts)


def table(section: Section) -> Table:
    """Return a section."""
    found = Table(box=box.SIMPLE_HEAD, caption_justify="left", show_edge=False, pad_edge=False)
    for index, column in enumerate(section.columns):
        number = isinstance(section.rows[0][index], int)
        found.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in section.rows:
        found.add_row(*(Text(cell(value, column)) for value, column in zip(row, section.columns, strict=True)))
    found.caption = caption(section)
    return found


def cell(value: str | int, column: str) -> str:
    """Return the text of a cell."""
    if isinstance(value, str):
        return value
    return size(value) if column == BYTES else f"{value:,}"


def caption(section: Section) -> str | None:
    """Return what the table does not show."""
    text = f"{section.whole - len(section.rows):,} more" if section.whole > len(section.rows) else None
    if section.pruned:
        text = f"{text}. {section.pruned:,} rare names were dropped: the counts of rare names may be too low"
    return text
