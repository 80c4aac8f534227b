"""What a process has from fork and exec, and may change of itself: environment, descriptors, signals, name, words."""

import os
from _signal import (  # type: ignore[import-not-found]  # signal's own functions wrap these in enums: 86 page faults
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    SIGKILL,
    SIGSTOP,
    default_int_handler,
    getsignal,
)
from os import putenv, unsetenv  # by their names: to look into a module costs a child 3 pages of memory

from tcpserver.chain import PYTHON_IGNORES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Action = tuple[int, Any]  # the number of a signal, and what is done about it

DESCRIPTORS = "/proc/self/fd"
FIRST_UNUSED = 10  # no descriptor of ours below: programs of djb's kind give each other 3 to 7
CATCHABLE = [n for n in range(1, 32) if n not in (SIGKILL, SIGSTOP)]

variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # through os.environb it is 8 pages more


class SignalActions:
    """What a program must not inherit of this process's signal actions. Read before the first client."""

    __slots__ = ("for_call", "for_exec", "ignored")

    def __init__(self) -> None:
        found = {number: getsignal(number) for number in CATCHABLE}
        self.ignored = [number for number, action in found.items() if action == SIG_IGN]
        caught = [number for number, action in found.items() if action not in (SIG_IGN, SIG_DFL, None)]
        self.for_exec: list[Action] = [(number, SIG_DFL) for number in caught]
        self.for_call: list[Action] = [
            (number, SIG_DFL) for number in caught + self.ignored if number not in (SIGINT, *PYTHON_IGNORES)
        ]
        self.for_call.append((SIGINT, default_int_handler))


def put(name: bytes, value: bytes | None) -> None:
    """Set a variable of os.environ; None removes it."""
    if value is not None:
        variables[name] = value
        putenv(name, value)
    elif name in variables:
        del variables[name]
        unsetenv(name)


def change_environment(environ: dict[bytes, bytes]) -> None:
    """Make os.environ equal to `environ`, and touch only what differs: setting all costs 0.7 ms of page faults."""
    current = os.environb
    for name in [name for name in current if name not in environ]:
        del current[name]
    for name, value in environ.items():
        if current.get(name) != value:
            current[name] = value


def open_descriptors() -> set[str]:
    """The numbers of this process's descriptors; empty where there is no /proc."""
    try:
        return {number for number in os.listdir(DESCRIPTORS) if is_open(int(number))}
    except OSError:
        return set()


def is_open(descriptor: int) -> bool:
    """Whether it is open. The descriptor by which the list was read is not."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def move_up(descriptor: int) -> int:
    """Give a descriptor a number from FIRST_UNUSED on. The old number is closed, also on failure. Raises OSError."""
    import fcntl  # the parent has loaded it before it gave up root

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_UNUSED)
    finally:
        os.close(descriptor)


def title_area() -> tuple[int, int]:
    """The addresses of the start and the end of this process's argument area (proc(5), arg_start, arg_end)."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):  # no /proc, or not Linux's
        return 0, 0


def set_title(words: list[str]) -> None:
    """Show these words as the process's name and command line, in ps and to pgrep, as after an exec of them.

    The words are written over those that the process was started with, as setproctitle(3) does, and cut to their
    length. Where the system cannot do this, nothing changes.
    """
    name = os.fsencode(words[0].rpartition("/")[2])
    try:
        descriptor = os.open("/proc/thread-self/comm", os.O_WRONLY)  # /proc/self/comm is root's after a setuid
        try:
            os.write(descriptor, name)
        finally:
            os.close(descriptor)
    except OSError:
        return
    start, end = area
    if start < end and memmove is not None:
        text = b"\0".join([name, *(os.fsencode(word) for word in words[1:])])
        memmove(start, text[: end - start - 1].ljust(end - start, b"\0"))


def find_memmove() -> "Callable[[int, bytes], object] | None":
    """A function that writes bytes to an address: ctypes' own, without its Python half, which is 2 MB."""
    try:
        import _ctypes

        class Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]  # no subscript at run time
            _type_ = "P"

        address = _ctypes._memmove_addr  # type: ignore[attr-defined]  # typeshed lacks it
        call = _ctypes.call_function
    except (ImportError, AttributeError):
        return None
    return lambda where, data: call(address, (Pointer(where), data, len(data)))


area = title_area()
memmove = find_memmove()
