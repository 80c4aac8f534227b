"""Which pages of docs/ are manual pages, in which sections, and what refers to them."""

import datetime
import re
import tomllib
from pathlib import Path

from share.manpage import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MAN = ROOT / "share" / "man"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = re.compile(r"\A# .*\n\n## Name\n\n((?:.+ - .+\n)+)")
NAMES = {"tools": "ucspi-tools"}  # of a page about several programs
# Section 1 has what a user runs, and ucspi-tcp's programs, as in Debian; 8 what an administrator or a server runs.
USER_COMMANDS = ("tcprules", "tcprulescheck", "tcpserver", "rblsmtpd", "relaytest", "relayreport", "ucspi-tools")
MANUALS = {1: "User Commands", 8: "System Administration"}
DATE = re.compile(r'^\.TH \S+ \d "([\d-]+)"', re.MULTILINE)
CLOSING = r"""\
.SH DOCUMENTATION
The files with names in \fB.md\fR are in \fIshare/doc/ucspi\-smtpd\fR of the installation.
"""


def named(file: Path) -> list[str]:
    """Return the programs that a page of docs/ is about. Empty if it is no page of a program."""
    match = NAME.match(file.read_text())
    return [name for line in match[1].splitlines() for name in line.split(" - ")[0].split(", ")] if match else []


def page_names() -> dict[str, str]:
    """Return stem of the file in docs/ -> name of its manual page."""
    return {file.stem: NAMES.get(file.stem, file.stem) for file in sorted(DOCS.glob("*.md")) if named(file)}


def section(name: str) -> int:
    """Return the section of the manual."""
    return 1 if name in USER_COMMANDS else 8


def all_pages() -> dict[str, str]:
    """Return path below share/ -> content, of every manual page. An existing page keeps its date if unchanged."""
    found = {}
    for stem, name in page_names().items():
        number = section(name)
        path = f"man/man{number}/{name}.{number}"
        found[path] = render(stem, name, MAN.parent / path)
        for other in named(DOCS / f"{stem}.md"):
            if other != name:
                found[f"man/man{number}/{other}.{number}"] = f".so man{number}/{name}.{number}\n"
    return found


def render(stem: str, name: str, earlier: Path) -> str:
    """Return the page with the date of the earlier one, or with today's if anything else differs."""
    text = earlier.read_text() if earlier.exists() else ""
    date = DATE.search(text)
    if date and (unchanged := dated(stem, name, date[1])) == text:
        return unchanged
    return dated(stem, name, datetime.datetime.now(datetime.UTC).date().isoformat())


def dated(stem: str, name: str, date: str) -> str:
    """Return the page with this date."""
    number = section(name)
    names = page_names()

    def resolve(target: str) -> str:
        """Return where a link leads, as roff; "" for a place in the page itself."""
        if target.startswith(("http:", "https:")):
            return f"<{target}>"
        file, _, _ = target.partition("#")
        other = file.removesuffix(".md")
        if not file or other == stem:
            return ""
        if other in names:
            return rf"\fB{names[other]}\fR({section(names[other])})".replace("-", r"\-")
        return rf"\fI{file}\fR".replace("-", r"\-")

    heading = f'.TH {name.upper()} {number} "{date}" "ucspi\\-smtpd {PROJECT["version"]}" "{MANUALS[number]}"'
    page = Page((DOCS / f"{stem}.md").read_text(), resolve).render(heading)
    return page + (CLOSING if r".md\fR" in page else "")
