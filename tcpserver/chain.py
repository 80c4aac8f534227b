"""Become the next program of the chain, as djb's pathexec: same search, same errno, no shell.

Knows nothing of who calls it: tcpserver's child and every chain-loading tool end here.
"""

import errno
import os

DEFAULT_PATH = b"/bin:/usr/bin"  # pathexec_run.c, when PATH is unset
SEARCH_ON = (errno.EACCES, errno.EPERM, errno.EISDIR)  # pathexec_run.c: remembered, and the search goes on


def become(argv: list[bytes], environ: dict[bytes, bytes]) -> OSError:
    """Replace this process by argv[0], run with `environ`. Returns only on failure: the error that tells why.

    A name without a slash is looked for in the PATH of this process, not of `environ` (pathexec_run.c): a rule that
    sets PATH changes what the program sees, never which program is run.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in candidates(argv[0]):
        try:
            os.execve(path, argv, environ)
        except OSError as error:
            if error.errno in SEARCH_ON:
                failure = error
            elif error.errno != errno.ENOENT:
                return error
        except ValueError:  # a NUL in a word or a name that no environment can hold
            return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return failure


def candidates(name: bytes) -> list[bytes]:
    """The paths to try for a program name, in order. An empty PATH component means the current directory."""
    if b"/" in name:
        return [name]
    if not name:
        return []
    return [(directory or b".") + b"/" + name for directory in os.environb.get(b"PATH", DEFAULT_PATH).split(b":")]
