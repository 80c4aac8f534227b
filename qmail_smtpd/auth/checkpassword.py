"""Run a checkpassword program: what it has to check on its descriptor 3, the verdict in its exit status.

The interface is djb's (cr.yp.to/checkpwd/interface.html). Knows no SMTP.
"""

import errno
import os
from _signal import SIGPIPE, SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free
from select import POLLIN
from time import monotonic, sleep

from qmail_smtpd.child import start
from qmail_smtpd.net.wire import ready
from tcpserver import chain

FIELDS_DESCRIPTOR = 3
LONGEST_FIELDS = 512  # bytes: what the interface promises to a checker. They fit into a pipe that nobody reads yet
PATIENCE = 30.0  # seconds for a checker; a DNS or LDAP question has its own, shorter, limits
BETWEEN_LOOKS = 0.01  # seconds
MISUSED = 2  # the checker says that we called it wrongly
TROUBLE = 100  # this exit code and all above it are no verdict: 111 is a temporary failure, 126 and 127 a shell's
NO = b"password"


def why_not(program: list[bytes], environ: dict[bytes, bytes], fields: bytes, deadline: float | None) -> bytes | None:
    """None if the checker says yes; NO if it says no; else what was wrong with it, one word. Raises OSError.

    A checker without a slash in its name is looked for in PATH, as ever. Such a name may be another program's, so its
    yes counts only if it has read what it was to check.
    """
    null = os.open(b"/dev/null", os.O_RDONLY)
    try:
        pid, fields_end = launch(program, environ, fields, {0: null, 1: 2})  # the client's connection is not for it
    finally:
        os.close(null)
    try:
        reason = verdict(pid, deadline)
        unread = reason is None and b"/" not in program[0] and os.read(fields_end, 1)
        return b"unread" if unread else reason
    finally:
        os.close(fields_end)


def launch(
    program: list[bytes], environ: dict[bytes, bytes], fields: bytes, descriptors: dict[int, int]
) -> tuple[int, int]:
    """Start the program, found as exec finds it, with `descriptors` (its own -> ours) and the fields on descriptor 3.

    Returns its pid, and a reading end of the pipe, for whoever wants to know what it has left there. SIGPIPE is at its
    default: sig_pipedefault in qmail-smtpd.c of the patches, and in qmail-popup.c. Raises OSError.
    """
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    fields_end = filled_pipe(fields)
    for path in chain.candidates(program[0]):
        try:
            pid = start(path, program, environ, {**descriptors, FIELDS_DESCRIPTOR: fields_end}, (SIGPIPE, SIGXFSZ))
        except OSError as error:
            if error.errno != errno.ENOENT:
                failure = error
        else:
            return pid, fields_end
    os.close(fields_end)
    raise failure


def filled_pipe(fields: bytes) -> int:
    """The reading end of a pipe that holds the fields and has no writer any more."""
    assert len(fields) <= LONGEST_FIELDS
    reader, writer = os.pipe()
    try:
        os.write(writer, fields)
    finally:
        os.close(writer)
    return reader


def verdict(pid: int, deadline: float | None) -> bytes | None:
    """What the checker says, as `why_not` says it. One that does not end is killed."""
    try:
        in_time = ends(pid, deadline)
        if not in_time:
            os.kill(pid, 9)
        status = os.waitpid(pid, 0)[1]
    except (ChildProcessError, ProcessLookupError):  # somebody else has taken it
        return judge(None)
    return judge(status) if in_time else b"timeout"


def ends(pid: int, deadline: float | None) -> bool:
    """Wait until the process has ended, for PATIENCE, and never longer than the session may last."""
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):  # Linux before 5.3, some sandboxes, FreeBSD: look again and again
        last = monotonic() + PATIENCE if deadline is None else min(monotonic() + PATIENCE, deadline)
        while not (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and monotonic() < last:
            sleep(BETWEEN_LOOKS)
        return ended is not None
    try:
        return ready(handle, POLLIN, PATIENCE, deadline)
    finally:
        os.close(handle)


def judge(status: int | None) -> bytes | None:
    """The verdict in a wait status, None for one that is lost. Only an exit code of 0 is a yes."""
    if status is None:
        return b"no-status"
    if os.WIFSIGNALED(status):
        return b"signal-%d" % os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    if code == 0:
        return None
    return b"exit-%d" % code if code == MISUSED or code >= TROUBLE else NO
