"""control/smtpplugins: which programs are run for which command. Pure.

As in qmail-spp.c: a line that begins with `[` and the first letter of a section's name begins this section, every other
line is a program. The lines of other sections have no effect.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Listing = dict[bytes, list[bytes]]

SECTIONS = {name[:1]: name for name in (b"connection", b"helo", b"mail", b"rcpt", b"data", b"auth")}
SHELL = (b"/bin/sh", b"-c")  # for a line that begins with a colon


def parse(lines: "Iterable[bytes]") -> "Listing":
    """Return the lines of each section that has any."""
    listing: Listing = {}
    section: bytes | None = None
    for line in lines:
        if line.startswith(b"["):
            section = SECTIONS.get(line[1:2])
        elif section is not None:
            listing.setdefault(section, []).append(line)
    return listing


def words(line: bytes) -> list[bytes]:
    """Return the command line for a line of the file. There are no arguments: a blank is part of the path."""
    return [*SHELL, line[1:]] if line.startswith(b":") else [line]
