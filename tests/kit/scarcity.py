"""A limit of descriptors for the tests' own process, for a moment."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

STANDARD = 3  # descriptors that are always open. poll takes no more entries than the limit


@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """Let this process open only so many further descriptors."""
    found = [os.dup(2) for _ in range(descriptors + 1)]
    for descriptor in found:
        os.close(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (found[-1] if descriptors else STANDARD, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
