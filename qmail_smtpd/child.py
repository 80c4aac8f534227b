"""Start a program as a child process: by posix_spawn, or by a call in a fork if tcpserver has preloaded it (--preload).

Does not search PATH, and does not wait for the child.
"""

import os
from _signal import SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free

from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.chain import Program

NOT_RUN = 120  # qmail.c, qmail_open: the exit code of a child that cannot execute the program


def start(
    path: bytes,
    argv: list[bytes],
    environ: dict[bytes, bytes],
    descriptors: dict[int, int],
    defaults: tuple[int, ...] = (SIGXFSZ,),
) -> int:
    """Start the program and return its pid. `descriptors`: its own -> ours, duplicated in this order. Raises OSError.

    `defaults`: signals to reset to their default action. Python ignores SIGXFSZ and SIGPIPE. The original never changes
    SIGXFSZ; SIGPIPE stays ignored in its queue program (qmail.c).
    """
    program = chain.loaded_program(path) if chain.programs else None
    if program:
        return call_in_fork(program, path, argv, environ, descriptors)
    actions = [(os.POSIX_SPAWN_DUP2, ours, own) for own, ours in descriptors.items()]
    return os.posix_spawn(path, argv, environ, file_actions=actions, setsigdef=defaults)


def call_in_fork(
    program: "Program", path: bytes, argv: list[bytes], environ: dict[bytes, bytes], descriptors: dict[int, int]
) -> int:
    """Fork, call the program in the child, and return the child's pid."""
    pid = os.fork()
    if not pid:
        try:
            for own, ours in descriptors.items():
                os.dup2(ours, own)
                os.set_inheritable(own, True)  # dup2 of a descriptor onto itself would leave close-on-exec set
            program(path, argv, environ)
        finally:  # a program does not return, and after an error the child must not continue the parent's session
            os._exit(NOT_RUN)
    return pid
