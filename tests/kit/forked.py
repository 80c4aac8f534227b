"""Run one of our programs in a forked child of the tests: the same main function without the start-up costs."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FAILED = 99  # an exit code that none of our programs uses


class Result(NamedTuple):
    stdout: bytes
    stderr: bytes
    exit: int


def run(
    main: Callable[[], object],
    argv: list[str | bytes],
    stdin: bytes = b"",
    environ: dict[bytes, bytes] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Call `main` with this command line, input, environment and directory. A negative exit code is a signal."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        child = os.fork()
        if not child:
            _run_child(main, argv, environ, cwd, [given.fileno(), out.fileno(), err.fileno()])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Result(os.pread(out.fileno(), 1 << 30, 0), os.pread(err.fileno(), 1 << 30, 0), status)


def _run_child(
    main: Callable[[], object],
    argv: list[str | bytes],
    environ: dict[bytes, bytes] | None,
    cwd: Path | None,
    descriptors: list[int],
) -> None:
    import sys

    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        if cwd:
            os.chdir(cwd)
        if environ is not None:
            os.environb.clear()
            os.environb.update(environ)
        sys.argv = [os.fsdecode(word) for word in argv]
        main()
    finally:
        os._exit(FAILED)


def without_warnings(stderr: bytes) -> bytes:
    """Return descriptor 2's output without the warnings, which the original does not have."""
    lines = stderr.split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"tcprules: warning: "))
