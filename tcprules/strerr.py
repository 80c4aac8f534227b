"""Messages to the administrator: `prog: fatal: unable to ...: why`, exit 100 or 111, djb's texts for errno.

The texts are those of error_str.c in ucspi-tcp 0.88, not of strerror(3), because log parsers know them. Messages are
raw bytes, as in 0.88: the caller must have filtered the bytes of a client.
"""

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

PERMANENT = 100  # usage or syntax error: trying again will not help
TEMPORARY = 111  # system error: trying again may help

WORDS = {
    0: "no error",
    errno.EINTR: "interrupted system call",
    errno.ENOMEM: "out of memory",
    errno.ENOENT: "file does not exist",
    errno.ETXTBSY: "text busy",
    errno.EIO: "input/output error",
    errno.EEXIST: "file already exists",
    errno.ETIMEDOUT: "timed out",
    errno.EINPROGRESS: "operation in progress",
    errno.EAGAIN: "temporary failure",
    errno.EPIPE: "broken pipe",
    errno.EPERM: "permission denied",
    errno.EACCES: "access denied",
    errno.ENXIO: "device not configured",
    errno.EPROTO: "protocol error",
    errno.EISDIR: "is a directory",
    errno.ESRCH: "no such process",
    errno.E2BIG: "argument list too long",
    errno.ENOEXEC: "exec format error",
    errno.EBADF: "file descriptor not open",
    errno.ECHILD: "no child processes",
    errno.EDEADLK: "operation would cause deadlock",
    errno.EFAULT: "bad address",
    errno.ENOTBLK: "not a block device",
    errno.EBUSY: "device busy",
    errno.EXDEV: "cross-device link",
    errno.ENODEV: "device does not support operation",
    errno.ENOTDIR: "not a directory",
    errno.EINVAL: "invalid argument",
    errno.ENFILE: "system cannot open more files",
    errno.EMFILE: "process cannot open more files",
    errno.ENOTTY: "not a tty",
    errno.EFBIG: "file too big",
    errno.ENOSPC: "out of disk space",
    errno.ESPIPE: "unseekable descriptor",
    errno.EROFS: "read-only file system",
    errno.EMLINK: "too many links",
    errno.EDOM: "input out of range",
    errno.ERANGE: "output out of range",
    errno.EALREADY: "operation already in progress",
    errno.ENOTSOCK: "not a socket",
    errno.EDESTADDRREQ: "destination address required",
    errno.EMSGSIZE: "message too long",
    errno.EPROTOTYPE: "incorrect protocol type",
    errno.ENOPROTOOPT: "protocol not available",
    errno.EPROTONOSUPPORT: "protocol not supported",
    errno.ESOCKTNOSUPPORT: "socket type not supported",
    errno.EOPNOTSUPP: "operation not supported",
    errno.EPFNOSUPPORT: "protocol family not supported",
    errno.EAFNOSUPPORT: "address family not supported",
    errno.EADDRINUSE: "address already used",
    errno.EADDRNOTAVAIL: "address not available",
    errno.ENETDOWN: "network down",
    errno.ENETUNREACH: "network unreachable",
    errno.ENETRESET: "network reset",
    errno.ECONNABORTED: "connection aborted",
    errno.ECONNRESET: "connection reset",
    errno.ENOBUFS: "out of buffer space",
    errno.EISCONN: "already connected",
    errno.ENOTCONN: "not connected",
    errno.ESHUTDOWN: "socket shut down",
    errno.ECONNREFUSED: "connection refused",
    errno.ELOOP: "symbolic link loop",
    errno.ENAMETOOLONG: "file name too long",
    errno.EHOSTDOWN: "host down",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENOTEMPTY: "directory not empty",
    errno.EDQUOT: "disk quota exceeded",
    errno.ESTALE: "stale NFS file handle",
    errno.ENOLCK: "no locks available",
    errno.ENOSYS: "system call not available",
    errno.EBADMSG: "bad message type",
}

PATIENCE = 1000  # milliseconds that the reader of descriptor 2 may stall before a line is lost
PIPE_BUF = 4096  # pipe(7): as much as a pipe that polls writable takes without blocking

patience = PATIENCE
silent = False


def reason(error: OSError) -> str:
    """Return djb's text for the error, or `unknown error`."""
    return WORDS.get(error.errno or 0, "unknown error")


def occupy_standard_descriptors() -> None:
    """Open those of descriptors 0 to 2 that are closed, so that no file gets such a number and receives our messages.

    Reading and writing fail with EBADF, as on a closed descriptor. print would lose its text without an error.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)


def quiet() -> None:
    """Print nothing from now on, as for -q (tcpserver.c closes its buffer for descriptor 2)."""
    global silent
    silent = True


def goes_to_client() -> bool:
    """Whether descriptor 2 is the client's connection, as under inetd: descriptor 0, or a socket on descriptor 1.

    A terminal never is, and neither is a pipe that takes both outputs (`2>&1 | cat`).
    """
    from stat import S_ISSOCK

    try:
        standard_input, output, log = map(os.fstat, range(3))
        if os.isatty(2):
            return False
    except OSError:  # a descriptor is closed
        return False
    same = os.path.samestat
    return same(log, standard_input) or (same(log, output) and S_ISSOCK(output.st_mode))


def say(*parts: str | bytes) -> None:
    """Write the parts as one line to descriptor 2. The line is lost if the descriptor is closed or stays full."""
    if silent:
        return
    line = b"".join(os.fsencode(part) for part in parts) + b"\n"
    write(line)


def write(text: bytes) -> None:
    """Write to descriptor 2, in pieces that a pipe takes whole. If it is full for a second, the rest is lost."""
    global patience
    from select import POLLOUT, poll  # imported here because most processes write nothing

    poller = poll()
    poller.register(2, POLLOUT)
    try:
        while text and poller.poll(patience):
            text = text[os.write(2, text[:PIPE_BUF]) :]
    except OSError:
        return  # it is closed
    patience = 0 if text else PATIENCE  # a stalled reader is waited for only once


def report_bug(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """Write a traceback as the interpreter does, but without waiting for a stalled reader. Usable as sys.excepthook."""
    from traceback import format_exception

    write("".join(format_exception(kind, error, trace)).encode("utf-8", "backslashreplace"))


def die(status: int, *parts: str | bytes) -> "NoReturn":
    """Write the parts as a line, and exit with `status`: PERMANENT or TEMPORARY."""
    say(*parts)
    os._exit(status)
