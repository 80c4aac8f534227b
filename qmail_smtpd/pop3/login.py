"""One login: run the checker with the client's connection, wait for the end of what it becomes, say what that means.

The checker gets user, password or digest, and challenge on its descriptor 3; 0 and 1 are the client's, or a tunnel's.
"""

import errno
import os

from qmail_smtpd.auth.checkpassword import LONGEST_FIELDS, TROUBLE, judge, launch
from qmail_smtpd.net.wire import Closed, TimedOut
from qmail_smtpd.pop3 import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.net.wire import Wire
    from qmail_smtpd.pop3.command import Commands

    Environ = dict[bytes, bytes]

# What goes wrong before there is a checker -> the reply, where it is not NOT_CHECKED.
NO_START = {
    errno.EMFILE: replies.NO_PIPE,
    errno.ENFILE: replies.NO_PIPE,
    errno.EAGAIN: replies.NO_FORK,
    errno.ENOMEM: replies.NO_FORK,
}


def run(
    program: list[bytes], environ: "Environ", fields: bytes, wire: "Wire", commands: "Commands"
) -> tuple[bytes, bytes] | None:
    """None where all ended well; else the reply, and a word for the log. Nothing is pending on the wire before.

    Under TLS, what the client has said behind its password is in `commands`, and is still there if nobody came in.
    """
    if len(fields) > LONGEST_FIELDS:
        return replies.WRONG, b"too-long"
    try:
        status = (
            serve(program, environ, fields) if wire.layer is None else tunnel(program, environ, fields, wire, commands)
        )
    except OSError as error:
        from tcprules.strerr import reason

        why = b"start:" + reason(error).encode().replace(b" ", b"_")
        return NO_START.get(error.errno or 0, replies.NOT_CHECKED), why
    verdict = judge(status)
    return None if verdict is None else (reply(status), verdict)


def reply(status: int | None) -> bytes:
    """What to say to a client that has not come in. 2 is a no: checkpassword-pam ends so for users it does not know."""
    if status is None:
        return b""  # qmail-popup.c dies of it
    if os.WIFSIGNALED(status):
        return replies.CRASHED
    return replies.NOT_CHECKED if os.WEXITSTATUS(status) >= TROUBLE else replies.WRONG


def serve(program: list[bytes], environ: "Environ", fields: bytes) -> int | None:
    """Let the chain have the client's own descriptors. The wait status. Raises OSError."""
    return wait(start(program, environ, fields, {}))


def tunnel(program: list[bytes], environ: "Environ", fields: bytes, wire: "Wire", commands: "Commands") -> int | None:
    """Let the chain have one end of a tunnel. The wait status. Raises OSError."""
    from qmail_smtpd.pop3.tunnel import Tunnel

    with Tunnel() as way:
        pid = start(program, environ, fields, {0: way.inner, 1: way.inner})
        try:
            commands.add(way.carry(wire, commands.rest()))
        except (Closed, TimedOut):
            pass  # the chain will see the end of it, and whoever writes to the client next finds out
    return wait(pid)


def start(program: list[bytes], environ: "Environ", fields: bytes, descriptors: dict[int, int]) -> int:
    """The checker's pid. Raises OSError."""
    pid, fields_end = launch(program, environ, fields, descriptors)
    os.close(fields_end)
    return pid


def wait(pid: int) -> int | None:
    """The wait status, without a limit: the chain has limits of its own. None where somebody else has taken it."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None
