"""Ask the program in $RCPTCHECK about a recipient: it gets SENDER, RECIPIENT and HELO, and answers with its exit code.

The interface is that of Jay Soffian's rcptcheck patch. Only 0 accepts and only 100 refuses: every other end is a
temporary failure. A program of ours that the server has loaded, and that has a function check_recipient(environ,
deadline), is called in this process.
"""

import os
from _signal import SIGPIPE, SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free

from qmail_smtpd import child
from qmail_smtpd.recipients.program import LATER as LATER
from qmail_smtpd.recipients.program import NO, YES
from tcpserver import chain

TIME_LIMIT = 30.0  # seconds. RFC 5321 section 4.5.3.2.3: a client waits five minutes for the reply to RCPT
REFUSED = b"exit-%d" % NO
KILL = 9


def ask(
    program: bytes, environ: dict[bytes, bytes], sender: bytes, recipient: bytes, helo: bytes, deadline: float | None
) -> bytes | None:
    """Return None if the recipient is accepted, REFUSED if it is refused, else one word for the program's failure.

    `program`: a path, never searched in PATH. `deadline`: of the session, on the monotonic clock.
    """
    if not program:  # execv would say "file does not exist"; posix_spawn treats an empty name differently
        return b"start:file_does_not_exist"
    variables = {**environ, b"SENDER": sender, b"RECIPIENT": recipient, b"HELO": helo}
    loaded = chain.loaded_program(program) if chain.programs else None
    check = loaded.offer("check_recipient") if loaded else None
    if check:
        code: int = check(variables, deadline)
        return None if code == YES else b"exit-%d" % code
    try:
        return run(program, variables, deadline)
    except OSError as error:
        from tcprules.strerr import reason  # a table that is needed only for errors

        return b"start:" + reason(error).replace(" ", "_").encode()


def run(program: bytes, variables: dict[bytes, bytes], deadline: float | None) -> bytes | None:
    """Run the program with the log as its output, and return what `ask` returns. Raises OSError if it cannot be run."""
    null = os.open(b"/dev/null", os.O_RDONLY)
    try:
        pid = child.start(program, [program], variables, {0: null, 1: 2}, (SIGPIPE, SIGXFSZ))
    finally:
        os.close(null)
    try:
        in_time = child.ends_in_time(pid, TIME_LIMIT, deadline)
        if not in_time:
            os.kill(pid, KILL)
        status = os.waitpid(pid, 0)[1]
    except (ChildProcessError, ProcessLookupError):  # the status was collected elsewhere
        return b"no-status"
    if os.WIFSIGNALED(status):
        return b"signal-%d" % os.WTERMSIG(status) if in_time else b"timeout"
    code = os.WEXITSTATUS(status)
    return None if code == YES else b"exit-%d" % code
