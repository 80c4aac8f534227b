"""The report as plain data: totals, hours, sections of rows, findings. Terminal, page and JSON show the same. Pure."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from qmail_smtpd.report import tally as counted
from qmail_smtpd.report.findings import Finding, findings
from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.relayers import Relayer
from qmail_smtpd.report.tables import Table
from qmail_smtpd.report.tally import BOUNDS, Tally
from qmail_smtpd.report.text import shown

TOTALS = (
    ("connections", counted.CONNECTIONS),
    ("denied", counted.DENIED),
    ("refused", counted.REFUSED),
    ("sessions", counted.SESSIONS),
    ("messages", counted.MESSAGES),
    ("recipients", counted.RECIPIENTS),
    ("relayed", counted.RELAYED),
    ("logins", counted.LOGINS),
    ("failed_logins", counted.FAILED),
    ("unfinished", counted.UNFINISHED),
    ("bytes", counted.BYTES),
)
WIDTHS = (3600, 86400, 7 * 86400, 28 * 86400)  # seconds of a bar
MOST_BARS = 72
BYTES = "bytes"  # the column whose numbers have a unit

Row = tuple[str | int, ...]


class Section(NamedTuple):
    """A table. `whole` is how many rows there are in all, `pruned` how many names were lost on the way."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    whole: int
    pruned: int = 0


class Bar(NamedTuple):
    """The counters of a span of time that begins at `start`, in seconds since 1970."""

    start: int
    counters: dict[str, int]


class Summary(NamedTuple):
    """A whole report. `first` and `last` are None in a log without stamps."""

    first: float | None
    last: float | None
    lines: int
    unknown: int
    unstamped: int
    totals: dict[str, int]
    width: int
    bars: list[Bar]
    sections: list[Section]
    findings: list[Finding]


def summarize(tally: Tally, reader: Reader, top: int) -> Summary:
    """Return the report, with at most `top` rows in each section."""
    width, bars = bars_of(tally)
    return Summary(
        tally.first,
        tally.last,
        reader.lines,
        reader.unknown,
        reader.unstamped,
        named(tally.total),
        width,
        bars,
        [section for section in sections(tally, top) if section.rows],
        findings(tally),
    )


def named(counters: Iterable[int]) -> dict[str, int]:
    """Return counters by name."""
    row = list(counters)
    return {name: row[index] for name, index in TOTALS}


def bars_of(tally: Tally) -> tuple[int, list[Bar]]:
    """Return the width of a bar in seconds, and the bars without gaps. A day begins at midnight, local time."""
    if not tally.hours:
        return WIDTHS[0], []
    first, last = min(tally.hours) * 3600, max(tally.hours) * 3600
    width = next((width for width in WIDTHS if (last - first) // width < MOST_BARS), WIDTHS[-1])
    shift = time.localtime(last).tm_gmtoff if width > WIDTHS[0] else 0
    sums: dict[int, list[int]] = {}
    for hour, row in tally.hours.items():
        start = (hour * 3600 + shift) // width * width - shift
        sums[start] = [total + more for total, more in zip(sums.get(start, [0] * len(row)), row, strict=True)]
    latest = max(sums)
    starts = range(max(min(sums), latest - (MOST_BARS - 1) * width), latest + 1, width)
    return width, [Bar(start, named(sums.get(start, [0] * counted.COUNTERS))) for start in starts]


def sections(tally: Tally, top: int) -> list[Section]:
    """Return the tables, the most important first."""
    return [
        relayed(tally, top),
        of_table("refusals", "Why clients were refused", ("reason", "refusals"), tally.reasons, top),
        of_table("limits", "Limits that were reached", ("limit", "times"), tally.limits, top),
        of_table("failed_names", "Failed logins by name", ("login", "failures"), tally.failed_names, top),
        of_table("failed_addresses", "Failed logins by address", ("address", "failures"), tally.failed_addresses, top),
        logins(tally, top),
        of_table("unfinished", "Messages that were not queued", ("reason", "messages"), tally.unfinished, top),
        of_table(
            "clients",
            "Clients",
            ("address", "connections", "refusals", "messages", "failed logins"),
            tally.clients,
            top,
        ),
        of_table("networks", "Networks", ("network", "connections", "refusals"), tally.networks, top),
        of_table("tls", "TLS", ("version", "sessions", "logins"), tally.tls, top),
        durations(tally),
        of_table("ends", "How connections ended", ("status", "connections"), tally.ends, top),
        of_table("warnings", "Warnings", ("text", "times"), tally.warnings, top),
    ]


def of_table(key: str, title: str, columns: tuple[str, ...], table: Table, top: int) -> Section:
    """Return a section of a table of counters."""
    rows: list[Row] = [(shown(name), *row) for name, row in table.best(top)]
    return Section(key, title, columns, rows, len(table.rows) + table.pruned, table.pruned)


def relayed(tally: Tally, top: int) -> Section:
    """Return who relayed, and how much."""
    relayers = sorted(
        tally.relayers.found.values(), key=lambda relayer: (-relayer.recipients, relayer.how, relayer.who)
    )
    columns: tuple[str, ...] = ("who", "by", "messages", "recipients", BYTES, "addresses")
    make: Callable[[Relayer], Row] = relayer_row
    if any(relayer.rule for relayer in relayers):
        columns, make = (*columns, "rule"), lambda relayer: (*relayer_row(relayer), shown(relayer.rule))
    rows = [make(relayer) for relayer in relayers[:top]]
    pruned = tally.relayers.pruned
    return Section("relayed", "Who relayed", columns, rows, len(relayers) + pruned, pruned)


def relayer_row(relayer: Relayer) -> Row:
    """Return what one has relayed."""
    numbers = relayer.messages, relayer.recipients, relayer.bytes, len(relayer.addresses)
    return (shown(relayer.who), relayer.how.decode(), *numbers)


def logins(tally: Tally, top: int) -> Section:
    """Return who logged in, and from how many networks."""
    users = sorted(tally.suspects.users.items(), key=lambda item: (-item[1].logins, item[0]))
    rows: list[Row] = [(shown(name), user.logins, len(user.most)) for name, user in users[:top]]
    return Section("logins", "Logins by name", ("login", "logins", "networks in a day"), rows, len(users))


def durations(tally: Tally) -> Section:
    """Return how long connections were."""
    names = [f"up to {bound} s" for bound in BOUNDS] + [f"over {BOUNDS[-1]} s"]
    rows: list[Row] = [(name, count) for name, count in zip(names, tally.durations, strict=True) if count]
    return Section("durations", "Time of connections", ("time", "connections"), rows, len(rows))


def as_data(summary: Summary) -> dict[str, object]:
    """Return the report for JSON."""
    return {
        "first": summary.first,
        "last": summary.last,
        "lines": {"read": summary.lines, "unknown": summary.unknown, "without_time": summary.unstamped},
        "totals": summary.totals,
        "seconds_of_a_bar": summary.width,
        "bars": [{"start": bar.start, **bar.counters} for bar in summary.bars],
        "sections": {
            section.key: {
                "whole": section.whole,
                "lost": section.pruned,
                "rows": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
            }
            for section in summary.sections
        },
        "findings": [finding._asdict() for finding in summary.findings],
    }
