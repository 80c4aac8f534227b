"""Start a program as a child process: by posix_spawn, or by a call in a fork if tcpserver has preloaded it (--preload).

Does not search PATH. The wait for a child is bounded by its caller.
"""

import os
from _signal import SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free
from select import POLLIN
from time import monotonic, sleep

from qmail_smtpd.net.wire import ready
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.chain import Program

POLL_INTERVAL = 0.01  # seconds
NOT_RUN = 120  # qmail.c, qmail_open: the exit code of a child that cannot execute the program


def start(
    path: bytes,
    argv: list[bytes],
    environ: dict[bytes, bytes],
    descriptors: dict[int, int],
    defaults: tuple[int, ...] = (SIGXFSZ,),
) -> int:
    """Start the program and return its pid. `descriptors`: the program's number -> ours, in order. Raises OSError.

    `defaults`: signals to reset to their default action. Python ignores SIGXFSZ and SIGPIPE. The original never changes
    SIGXFSZ; SIGPIPE stays ignored in the original's queue program (qmail.c).
    """
    program = chain.loaded_program(path) if chain.programs else None
    if program:
        return call_in_fork(program, path, argv, environ, descriptors)
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in descriptors.items()]
    return os.posix_spawn(path, argv, environ, file_actions=actions, setsigdef=defaults)


def call_in_fork(
    program: "Program", path: bytes, argv: list[bytes], environ: dict[bytes, bytes], descriptors: dict[int, int]
) -> int:
    """Fork, call the program in the child, and return the child's pid."""
    pid = os.fork()
    if not pid:
        try:
            for target, source in descriptors.items():
                os.dup2(source, target)
                os.set_inheritable(target, True)  # dup2 of a descriptor onto itself would leave close-on-exec set
            program(path, argv, environ)
        finally:  # a program does not return, and after an error the child must not continue the parent's session
            os._exit(NOT_RUN)
    return pid


def ends_in_time(pid: int, seconds: float, deadline: float | None) -> bool:
    """Wait until the child has ended, for at most `seconds` and not beyond `deadline`, on the monotonic clock.

    Leaves its status to be collected. Raises ChildProcessError if that has happened elsewhere.
    """
    handle = open_handle(pid)
    if handle is None:
        last = monotonic() + seconds if deadline is None else min(monotonic() + seconds, deadline)
        while not (ended := has_ended(pid)) and monotonic() < last:
            sleep(POLL_INTERVAL)
        return ended
    try:
        return ready(handle, POLLIN, seconds, deadline)
    finally:
        os.close(handle)


def open_handle(pid: int) -> int | None:
    """Return a descriptor that is readable once the child has ended.

    None where there is none, and the caller has to poll: Linux before 5.3, some sandboxes, FreeBSD, a limit.
    """
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def has_ended(pid: int) -> bool:
    """Whether the child has ended. Leaves its status. Raises ChildProcessError if that was collected elsewhere."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
