"""Several processes that count at once: what they were granted."""

import os
import pickle
from collections.abc import Callable

from qmail_smtpd.relay.counters import Counters, Key


def together(operations: list[Callable[[], int]]) -> list[int]:
    """Run each in a process of its own, all started at once. Return their results."""
    return started(operations)()


def started(operations: list[Callable[[], int]]) -> Callable[[], list[int]]:
    """Start each in a process of its own, all at once. Return a function that waits for their results."""
    start_reader, start_writer = os.pipe()  # its end of file starts all processes
    running = []
    for operation in operations:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(start_writer)
                os.read(start_reader, 1)
                os.write(writer, pickle.dumps(operation()))
            finally:
                os._exit(0)
        os.close(writer)
        running.append((pid, reader))
    os.close(start_reader)
    os.close(start_writer)

    def results() -> list[int]:
        found = []
        for pid, reader in running:
            with open(reader, "rb") as file:
                found.append(pickle.loads(file.read()))
            os.waitpid(pid, 0)
        return found

    return results


def take_all(open_counters: Callable[[], Counters], key: Key, limits: tuple[tuple[int, int], ...], each: int) -> int:
    """Take one `each` times, in up to three at once. Return what was granted."""
    counters, granted = open_counters(), 0
    for number in range(each):
        granted += counters.take(key, limits, 1 + number % 3)[0]
    return granted
