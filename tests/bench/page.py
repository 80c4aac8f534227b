"""The part of docs/performance.md that tests/bench/all writes: between two markers, a section for each machine."""

BEGIN, END = "<!-- tests/bench/all --write: begin -->\n", "<!-- tests/bench/all --write: end -->\n"
HEADING = "### "


def insert(page: str, heading: str, text: str) -> str:
    """Return the page with this section between the markers, in place of the section with the same heading, or last.

    Raises ValueError if a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN}{END}")
    sections = split(inside) | {heading: text.strip()}
    middle = "\n".join(f"{HEADING}{name}\n\n{body}\n" for name, body in sections.items())
    return f"{before}{begin}\n{middle}\n{end}{after}"


def split(text: str) -> dict[str, str]:
    """Return heading -> body of each section."""
    parts = (part.partition("\n") for part in f"\n{text}".split(f"\n{HEADING}")[1:])
    return {name: body.strip() for name, _, body in parts}
