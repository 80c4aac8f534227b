"""A report for a terminal, by rich: progress during the run, then tables, advice and the verdict.

Imported only if descriptor 1 or 2 is a terminal. Text from the server is escaped, and a rich Text, so that
it is never read as markup.
"""

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from qmail_smtpd.probe.judge import CANNOT_TELL, CLOSED, INSIDE, NEEDS_SEND, OPEN, REFUSED, SENT, count
from qmail_smtpd.probe.lines import control_text, result_text
from qmail_smtpd.probe.report import DENIED, Part, Report, findings, with_own_results

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
    """A progress bar on a terminal. As a context manager it restores the cursor."""

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

    def update(self, done: int, total: int, what: str) -> None:
        """Show the number of finished probes, the total, and the current one."""
        self.progress.update(self.task, completed=done, total=total, what=what)


def render(report: Report) -> str:
    """Return the report as the terminal shows it."""
    console = Console(highlight=False)
    with console.capture() as capture:
        print_report(report, console)
    return capture.get()


def print_report(report: Report, console: Console) -> None:
    """Print the parts of the report."""
    if len(report.parts) > 1:
        console.print(clients(report.parts))
    for part in with_own_results(report.parts):
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
    """Return the table of what each client may do."""
    table = Table("client", "reason", "rule", "verdict", title_justify="left")
    for part in parts:
        how = "\n".join([part.rule, *part.environment])
        verdict = Text(f"{part.word}: {part.why}", STYLES[part.word])
        table.add_row(Text(part.client), Text(part.reason), Text(how), verdict)
    return table


def probes(part: Part) -> Table:
    """Return the table of what was not refused, with the counts."""
    table = Table("probe", "senders", "result", "command and answer", title=Text(part.client), title_justify="left")
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
