"""Run one plugin: its output, within limits of time and size. Knows nothing of what the output means."""

import os
from select import POLLIN, poll
from time import monotonic

from qmail_smtpd.child import NOT_RUN, POLL_INTERVAL, has_ended, open_handle, start
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

    Its descriptor 0 is /dev/null, and 2 is the log. It has no further ones.
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
    try:
        null = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        raise Failure(b"can't open /dev/null") from None
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
    handle = open_handle(pid)
    try:
        output = collect(pid, handle, reader, deadline)
    except Failure as failure:
        why = failure.why
    except OSError:
        why = b"wait_pid() failed"
    finally:
        if handle is not None:
            os.close(handle)
    try:
        if why:
            os.kill(pid, 9)
        status = os.waitpid(pid, 0)[1]
    except (ChildProcessError, ProcessLookupError):  # the status was collected elsewhere
        raise Failure(b"wait_pid() failed") from None
    if why:
        raise Failure(why)
    if os.WIFSIGNALED(status):
        raise Failure(b"child crashed")
    if os.WEXITSTATUS(status) == NOT_RUN:
        raise Failure(b"can't execute")
    return output


def collect(pid: int, handle: int | None, reader: int, deadline: float) -> bytes:
    """Return the output when the process has ended. A child of its own may still hold the pipe. Raises Failure.

    `handle`: as open_handle returns it.
    """
    poller = poll()
    poller.register(reader, POLLIN)
    if handle is not None:
        poller.register(handle, POLLIN)
    output = b""
    while (remaining := deadline - monotonic()) > 0:
        ended = handle is None and has_ended(pid)  # before the poll, which then finds the last output
        longest = remaining if handle is not None else 0 if ended else POLL_INTERVAL
        ready = dict(poller.poll(int(longest * 1000) + 1))
        if reader in ready:
            part = os.read(reader, READ_BLOCK)
            output += part
            if len(output) > LONGEST_OUTPUT:
                raise Failure(b"too much output")
            if not part:
                poller.unregister(reader)
        elif ended or handle in ready:
            return output
    raise Failure(b"timeout")
