"""Run relaytest as a person does: the console script, in a process of its own."""

import json
import os
import subprocess
from typing import Any, NamedTuple

from tests.kit.support import script

PATIENCE = 120  # seconds after which a run has hung
FAST = ("--pause", "0", "--again", "0")


class Outcome(NamedTuple):
    exit: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def verdict(self) -> str:
        """The last line, without the program's name."""
        return self.lines[-1].removeprefix("relaytest: ")

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def results(self) -> dict[str, str]:
        """Of --json: the probes that were asked, and what came of them."""
        return {probe["name"]: probe["result"] for client in self.json["clients"] for probe in client["probes"]}


def relaytest(*words: object, **environ: str) -> Outcome:
    """Run it with these words; no variable of a qmail home but those that are given."""
    kept = {name: value for name, value in os.environ.items() if name not in ("QMAILHOME", "RELAYCLIENT")}
    done = subprocess.run(
        [script("relaytest"), *map(str, words)],
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def over_network(port: int, *words: object) -> Outcome:
    """Ask a server on loopback, without pauses, as a stranger would."""
    return relaytest(f"127.0.0.1:{port}", "--as-outside", *FAST, *words)
