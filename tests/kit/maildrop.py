"""A Maildir for the tests of POP3, and qmail-pop3d serving it: a whole session at once, or line by line."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.kit.support import script

# qmail-pop3d refuses root. In its own user namespace it has another user id, but may still access root's files.
AS_NON_ROOT = ["unshare", "--user", "--map-user=1000"] if os.geteuid() == 0 else []
AN_HOUR = 3600
ENVIRON = {"PATH": "/usr/bin:/bin", "QMAILHOME": "/nonexistent"}  # not /var/qmail: this host may have one


class Maildir:
    """A Maildir, empty at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for part in ("new", "cur", "tmp"):
            (path / part).mkdir(parents=True)

    def put(self, name: str | bytes, content: bytes = b"Subject: t\n\nbody\n", age: float = AN_HOUR) -> Path:
        """Write a file that was last changed `age` seconds ago. `name` begins with the directory."""
        path = self.path / os.fsdecode(name)
        path.write_bytes(content)
        then = time.time() - age
        os.utime(path, (then, then))
        return path

    def names(self) -> set[str]:
        """Return the files with their directories."""
        return {f"{part}/{name}" for part in ("new", "cur", "tmp") for name in os.listdir(self.path / part)}


class Result(NamedTuple):
    stdout: bytes
    stderr: bytes
    exit: int


def command(words: Sequence[str | Path] = ("Maildir",)) -> list[str]:
    return [*AS_NON_ROOT, script("qmail-pop3d"), *map(str, words)]


def talk(cwd: Path, text: bytes, words: Sequence[str | Path] = ("Maildir",)) -> Result:
    """Send all of the text at once, and close the connection."""
    done = subprocess.run(command(words), input=text, capture_output=True, cwd=cwd, env=ENVIRON)
    return Result(done.stdout, done.stderr, done.returncode)


class Dialogue:
    """A program that is driven line by line: `with Dialogue(command, cwd) as pop: pop.ask(b"STAT")`."""

    def __init__(self, argv: Sequence[str], cwd: Path, environ: Mapping[str, str] = ENVIRON) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=environ
        )
        self.greeting = self.line()

    def __enter__(self) -> "Dialogue":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def ask(self, text: bytes) -> bytes:
        """Send a line, and return the first line of the reply."""
        assert self.process.stdin
        self.process.stdin.write(text + b"\r\n")
        self.process.stdin.flush()
        return self.line()

    def rest(self) -> bytes:
        """Return the lines after the first one, up to the final dot."""
        text = b""
        while (line := self.line()) != b".\r\n":
            assert line, text
            text += line
        return text

    def read(self, text: bytes) -> bytes:
        """Send a line, and return the rest of its positive multi-line reply."""
        assert self.ask(text).startswith(b"+OK")
        return self.rest()

    def end(self) -> int:
        """Return the exit code once the program has ended."""
        return self.process.wait(20)
