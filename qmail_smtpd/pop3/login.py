"""One login: run the checker, wait for the end of the program that it becomes, and translate its exit status.

On its descriptor 3 the checker gets user, password or digest, and challenge. Its descriptors 0 and 1 are the client's
connection or, under TLS, one end of a tunnel.
"""

import errno
import os

from qmail_smtpd.auth.checkpassword import LONGEST_FIELDS, NO_VERDICT, launch, start_found, verdict_of
from qmail_smtpd.net.wire import Closed, TimedOut
from qmail_smtpd.pop3 import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.net.wire import Wire
    from qmail_smtpd.pop3.command import Commands

    Environ = dict[bytes, bytes]

# errno of a failure to start the checker -> the reply. Any other errno gets NOT_CHECKED.
START_FAILURES = {
    errno.EMFILE: replies.NO_PIPE,
    errno.ENFILE: replies.NO_PIPE,
    errno.EAGAIN: replies.NO_FORK,
    errno.ENOMEM: replies.NO_FORK,
}


def run(
    program: list[bytes], environ: "Environ", fields: bytes | None, wire: "Wire", commands: "Commands"
) -> tuple[bytes, bytes] | None:
    """Return None if the chain ended with exit code 0, else the reply and a word for the log.

    Without fields the login has succeeded already: the program is no checker, and no exit code is a refusal.

    The wire must have been flushed before. Under TLS, `commands` holds what the client sent after its password. If no
    program has accepted the login, those bytes are still there afterwards.
    """
    if fields is not None and len(fields) > LONGEST_FIELDS:
        return replies.AUTHORIZATION_FAILED, b"too-long"
    try:
        if wire.layer is None:
            status = run_directly(program, environ, fields)
        else:
            status = run_behind_tunnel(program, environ, fields, wire, commands)
    except OSError as error:
        from tcprules.strerr import reason

        why = b"start:" + reason(error).encode().replace(b" ", b"_")
        return START_FAILURES.get(error.errno or 0, replies.NOT_CHECKED), why
    if fields is None and status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status):
        return replies.NOT_SERVED, b"exit-%d" % os.WEXITSTATUS(status)
    verdict = verdict_of(status)
    return None if verdict is None else (reply(status), verdict)


def reply(status: int | None) -> bytes:
    """Return the reply to a client whose login failed, for a wait status or None.

    An exit code below NO_VERDICT is a refusal. That includes 2, with which checkpassword-pam refuses unknown users.
    """
    if status is None:
        return b""  # qmail-popup.c exits silently
    if os.WIFSIGNALED(status):
        return replies.CRASHED
    return replies.NOT_CHECKED if os.WEXITSTATUS(status) >= NO_VERDICT else replies.AUTHORIZATION_FAILED


def run_directly(program: list[bytes], environ: "Environ", fields: bytes | None) -> int | None:
    """Run the chain on the client's own descriptors. Return its wait status. Raise OSError if it cannot be started."""
    return wait(start(program, environ, fields, {}))


def run_behind_tunnel(
    program: list[bytes], environ: "Environ", fields: bytes | None, wire: "Wire", commands: "Commands"
) -> int | None:
    """Run the chain on one end of a tunnel. Return its wait status. Raise OSError if it cannot be started."""
    from qmail_smtpd.pop3.tunnel import Tunnel

    with Tunnel() as tunnel:
        pid = start(program, environ, fields, {0: tunnel.inner, 1: tunnel.inner})
        try:
            commands.add(tunnel.forward(wire, commands.rest()))
        except (Closed, TimedOut):
            pass  # the chain sees end of file; the next write to the client raises the error again
    return wait(pid)


def start(program: list[bytes], environ: "Environ", fields: bytes | None, descriptors: dict[int, int]) -> int:
    """Start the checker and return its pid. Raise OSError if that fails."""
    if fields is None:
        return start_found(program, environ, descriptors)
    pid, fields_end = launch(program, environ, fields, descriptors)
    os.close(fields_end)
    return pid


def wait(pid: int) -> int | None:
    """Return the wait status, or None if it is lost. There is no time limit, because the chain has its own."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None
