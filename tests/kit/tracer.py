"""strace on a running process and its future children."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.server import until
from tests.kit.support import peer


@contextmanager
def traced(pid: int, *options: str | os.PathLike[str]) -> Iterator[None]:
    """Trace the process within the with statement. When it is left, strace has written everything."""
    tracer = subprocess.Popen([peer("/usr/bin/strace"), "-f", "-qq", *options, "-p", str(pid)])
    try:
        until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text())
        yield
    finally:
        tracer.terminate()
        tracer.wait()
