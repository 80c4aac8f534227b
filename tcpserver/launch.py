"""The three ways to run the program for a connection: spawn, fork and exec, fork and call.

spawn() serves the parent that has nothing slow to ask; replace() ends a forked child, by exec, or by a call where the
program is preloaded. Decides nothing about the client.
"""

import atexit
import errno
import os
import signal
import sys

from tcprules import strerr
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # what fork itself says
CATCHABLE = [n for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)  # what a fresh interpreter ignores


def ignored_signals() -> list[int]:
    """The signals that a program would inherit as ignored."""
    return [number for number in CATCHABLE if signal.getsignal(number) == signal.SIG_IGN]


def spawn(argv: list[bytes], environ: dict[bytes, bytes], connection: int, ignored: list[int]) -> int:
    """Start the program on the connection and return its pid. Raises OSError with pathexec's errno.

    Which file to try is found by looking (a stat costs a microsecond, a child that fails to exec a few hundred); what
    cannot be looked at is tried, so that the errno is exec's own.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptors = [(os.POSIX_SPAWN_DUP2, connection, 0), (os.POSIX_SPAWN_DUP2, connection, 1)]
    for path in chain.candidates(argv[0]):
        try:
            os.stat(path)
            return os.posix_spawn(path, argv, environ, file_actions=descriptors, setsigdef=ignored)
        except OSError as error:
            if error.errno in chain.SEARCH_ON:
                failure = error
            elif error.errno != errno.ENOENT:
                raise
        except ValueError:  # a NUL in a word, or a name that no environment can hold
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    raise failure


def fork(child: "Callable[[], NoReturn]", parents: list[int]) -> int:
    """Fork; the child gives up what is the parent's own, the wake-up descriptor first, and calls `child`."""
    pid = os.fork()
    if pid:
        return pid
    signal.set_wakeup_fd(-1)
    for descriptor in parents:
        os.close(descriptor)
    return child()


def say(line: bytes) -> None:
    """In a child: write a line to descriptor 2; one that is closed is nobody's fault."""
    try:
        os.write(2, line)
    except OSError:
        return


def replace(argv: list[bytes], environ: dict[bytes, bytes], connection: int) -> OSError:
    """In a forked child: put the connection on descriptors 0 and 1, every signal to its default, and become argv[0].

    Returns only on failure, with the error.
    """
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    for number in CATCHABLE:
        signal.signal(number, signal.SIG_DFL)
    return chain.become(argv, environ)


def is_preloaded(argv: list[bytes]) -> bool:
    """Would exec's search end at a preloaded script?"""
    for path in chain.candidates(argv[0]):
        if chain.preloaded_as(path):
            return True
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return False
    return False


def preload_all(specifications: list[str]) -> None:
    """Load the mains of console scripts, each `MODULE:FUNCTION:PATH` as cli.py found it. To be called without root."""
    if not specifications:
        return
    fresh_streams()
    for specification in specifications:
        preload(specification)


def preload(specification: str) -> None:
    """Import one main, and let its script be known to chain.become."""
    module, function, path = specification.split(":", 2)
    program = __import__(module, fromlist=[function])
    for attribute in function.split("."):
        program = getattr(program, attribute)
    found = os.stat(path)
    chain.preloaded[found.st_dev, found.st_ino] = caller(program)  # type: ignore[arg-type]  # a callable it is


def caller(main: "Callable[[], object]") -> "chain.Caller":
    """What chain.become calls in place of exec: never returns, as exec does not."""

    def call(path: bytes, argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
        sys.argv[:] = [os.fsdecode(word) for word in (path, *argv[1:])]
        os.environb.clear()
        os.environb.update(environ)
        for number in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.excepthook = end_of_child
        try:
            sys.exit(main())  # type: ignore[arg-type]  # a console script's own line
        except SystemExit as leave:
            os._exit(finish(leave.code))

    return call


def finish(code: object) -> int:
    """What a script does when it ends: text goes to stderr, the exit functions run, the buffers are flushed."""
    status = code & 0xFF if isinstance(code, int) else 0 if code is None else 1
    if status and not isinstance(code, int):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return 120  # what Python itself exits with then
    return status


def end_of_child(kind: type[BaseException], error: BaseException, _: "TracebackType | None") -> "NoReturn":
    """An exception that the called program did not catch ends this child alone, with one line."""
    text = f"{kind.__name__}: {error}".replace("\n", " ")
    name = os.path.basename(sys.argv[0])
    strerr.die(strerr.TEMPORARY, name, ": fatal: ", text.encode("ascii", "backslashreplace"))


def fresh_streams() -> None:
    """Make sys.stdin, stdout and stderr as a program on a connection finds them, unused; once, before the forks.

    They are made while a socket stands on 0 and 1, because a stream remembers whether its descriptor can seek.
    """
    sys.stdin = open(0, closefd=False, encoding=sys.stdin.encoding, errors=sys.stdin.errors)
    sys.stdout = open(1, "w", closefd=False, encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")
