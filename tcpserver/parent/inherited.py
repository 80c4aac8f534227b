"""The environment that this process was given, in its order. os.environ is not what programs should get: in the C
locale an interpreter adds LC_CTYPE to it (PEP 538).
"""

import os

GIVEN = "/proc/self/environ"


def environ() -> dict[bytes, bytes]:
    """Names and values as exec() handed them over. Call it before root is given up: the file stays root's."""
    try:
        with open(GIVEN, "rb") as file:
            return pairs(file.read())
    except OSError:  # no /proc
        return dict(os.environb)


def pairs(text: bytes) -> dict[bytes, bytes]:
    """The NUL-terminated NAME=VALUE entries; of a name given twice the first counts, as for getenv(3)."""
    found: dict[bytes, bytes] = {}
    for entry in text.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if name and equals:  # no environment that Python makes can hold the others
            found.setdefault(name, value)
    return found
