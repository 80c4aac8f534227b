"""A tool of ours and its C original from Debian's ucspi-tcp, run with the same words and input."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.kit.server import PATIENCE
from tests.kit.support import peer, script

PATH = "/usr/bin:/bin"
ENVIRON = {"PATH": PATH}


class Outcome(NamedTuple):
    stdout: bytes
    stderr: bytes
    exit: int


def run(
    program: str, words: Sequence[str | bytes] = (), stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> Outcome:
    """Run a program until it ends."""
    done = subprocess.run(
        [program, *words],
        input=stdin,
        capture_output=True,
        env=ENVIRON | dict(environ or {}),
        timeout=PATIENCE,
    )
    return Outcome(done.stdout, done.stderr, done.returncode)


def both(
    name: str, words: Sequence[str | bytes] = (), stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> tuple[Outcome, Outcome]:
    """Run ours, and then the original."""
    return run(script(name), words, stdin, environ), run(peer(f"/usr/bin/{name}"), words, stdin, environ)
