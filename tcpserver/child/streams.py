"""The standard streams of a program that is called: as new as those of one that has just started."""

import os
import sys

WARM_UP_CALLS = 40  # CPython specialises an instruction some 20 calls after the first


def make_streams() -> None:
    """Make sys.stdin, stdout and stderr as they are in a new process (create_stdio, pylifecycle.c)."""
    old = sys.stdin, sys.stdout, sys.stderr
    new = (
        open(0, closefd=False, encoding=old[0].encoding, errors=old[0].errors),
        open(1, "w", closefd=False, encoding=old[1].encoding, errors=old[1].errors),
        open(2, "w", buffering=1, closefd=False, encoding=old[2].encoding, errors=old[2].errors),
    )
    for stream, name in zip(new, ("stdin", "stdout", "stderr"), strict=True):
        stream.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]  # typeshed: Any buffer has no raw
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def make_streams_without_connection() -> None:
    """Entry point of the parent: make the streams once, before the forks, while 0 and 1 are pipes.

    A stream remembers whether its descriptor can seek, and a pipe cannot, as a connection cannot. No child has to make
    them again.
    """
    saved = [os.dup(descriptor) for descriptor in (0, 1)]
    ends = os.pipe()
    for descriptor, end in enumerate(ends):
        os.dup2(end, descriptor)
    make_streams()
    for _ in range(WARM_UP_CALLS):
        flush()
    for descriptor, original in enumerate(saved):
        os.dup2(original, descriptor)
    for descriptor in (*saved, *ends):
        os.close(descriptor)


def flush() -> bool:
    """Write what is in the buffers of stdout and stderr. Return False if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            return False
        except ValueError:
            continue  # it is closed
    return True
