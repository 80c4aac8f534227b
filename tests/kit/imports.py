"""The modules that a program loads in its whole life, and those that no program with one connection may load."""

import os
import subprocess
import sys
from pathlib import Path

# Each of these costs 0.9 ms (cdblib) to 24 ms (click) for each connection.
FORBIDDEN = {
    "_ssl",
    "argparse",
    "asyncio",
    "cdblib",
    "click",
    "collections",
    "dataclasses",
    "email",
    "enum",
    "functools",
    "getopt",
    "hmac",
    "logging",
    "pathlib",
    "re",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "typing",
}


def imported(argv: list[str], home: Path, first: bytes, second: Path | None = None, **more: str) -> set[str]:
    """Return the modules that a Python program loads.

    `first` is its descriptor 0, the file `second` its descriptor 1, `more` further variables.
    """
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "QUEUE_MAILDIR": str(home / "Maildir")} | more
    with open(second, "rb") if second else open(os.devnull, "wb") as descriptor_1:
        command = [sys.executable, "-X", "importtime", *argv]
        done = subprocess.run(
            command, env=environ, input=first, stdout=descriptor_1, stderr=subprocess.PIPE, check=True
        )
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def check(loaded: set[str], most: int) -> None:
    assert len(loaded) > 2, "the format of the list of imports has changed"
    assert not {module for module in loaded if module.split(".")[0] in FORBIDDEN}
    assert len(loaded) <= most, sorted(loaded)
