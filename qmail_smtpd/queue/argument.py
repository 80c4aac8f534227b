"""Divide the arguments for sendmail, envelope addresses in RFC 5321's form, into lists short enough for exec. Pure."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 65536  # bytes of arguments in one call: half of what execve(2) guarantees for arguments and environment
POINTER = 9  # bytes that an argument takes in addition to its text: a NUL and a pointer


def batches(arguments: list[bytes]) -> "Iterator[list[bytes]]":
    """Yield the arguments in their order, in lists short enough for one exec."""
    batch: list[bytes] = []
    size = 0
    for text in arguments:
        size += len(text) + POINTER
        if batch and size > BATCH:
            yield batch
            batch, size = [], len(text) + POINTER
        batch.append(text)
    if batch:
        yield batch
