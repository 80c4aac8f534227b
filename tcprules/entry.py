"""The first module of every program: load the rest, and report in one line if that fails.

Neither a memory limit of the run script (softlimit -m) that is too small for a program nor Ctrl-C may end in a
traceback. Imports only what every interpreter has loaded. The programs of qmail_smtpd are in its own entry.py.
"""

import os
import sys
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

TEMPORARY = 111
NO_MEMORY = "out of memory"
COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")  # pylifecycle.c: what PEP 538 sets LC_CTYPE to
PATIENCE = 1000  # milliseconds, as in strerr.py, which is not imported: memory may be missing


def start(program: str, module: str, function: str = "main", status: int = TEMPORARY) -> "NoReturn":
    """Call the main function of a module. If memory is missing, print one line and exit with `status`.

    SIGINT ends the program as it ends one in C, unless it is ignored, or the program catches it.
    """
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    undo_coercion()
    sys.excepthook = lambda kind, error, trace: report_bug(program, status, kind, error, trace)
    try:
        main = getattr(__import__(module, fromlist=[function]), function)
    except (MemoryError, SystemError):  # CPython 3.11 loses some MemoryErrors: "error return without exception set"
        fail(program, NO_MEMORY, status)
    except (ImportError, OSError, SyntaxError) as error:
        # Without memory for a shared library: ImportError; for the compiler of 3.13: SyntaxError "invalid syntax".
        fail(program, f"unable to load {module}: {error}", status)
    try:
        sys.exit(main())
    except (MemoryError, SystemError) as error:
        if not is_scarcity(error):
            raise
        fail(program, NO_MEMORY, status)


def undo_coercion() -> None:
    """Restore LC_CTYPE, which the interpreter sets in the C locale (PEP 538), and which programs would inherit."""
    if os.environb.get(b"LC_CTYPE") not in COERCED:
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            given = [entry[9:] for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
    except (OSError, MemoryError):
        return
    if given:
        os.environb[b"LC_CTYPE"] = given[0]
    else:
        del os.environb[b"LC_CTYPE"]


def is_scarcity(error: BaseException) -> bool:
    """Whether memory is missing. CPython reports that as a SystemError where a function returns with it pending."""
    return isinstance(error, MemoryError) or isinstance(error.__cause__ or error.__context__, MemoryError)


def fail(program: str, text: str, status: int) -> "NoReturn":
    """Report and exit, with as little memory as possible."""
    try:
        if has_reader():
            os.write(2, f"{program}: fatal: {text}\n".encode("utf-8", "backslashreplace"))
    except (OSError, MemoryError):
        pass
    finally:
        os._exit(status)


def has_reader() -> bool:
    """Whether descriptor 2 is writable. True also if memory is missing to find out."""
    try:
        from select import POLLOUT, poll

        poller = poll()
        poller.register(2, POLLOUT)
        return bool(poller.poll(PATIENCE))
    except (ImportError, MemoryError, SystemError):
        return True


def report_bug(
    program: str, status: int, kind: type[BaseException], error: BaseException, trace: "TracebackType | None"
) -> None:
    """The excepthook of all programs. If memory is missing, one line replaces the traceback."""
    if is_scarcity(error):
        fail(program, NO_MEMORY, status)
    try:
        from tcprules import strerr

        strerr.report_bug(kind, error, trace)
    except (MemoryError, SystemError, ImportError) as another:
        if is_scarcity(another):
            fail(program, NO_MEMORY, status)
        sys.__excepthook__(kind, error, trace)


def tcprules() -> "NoReturn":
    start("tcprules", "tcprules.cli", "tcprules")


def tcprulescheck() -> "NoReturn":
    start("tcprulescheck", "tcprules.cli", "tcprulescheck")


def tcpserver() -> "NoReturn":
    start("tcpserver", "tcpserver.cli")
