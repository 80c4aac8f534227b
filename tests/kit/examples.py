"""A copy of the checkout in which the examples are run, and the processes that they leave running."""

import os
import shutil
from pathlib import Path

from tests.kit.support import ROOT

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests")


def copy_tree(directory: Path) -> Path:
    """Copy the checkout, without built files and tests, to a directory whose name contains a blank."""
    tree = directory / "a checkout"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    return tree


def programs_of(tree: Path) -> list[str]:
    """Return the command lines of the processes, except zombies, that name the tree or have their directory in it."""
    commands = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            directory = os.readlink(path / "cwd")
        except OSError:  # it has ended
            continue
        if str(tree) in command or Path(directory).is_relative_to(tree):
            commands.append(command)
    return commands
