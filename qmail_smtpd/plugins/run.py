"""Run one plugin: its output, within limits of time and size. Knows nothing of what the output means."""

import os
from select import POLLIN, poll
from time import monotonic

from qmail_smtpd.child import NOT_RUN, start
from qmail_smtpd.plugins.listing import words

LONGEST_OUTPUT = 65536  # bytes
READ_BLOCK = 4096


class Failure(Exception):
    """The plugin has failed. `why`: for the client and the log, in the words of qmail-spp.c where it has any."""

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why


def run(line: bytes, environ: dict[bytes, bytes], deadline: float) -> bytes:
    """Run the plugin of this line, and return what it has written to descriptor 1. Raises Failure.

    Its descriptor 0 is /dev/null, 2 is the log. It has no others.
    """
    try:
        reader, writer = os.pipe()
    except OSError:
        raise Failure(b"can't pipe()") from None
    try:
        try:
            pid = spawn(words(line), environ, writer)
        finally:
            os.close(writer)
        return attend(pid, reader, deadline)
    finally:
        os.close(reader)


def spawn(argv: list[bytes], environ: dict[bytes, bytes], writer: int) -> int:
    """Start the program and return its pid. Raises Failure."""
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        return start(argv[0], argv, environ, {0: null, 1: writer})
    except BlockingIOError:
        raise Failure(b"vfork() failed") from None
    except (OSError, ValueError):
        raise Failure(b"can't execute") from None
    finally:
        os.close(null)


def attend(pid: int, reader: int, deadline: float) -> bytes:
    """Return the output of the process once it has ended. Kills it at the deadline. Raises Failure."""
    output, why = b"", b""
    try:
        handle = os.pidfd_open(pid)
        try:
            output = collect(handle, reader, deadline)
        finally:
            os.close(handle)
    except Failure as failure:
        why = failure.why
    except OSError:
        why = b"wait_pid() failed"
    if why:
        os.kill(pid, 9)
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        raise Failure(b"wait_pid() failed") from None
    if why:
        raise Failure(why)
    if os.WIFSIGNALED(status):
        raise Failure(b"child crashed")
    if os.WEXITSTATUS(status) == NOT_RUN:
        raise Failure(b"can't execute")
    return output


def collect(handle: int, reader: int, deadline: float) -> bytes:
    """Return the output when the process has ended. A child of its own may still hold the pipe. Raises Failure."""
    poller = poll()
    poller.register(handle, POLLIN)
    poller.register(reader, POLLIN)
    output = b""
    while True:
        remaining = deadline - monotonic()
        ready = dict(poller.poll(max(0, int(remaining * 1000) + 1))) if remaining > 0 else {}
        if not ready:
            raise Failure(b"timeout")
        if reader in ready:
            part = os.read(reader, READ_BLOCK)
            output += part
            if len(output) > LONGEST_OUTPUT:
                raise Failure(b"too much output")
            if not part:
                poller.unregister(reader)
        elif handle in ready:
            return output
