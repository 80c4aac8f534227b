"""Console scripts that are loaded before the first client, and called where a file would be exec'd (--preload).

A script that is called behaves as one that is exec'd: same words, environment, descriptors, signals, streams, end. Does
not decide when (launch.py, chain.py), and forks nothing.
"""

import os
import sys
from _signal import (  # type: ignore[import-not-found]  # see launch
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGINT,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
)
from atexit import _ncallbacks, _run_exitfuncs  # by their names: to look into a module costs a child 3 pages
from os import _exit, putenv, unsetenv

from tcprules import strerr
from tcpserver import chain, hooks
from tcpserver.environ import Edits
from tcpserver.streams import flush, fresh_streams, streams_off_the_connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

DESCRIPTORS = "/proc/self/fd"
WITHOUT_NUMBER = (b"TCPREMOTEIP", b"TCPREMOTEPORT")  # variables with ever new values
BROKEN_OUTPUT = 120  # what Python itself exits with when it cannot flush its standard output
UNCAUGHT = object()  # in place of what a program returns
UNSET = object()  # in place of a value that is not staged

variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # through os.environb it is 8 pages more
modules_own: set[str] = set()  # descriptors that preloaded modules opened: an exec'd script would have opened its own
outlived: list[object] = []  # streams of programs that have become another: what they still hold is lost, as with exec


class Unloadable(Exception):
    """A script cannot be preloaded; the text is the fatal line without its prefix."""


def preload_all(specifications: list[str]) -> None:
    """Load the mains of console scripts, each `MODULE:FUNCTION:PATH` as cli.py found it. To be called without root."""
    if not specifications:
        return
    before = open_descriptors()
    for specification in specifications:
        preload(specification)
    hooks.before_fork(dict(os.environb))
    modules_own.update(open_descriptors() - before)
    streams_off_the_connection()


def preload(specification: str) -> None:
    """Import one main, and let its script be known to chain.become. Raises Unloadable."""
    module, function, path = specification.split(":", 2)
    try:
        program: Any = __import__(module, fromlist=[function])
        for attribute in function.split("."):
            program = getattr(program, attribute)
        found = os.stat(path)
    except (ImportError, AttributeError, OSError) as error:
        raise Unloadable(f"unable to preload {os.path.basename(path)}: {error}") from error
    serve = getattr(sys.modules[module], "serve_client", None) if function == "main" else None
    chain.preloaded[found.st_dev, found.st_ino] = Script(program, serve)
    hooks.learn(sys.modules[module])


def preloaded(paths: list[bytes]) -> "tuple[Script, bytes] | None":
    """The script, and its path, that exec's search through these paths would end at, if it is preloaded."""
    for path in paths if chain.preloaded else ():
        script = chain.preloaded_as(path)
        if script:
            return script, path
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return None
    return None


def exec_only() -> None:
    """In a child with a thread that hangs: from now on even a preloaded script is exec'd, which ends the thread."""
    chain.preloaded.clear()


class Script:
    """A preloaded console script: what chain.become calls in place of exec. Never returns, as exec does not."""

    __slots__ = ("main", "serve")

    def __init__(self, main: "Callable[[], object]", serve: "Callable[[], object] | None" = None) -> None:
        self.main = main
        self.serve = serve  # what the module offers to call again and again: serves one client

    def __call__(self, path: bytes, argv: list[bytes], environ: dict[bytes, bytes] | None) -> "NoReturn":
        """Run with this path, these words and exactly this environment, in whatever state the process is in.

        None for `environ`: in a process whose environment, streams, signals and descriptors are right (chain.become).
        """
        if environ is not None:
            change_environment(environ)
            leave_behind()
        self.run([os.fsdecode(word) for word in (path, *argv[1:])])

    def run(self, words: list[str]) -> "NoReturn":
        """Run as a script whose environment, signals and streams are right already."""
        sys.argv[:] = words
        signal(SIGINT, default_int_handler)
        perform(self.main)


