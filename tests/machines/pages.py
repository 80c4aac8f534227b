"""The commands of a page in docs/, or of README: its indented blocks, without those that show files and output."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SHOWN_FILES = ("#!/bin/sh", "# For Dovecot")  # the first words of blocks that show a file


def path(page: str) -> Path:
    """Return the file of a page. README is in the checkout itself."""
    return ROOT / ("README.md" if page == "README" else f"docs/{page}.md")


def blocks(page: str, section: str = "") -> list[str]:
    """Return the indented blocks of the page, or of one section of it, without the indentation."""
    text = path(page).read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n", text, re.MULTILINE)
    return [re.sub(r"(?m)^ {4}", "", block).strip("\n") + "\n" for block in found]


def commands(page: str) -> list[str]:
    """Return the blocks that are commands."""
    section = "Install" if page == "README" else ""
    return [block for block in blocks(page, section) if not block.startswith(SHOWN_FILES)]


def files(page: str) -> list[str]:
    """Return the blocks that show a file."""
    return [block for block in blocks(page) if block.startswith(SHOWN_FILES)]
