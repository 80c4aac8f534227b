"""Bar charts as inline SVG, and their figures as a table. Pure.

The drawing has bars only, and is stretched to the width of the window; its words are HTML, which keeps its size.
"""

import time
from collections.abc import Iterator
from html import escape

from qmail_smtpd.report.summary import Bar
from qmail_smtpd.report.text import clock

HEIGHT = 100  # units of the drawing; a bar is 10 wide
STEP, GAP = 10, 2
HOUR, DAY = 3600, 86400


def chart(bars: list[Bar], width: int, name: str, words: str) -> Iterator[str]:
    """Yield the chart of one counter, unless it is always 0."""
    counts = [bar.counters[name] for bar in bars]
    most = max(counts)
    if not most:
        return
    peak = bars[counts.index(most)].start
    text = f"{words} by {unit(width)}: {sum(counts):,} in all, most {most:,} at {label(peak, width)}"
    yield f"<figure><figcaption><b>{escape(words)}</b> {sum(counts):,}, most {most:,} in {article(width)}</figcaption>"
    yield f'<svg class="{name}" role="img" aria-label="{escape(text)}" preserveAspectRatio="none"'
    yield f' viewBox="0 0 {len(bars) * STEP} {HEIGHT}">'
    yield f"<title>{escape(text)}</title>"
    for place, (bar, count) in enumerate(zip(bars, counts, strict=True)):
        if count:
            high = max(round(count * HEIGHT / most, 1), 1)
            where = f'x="{place * STEP + GAP / 2:g}" y="{HEIGHT - high:g}" width="{STEP - GAP}" height="{high:g}"'
            yield f"<rect {where}><title>{escape(label(bar.start, width))}: {count:,}</title></rect>"
    ends = (bars[0].start, bars[len(bars) // 2].start, bars[-1].start)
    axis = "".join(f"<span>{escape(label(start, width))}</span>" for start in dict.fromkeys(ends))
    yield f'</svg><div class="axis" aria-hidden="true">{axis}</div></figure>'


def figures(bars: list[Bar], width: int) -> Iterator[str]:
    """Yield the numbers behind the charts."""
    names = [name for name in bars[0].counters if any(bar.counters[name] for bar in bars)]
    yield f"<details><summary>The same as a table, by {unit(width)}</summary>"
    yield '<div class="scroll" role="region" aria-label="figures" tabindex="0"><table>'
    yield f'<caption>Counters by {unit(width)}.</caption><thead><tr><th scope="col">from</th>'
    yield "".join(f'<th scope="col" class="number">{escape(name.replace("_", " "))}</th>' for name in names)
    yield "</tr></thead><tbody>"
    for bar in bars:
        cells = "".join(f'<td class="number">{bar.counters[name]:,}</td>' for name in names)
        yield f'<tr><th scope="row">{escape(clock(bar.start))}</th>{cells}</tr>'
    yield "</tbody></table></div></details>"


def unit(width: int) -> str:
    """Return the time of a bar in words."""
    return {HOUR: "hour", DAY: "day"}.get(width, f"{width // DAY} days")


def article(width: int) -> str:
    """Return the same after `in`."""
    return {HOUR: "an hour", DAY: "a day"}.get(width, f"{width // DAY} days")


def label(start: int, width: int) -> str:
    """Return the time of a bar: the hour of a day, or a date."""
    return time.strftime("%d %b %H:%M" if width == HOUR else "%Y-%m-%d", time.localtime(start))
