"""A report for a terminal, by rich: progress while it runs, then tables, what to change, and the verdict.

Imported only where descriptor 1 is a terminal. Nothing of the server's is ever markup: all of it is Text, escaped.
"""

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from qmail_smtpd.probe.judge import CANNOT_TELL, CLOSED, INSIDE, NEEDS_SEND, OPEN, REFUSED, SENT, count
from qmail_smtpd.probe.lines import control_text, result_text
from qmail_smtpd.probe.report import DENIED, Part, Report, findings, first_of_each

STYLES = {
    CLOSED: "bold green",
    OPEN: "bold red",
    INSIDE: "bold yellow",
    CANNOT_TELL: "bold yellow",
    NEEDS_SEND: "yellow",
    SENT: "yellow",
    REFUSED: "green",
    DENIED: "green",
}


class Bar:
    """Progress on a terminal; as a context, or the cursor stays away."""

    def __init__(self) -> None:
        columns = (
            TextColumn("relaytest"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}", markup=False),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=None, what="")

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.progress.stop()

    def tell(self, done: int, of: int, what: str) -> None:
        """So far, of how much, and what comes now: our own words."""
        self.progress.update(self.task, completed=done, total=of, what=what)


def drawn(report: Report) -> str:
    """All of it, as the terminal takes it."""
    console = Console(highlight=False)
    with console.capture() as capture:
        draw(report, console)
    return capture.get()


def draw(report: Report, console: Console) -> None:
    """Its parts."""
    if len(report.parts) > 1:
        console.print(clients(report.parts))
    for part in first_of_each(report.parts):
        if findings(part) or len(report.parts) == 1:
            console.print(probes(part))
    for change in report.changes:
        console.print(Text.assemble(("change ", "bold"), change.where, ": ", change.what))
    word = report.verdict.word
    line = Text.assemble((word, STYLES[word]), ": ", report.verdict.why)
    console.print(
        Panel(
            Group(line, Text("\n".join([report.asked, *report.notes]), style="dim")),
            title="relaytest",
            title_align="left",
        )
    )


def clients(parts: tuple[Part, ...]) -> Table:
    """What each client may do."""
    table = Table("client", "why asked", "rule", "it is", title_justify="left")
    for part in parts:
        how = "\n".join([part.rule, *part.environment])
        table.add_row(Text(part.who), Text(part.reason), Text(how), Text(f"{part.word}: {part.why}", STYLES[part.word]))
    return table


def probes(part: Part) -> Table:
    """What was not refused, and how much was."""
    table = Table("probe", "senders", "result", "command and answer", title=Text(part.who), title_justify="left")
    for control in part.controls:
        if not control.passed:
            table.add_row(control.name, "", Text("FAILED", STYLES[CANNOT_TELL]), Text(control_text(control)))
    for finding in findings(part):
        style = STYLES.get(finding.word, "")
        first = Text(result_text(finding.results[0]))
        table.add_row(Text(finding.name), str(len(finding.senders) or ""), Text(finding.word, style), first)
    if part.results:
        counts = ", ".join(f"{word} {number}" for word, number in count(part.results).items())
        table.add_row(Text("all"), "", "", Text(counts))
    return table
