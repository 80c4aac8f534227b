"""Draw the pictures of docs/relayreport.md again: `.venv/bin/python -m tests.kit.logs.pictures`. Needs Chromium."""

import os
import re
import tempfile
import time
from pathlib import Path

from rich.console import Console

from qmail_smtpd.report import terminal
from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.page import page
from qmail_smtpd.report.summary import Summary, summarize
from qmail_smtpd.report.tally import Tally
from tests.kit.logs import traffic
from tests.kit.peers.browser import chromium
from tests.kit.support import ROOT

COLUMNS = 110
WINDOW = "1100,1370"
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich's are loaded from elsewhere


def summary(top: int) -> Summary:
    tally = Tally()
    reader = Reader(tally)
    reader.feed(traffic.text(traffic.day()))
    return summarize(tally, reader, top)


def draw_terminal(file: Path) -> None:
    with open(os.devnull, "w") as null:
        console = Console(record=True, width=COLUMNS, highlight=False, file=null, force_terminal=True)
        found = summary(4)
        terminal.show(found._replace(sections=found.sections[:3]), console)
    text = FONTS.sub("", console.export_svg(title="relayreport /var/log/smtp"))
    file.write_text("".join(line.rstrip() + "\n" for line in text.splitlines()))


def draw_page(file: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "page.html")
        source.write_text(page(summary(10)))
        words = (
            f"--window-size={WINDOW}",
            "--force-device-scale-factor=0.7",
            "--hide-scrollbars",
            f"--screenshot={file}",
        )
        chromium(Path(name), *words, source.as_uri())


def main() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    draw_terminal(ROOT / "docs" / "relayreport.svg")
    draw_page(ROOT / "docs" / "relayreport.png")


if __name__ == "__main__":
    main()
