"""strace on a process that runs already, and on the children that it will have."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.server import until
from tests.kit.support import peer


@contextmanager
def traced(pid: int, *options: str | os.PathLike[str]) -> Iterator[None]:
    """From the first line of the with block on the process is traced; strace has written all when the block is left."""
    tracer = subprocess.Popen([peer("/usr/bin/strace"), "-f", "-qq", *options, "-p", str(pid)])
    try:
        until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text())
        yield
    finally:
        tracer.terminate()
        tracer.wait()
