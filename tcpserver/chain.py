"""Become the next program of the chain, as djb's pathexec: same search, same errno, no shell.

Knows nothing of who calls it: tcpserver's child and every chain-loading tool end here. Where the file that would be
exec'd is a script that tcpserver has preloaded, that script's main is called instead (launch.py fills the table).
"""

import errno
import os
import sys
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]  # the free half of signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpserver.script import Script

DEFAULT_PATH = b"/bin:/usr/bin"  # pathexec_run.c, when PATH is unset
SEARCH_ON = (errno.EACCES, errno.EPERM, errno.EISDIR)  # pathexec_run.c: remembered, and the search goes on
PYTHON_IGNORES = (SIGPIPE, SIGXFSZ)  # from its start on; a C program of the chain leaves them alone

preloaded: "dict[tuple[int, int], Script]" = {}  # (device, inode) of a script -> what runs it in this process


def become(argv: list[bytes], environ: dict[bytes, bytes] | None) -> OSError:
    """Replace this process by argv[0], run with `environ`. Returns only on failure: the error that tells why.

    None for `environ` says: run it with os.environ, and this program has touched neither streams nor signals, and left
    no descriptor open. Then a preloaded program has nothing to leave behind, and comes 0.3 ms cheaper.

    A name without a slash is looked for in the PATH of this process, not of `environ` (pathexec_run.c): a rule that
    sets PATH changes what the program sees, never which program is run.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in candidates(argv[0]):
        if preloaded and (script := preloaded_as(path)):
            script(path, argv, environ)
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


def go_on() -> OSError:
    """Become the program that sys.argv names behind this one's name, as `become` with None does, for still less."""
    words = sys.argv[1:]
    if preloaded and "/" in words[0] and (script := preloaded_as(words[0])):
        script.run(words)
    return become([os.fsencode(word) for word in words], None)


def execute(path: bytes, argv: list[bytes], environ: dict[bytes, bytes] | None) -> None:
    """exec, with the signals that Python ignores as a C program of the chain would have left them."""
    for number in PYTHON_IGNORES:
        signal(number, SIG_DFL)
    if environ is None:
        os.execv(path, argv)
    else:
        os.execve(path, argv, environ)


def preloaded_as(path: bytes | str) -> "Script | None":
    """What runs the script at `path` in this process, if that very file is preloaded and could be exec'd."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    script = preloaded.get((found.st_dev, found.st_ino))
    return script if script and os.access(path, os.X_OK) else None


def candidates(name: bytes) -> list[bytes]:
    """The paths to try for a program name, in order. An empty PATH component means the current directory."""
    if b"/" in name:
        return [name]
    if not name:
        return []
    return [(directory or b".") + b"/" + name for directory in os.environb.get(b"PATH", DEFAULT_PATH).split(b":")]
