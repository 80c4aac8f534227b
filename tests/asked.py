"""Ask one of our checkers in a forked child: fields on descriptor 3, a program that it shall become."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import forked

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

    def run() -> None:
        reader, writer = os.pipe()
        os.write(writer, fields)
        os.close(writer)
        os.dup2(reader, 3)
        os.set_inheritable(3, True)
        before()
        main()

    return forked.run(run, ["checker", *program], environ=ENVIRON | (environ or {}), cwd=cwd)


def fields(*parts: bytes) -> bytes:
    """Each ended by a NUL."""
    return b"".join(part + b"\0" for part in parts)
