"""A console script that is loaded already, and is called where its file would be exec'd.

A script that is called behaves as one that is exec'd: the same words, environment, descriptors, signals, streams, and
end. Does not decide when (launch.py, chain.py), and forks nothing.
"""

import os
import sys
from _signal import (  # type: ignore[import-not-found]  # see process
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
from os import _exit

from tcprules import strerr
from tcpserver import chain
from tcpserver.child.streams import flush, make_streams
from tcpserver.process import change_environment, open_descriptors, set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

BROKEN_OUTPUT = 120  # what Python itself exits with when it cannot flush its standard output
UNCAUGHT = object()  # in place of what a program returns

replaced: list[object] = []  # streams of programs that have become another: what they still hold is lost, as with exec


class Script:
    """A loaded console script: what chain.become calls in place of exec. Never returns, as exec does not."""

    __slots__ = ("main", "offers", "serve_client", "serve_connection")

    module_descriptors: frozenset[str] = (
        frozenset()
    )  # opened by loaded modules: an exec'd script would have opened its own

    def __init__(self, main: "Callable[[], object]", offers: "Mapping[str, Any]") -> None:
        self.main = main
        self.offers = offers  # the names of its module; empty where the main is another function of it
        self.serve_client: Callable[[], object] | None = self.offer("serve_client")
        self.serve_connection: Callable[[dict[bytes, bytes]], int] | None = self.offer("serve_connection")

    def offer(self, name: str) -> "Any":
        """The function of this name in the program's module; None without one."""
        return self.offers.get(name)

    @property
    def is_reusable(self) -> bool:
        """Whether a worker can call it for one client after the other."""
        return bool(self.serve_client or self.serve_connection)

    def __call__(self, path: bytes, argv: list[bytes], environ: dict[bytes, bytes] | None) -> "NoReturn":
        """Run with this path, these words and exactly this environment, in whatever state the process is in.

        None for `environ`: the process's environment, streams, signals and descriptors are right (chain.become).
        """
        if environ is not None:
            change_environment(environ)
            leave_behind(self.module_descriptors)
        self.run([os.fsdecode(word) for word in (path, *argv[1:])])

    def run(self, words: list[str]) -> "NoReturn":
        """Run as a script whose environment, signals and streams are right already."""
        sys.argv[:] = words
        signal(SIGINT, default_int_handler)
        perform(self.main)


def perform(main: "Callable[[], object]", forked: bool = False) -> "NoReturn":
    """Call a main where words, environment, streams and signals are right, and end the process as its script would.

    No exception reaches the caller, which would take it for one of its own. With `forked`, signals are still blocked:
    they are delivered from here on, and a SIGINT reaches the program.
    """
    code: object = UNCAUGHT
    set_title(sys.argv)
    try:
        if forked:
            pthread_sigmask(SIG_SETMASK, ())
        code = main()
    except SystemExit as leave:
        code = leave.code
    finally:
        if code is UNCAUGHT:
            report_uncaught()
            _exit(finish(1))
    _exit(finish(code))


def leave_behind(keep: frozenset[str]) -> None:
    """Do the rest of what exec does: reset handlers, close non-inheritable descriptors except `keep`, renew streams."""
    for number in range(1, 32):
        if callable(getsignal(number)):
            signal(number, SIG_DFL)
    for number in chain.PYTHON_IGNORES:
        signal(number, SIG_IGN)
    for name in open_descriptors() - keep:
        try:
            if not os.get_inheritable(int(name)):
                os.close(int(name))
        except OSError:
            continue  # the directory that was listed
    replaced.append((sys.stdin, sys.stdout, sys.stderr))
    sys.excepthook = sys.__excepthook__
    make_streams()


def finish(code: object) -> int:
    """What a script does when it ends: text goes to stderr, the exit functions run, the buffers are flushed."""
    status = chain.exit_status(code)
    if status and not isinstance(code, int):
        print(code, file=sys.stderr or sys.__stderr__)
    if _ncallbacks():
        _run_exitfuncs()
    return status if flush() else BROKEN_OUTPUT


def report_uncaught() -> None:
    """Report an exception that the called program did not catch: one line, or what the program's own hook prints."""
    error = sys.exception()
    assert error is not None
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, error.__traceback__)
        return
    text = f"{type(error).__name__}: {error}".removesuffix(": ").replace("\n", " ")
    name = os.path.basename(sys.argv[0])
    strerr.die(strerr.TEMPORARY, name, ": fatal: ", text.encode("ascii", "backslashreplace"))
