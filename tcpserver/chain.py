"""Become the next program of the chain, as djb's pathexec does: the same search, the same errno, no shell.

tcpserver's child and every chain-loading program end here. Where the file that would be exec'd is the script of a
program that this process has loaded (registry.py), that program's main is called instead.
"""

import errno
import os
import sys
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # see process

from tcpserver.registry import find_loaded
from tcpserver.registry import freed_memory_is_wiped as freed_memory_is_wiped
from tcpserver.registry import loaded_program as loaded_program
from tcpserver.registry import programs as programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tcpserver.registry import Program as Program

DEFAULT_PATH = b"/bin:/usr/bin"  # pathexec_run.c, when PATH is unset
SEARCH_ON = (errno.EACCES, errno.EPERM, errno.EISDIR)  # pathexec_run.c: remembered, and the search goes on
PYTHON_IGNORES = (SIGPIPE, SIGXFSZ)  # Python ignores them from its start on; a C program does not


def become(
    argv: list[bytes],
    environ: dict[bytes, bytes] | None,
    name: bytes | None = None,
    own: "Mapping[bytes, bytes] | None" = None,
) -> OSError:
    """Replace this process by the program `name`, by default argv[0]. Returns the error if that fails.

    None for `environ`: run it with os.environ. The caller then promises that it has touched neither streams nor signals
    and has left no descriptor open; a loaded program starts 0.3 ms faster.

    A name without a slash is searched in the PATH of the program that calls, not in that of `environ` (pathexec_run.c):
    a rule that sets PATH changes where tcpserver's program searches, never which program tcpserver runs.
    `own`: the environment of the program that calls, which in a worker is not this process's; None: this process's.
    """
    name = argv[0] if name is None else name
    failure = not_found(name)
    for path in candidates(name, own):
        if programs and (program := loaded_program(path)):
            program(path, argv, environ)
        try:
            execute(path, argv, environ)
        except OSError as error:
            if error.errno in SEARCH_ON:
                failure = error
            elif error.errno != errno.ENOENT:
                return error
        except ValueError:  # a NUL in a word, or a name that no environment can hold
            return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return failure


def become_rest() -> OSError:
    """Become the program that sys.argv names after this program's own name. As `become` with None, but cheaper."""
    words = sys.argv[1:]
    if programs and "/" in words[0] and (program := loaded_program(words[0])):
        program.run(words)
    return become([os.fsencode(word) for word in words], None)


def serve_rest(environ: dict[bytes, bytes]) -> int:
    """Run the program that sys.argv names after this program's own name; return its exit status.

    `environ` is this program's own environment, and becomes that of the next one.

    Returns only where the program is loaded, and serves a connection as a function (registry.Program). Otherwise this
    process becomes the program. Raises OSError where it cannot be run.
    """
    words = sys.argv[1:]
    found = find_loaded(candidates(os.fsencode(words[0]), environ))
    if found and found[0].serve_connection:
        sys.argv[:] = [os.fsdecode(found[1]), *words[1:]]
        return found[0].serve_connection(environ)
    raise become([os.fsencode(word) for word in words], environ, own=environ)


def exit_status(code: object) -> int:
    """The exit status for what a main function returned, or what SystemExit carries."""
    if isinstance(code, int):
        return code & 0xFF if -(2**63) <= code < 2**63 else 0xFF  # pythonrun.c: a long, else -1
    return 0 if code is None else 1


def execute(path: bytes, argv: list[bytes], environ: dict[bytes, bytes] | None) -> None:
    """exec. The signals that Python ignores first get their default action, as a C program would have left them."""
    for number in PYTHON_IGNORES:
        signal(number, SIG_DFL)
    if environ is None:
        os.execv(path, argv)
    else:
        os.execve(path, argv, environ)


def not_found(name: bytes) -> OSError:
    """The error where no candidate exists. For an empty name the original tries the directories of PATH themselves."""
    number = errno.ENOENT if name else errno.EACCES
    return OSError(number, os.strerror(number))


def candidates(name: bytes, environ: "Mapping[bytes, bytes] | None" = None) -> list[bytes]:
    """The paths to try for a program name, in order. An empty PATH component means the current directory.

    `environ` has the PATH to search; None: the environment of this process. In a worker, that is not the client's.
    """
    if b"/" in name:
        return [name]
    if not name:
        return []
    path = (os.environb if environ is None else environ).get(b"PATH", DEFAULT_PATH)
    return [(directory or b".") + b"/" + name for directory in path.split(b":")]
