"""Start a program beside this process: spawned, or called in a fork where tcpserver has preloaded it (--preload).

Does not look for it in PATH, and does not wait for it.
"""

import os
from _signal import SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free

from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.chain import Program

NOT_RUN = 120  # qmail.c, qmail_open: what a child ends with that cannot become the program


def start(
    path: bytes,
    argv: list[bytes],
    environ: dict[bytes, bytes],
    descriptors: dict[int, int],
    defaults: tuple[int, ...] = (SIGXFSZ,),
) -> int:
    """The pid of the program. `descriptors`: its own -> ours, in the order in which they are made. Raises OSError.

    `defaults`: signals that it finds at their defaults. Python ignores SIGXFSZ and SIGPIPE; in the original the former
    is as it was everywhere, the latter stays ignored in the queue program (qmail.c).
    """
    program = chain.loaded_program(path) if chain.programs else None
    if program:
        return call(program, path, argv, environ, descriptors)
    actions = [(os.POSIX_SPAWN_DUP2, ours, own) for own, ours in descriptors.items()]
    return os.posix_spawn(path, argv, environ, file_actions=actions, setsigdef=defaults)


def call(
    program: "Program", path: bytes, argv: list[bytes], environ: dict[bytes, bytes], descriptors: dict[int, int]
) -> int:
    """The pid of a fork of this process in which the program is called."""
    pid = os.fork()
    if not pid:
        try:
            for own, ours in descriptors.items():
                os.dup2(ours, own)
                os.set_inheritable(own, True)  # dup2 of a descriptor onto itself leaves it to be closed
            program(path, argv, environ)
        finally:  # a program does not return; an error must not go on into the session, which would be there twice
            os._exit(NOT_RUN)
    return pid
