"""Run a checkpassword program: the credentials on its descriptor 3, the verdict in its exit status.

The interface is djb's (cr.yp.to/checkpwd/interface.html). Knows no SMTP.
"""

import errno
import os
from _signal import SIGPIPE, SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free

from qmail_smtpd import child
from qmail_smtpd.auth.errors import WRONG_PASSWORD, WRONG_SCHEME
from qmail_smtpd.child import start
from tcpserver import chain

FIELDS_DESCRIPTOR = 3
LONGEST_FIELDS = 512  # bytes: the limit of the interface. So the fields fit into a pipe before the checker reads it
TIME_LIMIT = 30.0  # seconds for a checker; DNS and LDAP queries have shorter limits of their own
MISUSED = 2  # the checker's exit code for a wrong call
UNSUITABLE = 79  # the exit code of checkusers if it has only a hash and gets a digest of CRAM-MD5 or APOP
NO_VERDICT = 100  # exit codes from here on are no verdict: 111 is a temporary failure, 126 and 127 are a shell's


def check(program: list[bytes], environ: dict[bytes, bytes], fields: bytes, deadline: float | None) -> bytes | None:
    """Return None if the checker accepts, WRONG_PASSWORD or WRONG_SCHEME if it refuses, else one word for its failure.

    Raises OSError. A checker without a slash in its name is searched for in PATH, as in the original. Such a name may
    be that of another program, so exit code 0 counts only if the program has read the fields.
    """
    null = os.open(b"/dev/null", os.O_RDONLY)
    try:
        pid, fields_end = launch(program, environ, fields, {0: null, 1: 2})  # not the client's connection
    finally:
        os.close(null)
    try:
        reason = wait_for_verdict(pid, deadline)
        unread = reason is None and b"/" not in program[0] and os.read(fields_end, 1)
        return b"unread" if unread else reason
    finally:
        os.close(fields_end)


def launch(
    program: list[bytes], environ: dict[bytes, bytes], fields: bytes, descriptors: dict[int, int]
) -> tuple[int, int]:
    """Start the program, found by `start_found`, with `descriptors` (see child.py) and the fields on descriptor 3.

    Return its pid, and a read end of the pipe, which shows what the program has not read. SIGPIPE has its default
    action: sig_pipedefault in qmail-smtpd.c of the patches, and in qmail-popup.c. Raises OSError.
    """
    fields_end = filled_pipe(fields)
    try:
        return start_found(program, environ, {**descriptors, FIELDS_DESCRIPTOR: fields_end}), fields_end
    except OSError:
        os.close(fields_end)
        raise


def start_found(program: list[bytes], environ: dict[bytes, bytes], descriptors: dict[int, int]) -> int:
    """Start the program, found in the PATH of `environ`, with `descriptors` (see child.py). Return its pid.

    Raises OSError.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in chain.candidates(program[0], environ):
        try:
            return start(path, program, environ, descriptors, (SIGPIPE, SIGXFSZ))
        except OSError as error:
            if error.errno != errno.ENOENT:
                failure = error
    raise failure


def filled_pipe(fields: bytes) -> int:
    """Return the read end of a pipe that contains the fields. Its write end is closed."""
    assert len(fields) <= LONGEST_FIELDS
    reader, writer = os.pipe()
    try:
        os.write(writer, fields)
    finally:
        os.close(writer)
    return reader


def wait_for_verdict(pid: int, deadline: float | None) -> bytes | None:
    """Wait for the checker, and return its verdict as `check` does. Kill a checker that exceeds the time limit."""
    try:
        in_time = ends_in_time(pid, deadline)
        if not in_time:
            os.kill(pid, 9)
        status = os.waitpid(pid, 0)[1]
    except (ChildProcessError, ProcessLookupError):  # the status was collected elsewhere
        return verdict_of(None)
    if not in_time and os.WIFSIGNALED(status):
        return b"timeout"
    return verdict_of(status)  # also of a checker that ended before the signal came


def ends_in_time(pid: int, deadline: float | None) -> bool:
    """Wait until the process has ended, for at most TIME_LIMIT and not beyond the session's deadline."""
    return child.ends_in_time(pid, TIME_LIMIT, deadline)


def verdict_of(status: int | None) -> bytes | None:
    """Return the verdict in a wait status (None: lost). Only exit code 0 accepts."""
    if status is None:
        return b"no-status"
    if os.WIFSIGNALED(status):
        return b"signal-%d" % os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if code == 0:
        return None
    if code == UNSUITABLE:
        return WRONG_SCHEME
    return b"exit-%d" % code if code == MISUSED or code >= NO_VERDICT else WRONG_PASSWORD
