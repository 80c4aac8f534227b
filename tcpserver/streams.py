"""The standard streams of a program that is called: as fresh as those of one that has just started."""

import os
import sys

REHEARSALS = 40  # an instruction is specialised some 20 calls after the first


def fresh_streams() -> None:
    """Make sys.stdin, stdout and stderr as a program finds them that has just started (create_stdio, pylifecycle.c)."""
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


def streams_off_the_connection() -> None:
    """Make the streams once, before the forks, while 0 and 1 are what cannot seek, as a connection cannot.

    A stream remembers that; and the child of each connection is spared the work.
    """
    saved = [os.dup(descriptor) for descriptor in (0, 1)]
    ends = os.pipe()
    for descriptor, end in enumerate(ends):
        os.dup2(end, descriptor)
    fresh_streams()
    for _ in range(REHEARSALS):
        flush()  # what Python learns on the way, no child has to learn
    for descriptor, original in enumerate(saved):
        os.dup2(original, descriptor)
    for descriptor in (*saved, *ends):
        os.close(descriptor)


def flush() -> bool:
    """Write what stands in the buffers of stdout and stderr. False if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            return False
        except ValueError:
            continue  # it is closed
    return True
