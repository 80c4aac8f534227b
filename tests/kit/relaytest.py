"""Run relaytest as a user does: the console script, in its own process."""

import json
import os
import subprocess
from typing import Any, NamedTuple

from tests.kit.support import script

PATIENCE = 120  # seconds after which a run counts as hung
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
        """The results of the probes in --json, by name."""
        return {probe["name"]: probe["result"] for client in self.json["clients"] for probe in client["probes"]}


def relaytest(*words: object, program: str | None = None, **environ: str) -> Outcome:
    """Run it, or another program, with these arguments. Variables of a qmail home are not inherited."""
    kept = {name: value for name, value in os.environ.items() if name not in ("QMAILHOME", "RELAYCLIENT")}
    done = subprocess.run(
        [program or script("relaytest"), *map(str, words)],
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def over_network(port: int, *words: object) -> Outcome:
    """Test a server on loopback, without pauses, as an outside client."""
    return relaytest(f"127.0.0.1:{port}", "--as-outside", *FAST, *words)