def perform(main: "Callable[[], object]", forked: bool = False) -> "NoReturn":
    """Call a main where words, environment, streams and signals are right, and end the process as its script would.

    Its errors end here: whoever has called, in the process that this was, must not take them for its own. Signals wait
    in a process that has just been forked: they come now, and a SIGINT is the program's.
    """
    code: object = UNCAUGHT
    try:
        if forked:
            pthread_sigmask(SIG_SETMASK, ())
        code = main()
    except SystemExit as leave:
        code = leave.code
    finally:
        if code is UNCAUGHT:
            uncaught()
            _exit(finish(1))
    _exit(finish(code))


def leave_behind() -> None:
    """What exec does besides: handlers, descriptors that are marked so, and what stood in the old streams are gone."""
    for number in range(1, 32):
        if callable(getsignal(number)):
            signal(number, SIG_DFL)
    for number in chain.PYTHON_IGNORES:
        signal(number, SIG_IGN)
    for name in open_descriptors() - modules_own:
        try:
            if not os.get_inheritable(int(name)):
                os.close(int(name))
        except OSError:
            continue  # the directory that was listed
    outlived.append((sys.stdin, sys.stdout, sys.stderr))
    sys.excepthook = sys.__excepthook__
    fresh_streams()


def open_descriptors() -> set[str]:
    """The numbers of this process's descriptors, as far as /proc tells."""
    try:
        return {number for number in os.listdir(DESCRIPTORS) if is_open(int(number))}
    except OSError:
        return set()


def is_open(descriptor: int) -> bool:
    """Not so the one by which the list was read."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Stage:
    """What the parent can set of the environment before it forks: what is the same for one client after the other.

    Every page of memory that a process writes to after a fork is copied, some 2 microseconds each, and Python writes
    to whatever it looks at; what the parent has set, its children need not touch. But setenv(3) never forgets a value
    that it has seen: those without number are left to the child.
    """

    __slots__ = ("base", "staged")

    def __init__(self, base: dict[bytes, bytes]) -> None:
        self.base = base
        self.staged: dict[bytes, bytes | None] = {}
        change_environment(base)
        for name in WITHOUT_NUMBER:
            put(name, b"")  # a child then finds a place for its value, and need not move them all

    def set(self, edits: Edits) -> None:
        """In the parent: make os.environ the base with these edits, but for what is left to the child."""
        wanted = {name: value for name, value in edits if name not in WITHOUT_NUMBER}
        if wanted == self.staged:
            return
        for name in self.staged.keys() - wanted.keys():
            put(name, self.base.get(name))
        for name, value in wanted.items():
            put(name, value)
        self.staged = wanted

    def left(self, edits: Edits) -> Edits:
        """What a child has to change for these edits to be complete."""
        wanted = dict(edits)
        absent = [(name, self.base.get(name)) for name in self.staged if name not in wanted]
        return absent + [(name, value) for name, value in wanted.items() if self.staged.get(name, UNSET) != value]


def put(name: bytes, value: bytes | None) -> None:
    """Set a variable of os.environ, or remove it."""
    if value is not None:
        variables[name] = value
        putenv(name, value)
    elif name in variables:
        del variables[name]
        unsetenv(name)


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
    status = 0 if code is None else exit_status(code)
    if status and not isinstance(code, int):
        print(code, file=sys.stderr or sys.__stderr__)
    if _ncallbacks():
        _run_exitfuncs()
    return status if flush() else BROKEN_OUTPUT


def exit_status(code: object) -> int:
    """The status for what main() returned, or SystemExit carries."""
    if isinstance(code, int):
        return code & 0xFF if -(2**63) <= code < 2**63 else 0xFF  # pythonrun.c: a long, else -1
    return 0 if code is None else 1


def uncaught() -> None:
    """An exception that the called program did not catch ends this child alone, with one line, unless it has a hook."""
    error = sys.exception()
    assert error is not None
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, error.__traceback__)
        return
    text = f"{type(error).__name__}: {error}".removesuffix(": ").replace("\n", " ")
    name = os.path.basename(sys.argv[0])
    strerr.die(strerr.TEMPORARY, name, ": fatal: ", text.encode("ascii", "backslashreplace"))
