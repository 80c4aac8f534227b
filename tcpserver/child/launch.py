"""How a forked child starts its program: by exec, or by a call where the program is loaded (script.py).

Decides nothing about the client.
"""

import os
import select
from _signal import SIG_DFL, SIG_SETMASK, pthread_sigmask, signal  # type: ignore[import-not-found]  # see process
from os import close, dup2

from tcpserver import chain
from tcpserver.child.script import perform
from tcpserver.process import SignalActions, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def write_log(line: bytes) -> None:
    """Write a line to descriptor 2. It is lost if that is closed, or its reader has stalled."""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    try:
        if poller.poll(0):
            os.write(2, line)
    except OSError:
        return


def enter(closing: list[int]) -> None:
    """In a child that asks first: unblock signals, and close the parent's descriptors."""
    pthread_sigmask(SIG_SETMASK, ())
    for descriptor in closing:
        close(descriptor)


def replace(argv: list[bytes], environ: dict[bytes, bytes], connection: int, signals: SignalActions) -> OSError:
    """Put the connection on descriptors 0 and 1, set ignored signals to their default, and become argv[0].

    Returns only on failure, with the error.
    """
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    for number in signals.ignored:
        signal(number, SIG_DFL)
    return chain.become(argv, environ)


def serve(connection: int, closing: list[int], start: "tuple[Any, ...]") -> "NoReturn":
    """Have a loaded program serve the connection with its environment as the argument (serve_connection)."""
    announce, serve_connection, environment = start
    for descriptor in closing:
        close(descriptor)
    dup2(connection, 0)
    dup2(connection, 1)
    close(connection)
    if announce:
        write_log(announce(os.getpid()))
    perform(lambda: serve_connection(environment), True)


def call(connection: int, closing: list[int], start: "tuple[Any, ...]") -> "NoReturn":
    """Run a loaded main on the connection. Its words are in sys.argv already; signals are blocked.

    It calls few functions, and those by their own names: the first call of a function, or look into a module, costs a
    child some 5 pages of memory, a twentieth of the whole.
    """
    announce, main, edits = start
    for descriptor in closing:
        close(descriptor)
    dup2(connection, 0)
    dup2(connection, 1)
    close(connection)
    for name, value in edits:
        put(name, value)
    if announce:
        write_log(announce(os.getpid()))
    perform(main, True)
