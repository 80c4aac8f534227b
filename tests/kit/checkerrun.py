"""Ask one of our checkers: fields on descriptor 3, a program that it shall become."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kit import forked

ENVIRON = {b"PATH": b"/usr/bin:/bin"}


def ask(
    main: Callable[[], object],
    fields: bytes,
    program: Sequence[str] = ("true",),
    environ: dict[bytes, bytes] | None = None,
    cwd: Path | None = None,
    before: Callable[[], object] = lambda: None,
) -> forked.Result:
    """Run `main` as a checker with these fields, which must fit into a pipe. `before` is called in the child."""

    def asked() -> None:
        reader, writer = os.pipe()
        os.write(writer, fields)
        os.close(writer)
        os.dup2(reader, 3)
        os.set_inheritable(3, True)
        before()
        main()

    return forked.run(asked, ["checker", *program], environ=ENVIRON | (environ or {}), cwd=cwd)


def fields(*parts: bytes) -> bytes:
    """Each ended by a NUL."""
    return b"".join(part + b"\0" for part in parts)


def start(
    command: Sequence[str], environ: dict[str, str], stdout: int | None = subprocess.PIPE
) -> "tuple[subprocess.Popen[bytes], int]":
    """A real process with a pipe on descriptor 3, and the pipe's writing end."""
    reader, writer = os.pipe()

    def give() -> None:
        os.dup2(reader, 3)
        os.set_inheritable(3, True)

    process = subprocess.Popen(
        command, env=environ, preexec_fn=give, close_fds=False, stdout=stdout, stderr=subprocess.PIPE
    )
    os.close(reader)
    return process, writer


def run(command: Sequence[str], given: bytes, environ: dict[str, str]) -> forked.Result:
    """A whole life of a real process that is asked so."""
    process, writer = start(command, environ)
    os.write(writer, given)
    os.close(writer)
    stdout, stderr = process.communicate()
    return forked.Result(stdout, stderr, process.returncode)
