"""A row of the benchmarks' table: our figure, a peer's, their ratio, the aim, and whether it holds. Formats the table.

Each bench_*.py has a function rows(), and prints its own rows; tests/bench/all runs them with --json and prints one
table of all rows.
"""

import json
import operator
import os
import subprocess
import sys
from typing import NamedTuple

COLUMNS = ("what", "ours", "theirs", "peer", "ratio", "aim", "holds")
RIGHT = ("ours", "theirs", "ratio")  # aligned columns of numbers
COMPARE = {">=": operator.ge, "<=": operator.le}
DIGITS = 6  # after which a difference from an aim is one of floating-point arithmetic
NONE = "-"  # in a cell without a value
JSON = "--json"


class Peer(NamedTuple):
    """A program that ours is compared with. `missing` says why it cannot be run here."""

    name: str
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.missing}" if self.missing else self.name


class Figure(NamedTuple):
    """Connections per second, and milliseconds of CPU per connection."""

    rate: float
    cost: float


class Row(NamedTuple):
    """One figure. `unit` follows both numbers.

    The aim is an operator, a number and a unit: ">= 2.0 x" is about the ratio, "<= 0.6 MB" about our figure.
    """

    name: str
    ours: float | None
    unit: str
    theirs: float | None = None
    peer: str = NONE
    aim: str = NONE

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs. None if either is missing, or too small to be measured."""
        return self.ours / self.theirs if self.ours is not None and self.theirs else None

    @property
    def holds(self) -> str:
        """Whether the aim is reached: "yes", "no", or "-" without an aim or without the value it is about."""
        if self.aim == NONE:
            return NONE
        symbol, bound, unit = self.aim.split()
        value = self.ratio if unit == "x" else self.ours
        if value is None:
            return NONE
        return "yes" if COMPARE[symbol](round(value, DIGITS), float(bound)) else "no"

    def cells(self) -> list[str]:
        """Return the texts of COLUMNS."""
        ours, theirs = quantity(self.ours, self.unit), quantity(self.theirs, self.unit)
        ratio = NONE if self.ratio is None else f"{self.ratio:.2f} x"
        return [self.name, ours, theirs, self.peer, ratio, self.aim, self.holds]


def quantity(value: float | None, unit: str) -> str:
    """Return a number of three digits or more with its unit."""
    if value is None:
        return NONE
    decimals = next((decimals for least, decimals in ((100, 0), (10, 1), (1, 2)) if value >= least), 3)
    number = f"{value:,.{decimals}f}" if value else "0"
    return f"{number}{unit}" if unit.startswith("/") else f"{number} {unit}"


def pair(
    name: str, ours: Figure | None, theirs: Figure | None, peer: Peer, rate: str = NONE, cpu: str = NONE
) -> list[Row]:
    """Return the rows of the rate and of the CPU, with their aims. A figure is None if it could not be measured."""
    (our_rate, our_cost), (their_rate, their_cost) = ours or (None, None), theirs or (None, None)
    return [
        Row(f"{name}, rate", our_rate, "/s", their_rate, str(peer), rate),
        Row(f"{name}, CPU", our_cost, "ms", their_cost, str(peer), cpu),
    ]


def alone(name: str, ours: Figure) -> list[Row]:
    """Return the rows of the rate and of the CPU of a program without a peer."""
    return pair(name, ours, None, Peer(NONE))


def installed(name: str, path: str, package: str) -> Peer:
    """Return the peer of a Debian package, with the package's version, or with the reason why it is missing."""
    if not os.path.exists(path):
        return Peer(name, f"{path} is missing")
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        version = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # not Debian
        version = ""
    return Peer(f"{name} {version.partition(':')[2] or version}".strip())  # without the epoch


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table whose columns are also aligned as text."""
    lines = [list(COLUMNS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if name in RIGHT else "-" * width for name, width in zip(COLUMNS, widths, strict=True)
    ]

    def line(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
        ]
        return f"| {' | '.join(padded)} |\n"

    return "".join(map(line, [lines[0], rule, *lines[1:]]))


def arguments(*defaults: int) -> list[int]:
    """Return the numbers on the command line. A default replaces each one that is missing."""
    numbers = [int(word) for word in sys.argv[1:] if word != JSON]
    return [*numbers, *defaults[len(numbers) :]]


def show(rows: list[Row], note: str) -> None:
    """Print a note and the table, or with --json only the rows."""
    print(json.dumps(rows) if JSON in sys.argv else f"{note}\n\n{table(rows)}", end="")


def load(text: str) -> list[Row]:
    """Return the rows that a benchmark printed with --json."""
    return [Row(*fields) for fields in json.loads(text)]
