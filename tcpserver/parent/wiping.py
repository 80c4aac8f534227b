"""Whether memory is overwritten when it is freed, so that a client's password is not there for the next client.

With environ.WIPING, glibc does so. That is tested here: another malloc, or a later glibc, may ignore the variables.
"""

import os

MARK = b"a freed string; "
SIZES = (32, 96, 256, 480, 1024, 8192, 65536)  # bytes: each kind of glibc's free lists


def works() -> bool:
    """Whether a string that has been freed is no longer in memory. Needs /proc. Call it before root is given up."""
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not any(remains(memory, size) for size in SIZES)
    finally:
        os.close(memory)


def remains(memory: int, size: int) -> bool:
    """Whether text of this size is still in memory after it has been freed. Allocates nothing between the two."""
    found = bytearray(size + 64)
    into = [found]
    text = MARK * (size // len(MARK))
    address = id(text)
    del text
    try:
        os.preadv(memory, into, address)
    except OSError:
        return False  # it has been given back to the system
    return MARK[len(MARK) // 2 :] + MARK[: len(MARK) // 2] in found
