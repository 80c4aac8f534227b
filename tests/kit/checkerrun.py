"""Run one of our checkers, with fields on descriptor 3 and a program that it becomes."""

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

    def run_checker() -> None:
        reader, writer = os.pipe()
        os.write(writer, fields)
        os.close(writer)
        os.dup2(reader, 3)
        os.set_inheritable(3, True)
        before()
        main()

    return forked.run(run_checker, ["checker", *program], environ=ENVIRON | (environ or {}), cwd=cwd)


def fields(*parts: bytes) -> bytes:
    """Return the parts, each with a NUL at its end."""
    return b"".join(part + b"\0" for part in parts)


def start(
    command: Sequence[str], environ: dict[str, str], stdout: int | None = subprocess.PIPE
) -> "tuple[subprocess.Popen[bytes], int]":
    """Start a real process with a pipe on descriptor 3. Return it with the pipe's writing end."""
    reader, writer = os.pipe()

    def set_descriptor() -> None:
        os.dup2(reader, 3)
        os.set_inheritable(3, True)

    process = subprocess.Popen(
        command, env=environ, preexec_fn=set_descriptor, close_fds=False, stdout=stdout, stderr=subprocess.PIPE
    )
    os.close(reader)
    return process, writer


def run(command: Sequence[str], data: bytes, environ: dict[str, str]) -> forked.Result:
    """Run a real process with these fields to its end."""
    process, writer = start(command, environ)
    os.write(writer, data)
    os.close(writer)
    stdout, stderr = process.communicate()
    return forked.Result(stdout, stderr, process.returncode)
