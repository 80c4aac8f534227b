"""The three ways to run the program for a connection: spawn, fork and exec, fork and call.

spawn() serves the parent that has nothing slow to ask; replace() ends a forked child, by exec, or by a call where the
program is preloaded. Decides nothing about the client.
"""

import atexit
import errno
import os
import sys
from _signal import (  # type: ignore[import-not-found]  # signal's own functions wrap these in enums: 86 page faults
    SIG_DFL,
    SIG_IGN,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGSTOP,
    SIGXFSZ,
    default_int_handler,
    getsignal,
    set_wakeup_fd,
    signal,
)

from tcprules import strerr
from tcpserver import chain
from tcpserver.environ import Edits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from types import TracebackType
    from typing import Any, NoReturn

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # what fork itself says
CATCHABLE = [n for n in range(1, 32) if n not in (SIGKILL, SIGSTOP)]
PYTHON_IGNORES = (SIGPIPE, SIGXFSZ)  # what a fresh interpreter ignores


class Signals:
    """What this process does with signals that a program must not inherit: looked at once, before the first client."""

    __slots__ = ("caught", "for_a_call", "ignored")

    def __init__(self) -> None:
        self.ignored = [number for number in CATCHABLE if getsignal(number) == SIG_IGN]
        self.caught = [number for number in CATCHABLE if getsignal(number) not in (SIG_IGN, SIG_DFL, None)]
        self.for_a_call = [number for number in self.caught + self.ignored if number not in PYTHON_IGNORES]


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


def fork(parents: list[int]) -> int:
    """Fork; in the child give up what is the parent's own, the wake-up descriptor first, and return 0.

    What the child then does stands outside of the parent's `try`: its errors must not be taken for fork's.
    """
    pid = os.fork()
    if not pid:
        set_wakeup_fd(-1)
        for descriptor in parents:
            os.close(descriptor)
    return pid


def say(line: bytes) -> None:
    """In a child: write a line to descriptor 2; one that is closed is nobody's fault."""
    try:
        os.write(2, line)
    except OSError:
        return


def replace(argv: list[bytes], environ: dict[bytes, bytes], connection: int, signals: Signals) -> OSError:
    """In a forked child: put the connection on descriptors 0 and 1, every signal to its default, and become argv[0].

    Returns only on failure, with the error.
    """
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    for number in signals.caught + signals.ignored:
        signal(number, SIG_DFL)
    return chain.become(argv, environ)


def preloaded(argv: list[bytes]) -> "Script | None":
    """The script that exec's search would end at, if it is preloaded."""
    for path in chain.candidates(argv[0]) if chain.preloaded else ():
        script = chain.preloaded_as(path)
        if script or (os.access(path, os.X_OK) and os.path.isfile(path)):
            return script
    return None


def exec_only() -> None:
    """In a child with a thread that hangs: from now on even a preloaded script is exec'd, which ends the thread."""
    chain.preloaded.clear()


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
    program: Any = __import__(module, fromlist=[function])
    for attribute in function.split("."):
        program = getattr(program, attribute)
    found = os.stat(path)
    chain.preloaded[found.st_dev, found.st_ino] = Script(program)


class Script:
    """A preloaded console script: what chain.become calls in place of exec. Never returns, as exec does not."""

    __slots__ = ("main",)

    def __init__(self, main: "Callable[[], object]") -> None:
        self.main = main

    def __call__(self, path: bytes, argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
        """Run with this path, these words and exactly this environment."""
        change_environment(environ)
        for number in PYTHON_IGNORES:
            signal(number, SIG_IGN)
        self.run([path, *argv[1:]])

    def run(self, words: list[bytes]) -> "NoReturn":
        """Run as a script whose environment and signals are right already."""
        sys.argv[:] = [os.fsdecode(word) for word in words]
        signal(SIGINT, default_int_handler)
        sys.excepthook = end_of_child
        try:
            code = self.main()
        except SystemExit as leave:
            code = leave.code
        os._exit(finish(code))


class Stage:
    """Set by the parent for one call: os.environ is what the child will find. It is put back by the next one's.

    Every page of memory that a process writes to after a fork is copied, some 3 microseconds each, and Python writes
    to whatever it looks at. The parent's pages are in use anyway; what it prepares, its child need not touch.
    """

    __slots__ = ("base", "changed")

    def __init__(self, base: dict[bytes, bytes]) -> None:
        self.base = base
        self.changed: set[bytes] = set()
        change_environment(base)

    def set(self, edits: Edits) -> None:
        """Make os.environ the base with these edits."""
        environ = os.environb
        changed = {name for name, _ in edits}
        for name in self.changed - changed:
            put(environ, name, self.base.get(name))
        for name, value in edits:
            put(environ, name, value)
        self.changed = changed


def put(environ: "MutableMapping[bytes, bytes]", name: bytes, value: bytes | None) -> None:
    """Set a variable, or remove it."""
    if value is not None:
        environ[name] = value
    elif name in environ:
        del environ[name]


def call(script: "Script", argv: list[bytes], connection: int, signals: Signals) -> "NoReturn":
    """In a forked child: run a preloaded script on the connection, in the environment that the parent has set."""
    os.dup2(connection, 0)
    os.dup2(connection, 1)
    os.close(connection)
    for number in signals.for_a_call:
        signal(number, SIG_DFL)
    script.run(argv)


def change_environment(environ: dict[bytes, bytes]) -> None:
    """Make os.environ what `environ` says, touching what differs: setting all anew costs 0.7 ms of page faults."""
    current = os.environb
    for name in [name for name in current if name not in environ]:
        del current[name]
    for name, value in environ.items():
        if current.get(name) != value:
            current[name] = value


def finish(code: object) -> int:
    """What a script does when it ends: text goes to stderr, the exit functions run, the buffers are flushed."""
    status = code & 0xFF if isinstance(code, int) else 0 if code is None else 1
    if status and not isinstance(code, int):
        print(code, file=sys.stderr)
    if atexit._ncallbacks():
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
