"""Counters by name, with a bound on how many names are kept. Pure.

A table that is full loses the half of its names that count least, so that a name with many lines stays. If a
lost name comes again, its counts are too low. `pruned` is the number of lost names, which the report shows.
"""

from collections.abc import Iterator

MOST_NAMES = 50_000  # of one table: clients of a day, or of a flood


class Table:
    """Rows of counters by name. The sum of its counters decides whether a name is kept."""

    __slots__ = ("columns", "most", "pruned", "rows")

    def __init__(self, columns: int = 1, most: int = MOST_NAMES) -> None:
        self.columns = columns
        self.most = most
        self.rows: dict[bytes, list[int]] = {}
        self.pruned = 0

    def row(self, name: bytes) -> list[int]:
        """Return the counters of this name, to be changed by the caller."""
        found = self.rows.get(name)
        if found is None:
            if len(self.rows) >= self.most:
                self.prune()
            found = self.rows[name] = [0] * self.columns
        return found

    def count(self, name: bytes, column: int = 0) -> None:
        """Add one."""
        self.row(name)[column] += 1

    def prune(self) -> None:
        """Keep the half that counts most."""
        kept = sorted(self.rows.items(), key=lambda item: sum(item[1]), reverse=True)[: self.most // 2]
        self.pruned += len(self.rows) - len(kept)
        self.rows = dict(kept)

    def best(self, top: int) -> list[tuple[bytes, list[int]]]:
        """Return the names that count most, each with its row, in a stable order."""
        return sorted(self.rows.items(), key=lambda item: (-sum(item[1]), item[0]))[:top]

    def totals(self) -> Iterator[tuple[bytes, int]]:
        """Yield the first counter of each name."""
        for name, row in self.rows.items():
            yield name, row[0]
