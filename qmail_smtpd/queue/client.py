"""Run a qmail-queue program: the message on its descriptor 0, the envelope on 1, its words about a failure on 6.

What its exit status means to the client is replies' table. Knows no SMTP session.
"""

import errno
import os
from select import POLLIN, POLLOUT
from time import time

from qmail_smtpd.net.wire import LONGEST_POLL, SessionTimedOut, ready
from qmail_smtpd.smtp import replies

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # fork's own errors; every other one is the program's that cannot be run
ERROR_DESCRIPTOR = 6  # notqmail 1.09, qmail.c CUSTOM_ERR_FD
CUSTOM_ERROR = 82  # the exit status that goes with a text on that descriptor
LONGEST_TEXT = 255  # qmail.c: what is read of it
SHORTEST_TEXT = 3  # one byte for the kind, and a text that can be one
NOT_PRINTED = bytes(set(range(32)) - {9, 10}) + b"\x7f"
PRINTED = bytes(ord("?") if byte in NOT_PRINTED else byte for byte in range(256))


class QueueClient:
    """One message on its way into the queue. Raises OSError when there are no pipes or no process to be had.

    `deadline` ends the session while the program keeps it waiting; None is the original's patience.
    """

    __slots__ = ("deadline", "envelope", "error", "failed", "message", "open", "pid")

    def __init__(self, program: bytes, environ: dict[bytes, bytes], deadline: float | None = None) -> None:
        self.deadline = deadline
        self.failed = False
        self.open: list[int] = []
        try:
            for _ in range(3):
                self.open += os.pipe()
            message, self.message, envelope, self.envelope, self.error, error = self.open
            self.pid = spawn(program, environ, message, envelope, error)
        except OSError:
            self.abandon()
            raise
        for end in (message, envelope, error):
            self.shut(end)

    def shut(self, descriptor: int) -> None:
        """Close one end of a pipe."""
        self.open.remove(descriptor)
        os.close(descriptor)

    def abandon(self) -> None:
        """Let the program see the end of both pipes without an envelope, which is no message to it, and go away."""
        for descriptor in self.open[:]:
            self.shut(descriptor)

    def write(self, data: bytes) -> None:
        """Store a part of the message. A program that does not read on is remembered; its exit status tells why."""
        self.failed = self.failed or not self.put(self.message, data)

    def put(self, descriptor: int, data: bytes) -> bool:
        """Write everything; False when the reader is gone."""
        if self.deadline is not None:
            os.set_blocking(descriptor, False)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                self.await_program(descriptor, POLLOUT)
            except OSError:
                return False
        return True

    def await_program(self, descriptor: int, event: int) -> None:
        """Wait for the program, until the session is over."""
        if self.deadline is not None and not ready(descriptor, event, LONGEST_POLL, self.deadline):
            raise SessionTimedOut

    def close(self, envelope: bytes | None) -> bytes:
        """Hand over the envelope, or none to give the message up; wait for the program. Returns the reply."""
        self.shut(self.message)
        self.failed = self.failed or envelope is None or not self.put(self.envelope, envelope)
        self.shut(self.envelope)
        text = self.read_text()
        self.shut(self.error)
        if self.pid == 0:
            return replies.QQ_EXEC
        try:
            return self.judge(self.wait(), text)
        except ChildProcessError:  # somebody else took the status: it must never count as success
            return replies.QQ_WAIT

    def read_text(self) -> bytes:
        """What the program says about its failure, as a client may see it: up to a NUL, only text and line ends."""
        text = b""
        while len(text) < LONGEST_TEXT:
            self.await_program(self.error, POLLIN)
            part = os.read(self.error, LONGEST_TEXT - len(text))
            if not part:
                break
            text += part
        return text.partition(b"\0")[0].translate(PRINTED)

    def wait(self) -> int:
        """The wait status."""
        if self.deadline is not None:
            self.open.append(os.pidfd_open(self.pid))  # readable when the process has ended
            self.await_program(self.open[-1], POLLIN)
            self.abandon()
        return os.waitpid(self.pid, 0)[1]

    def judge(self, status: int, text: bytes) -> bytes:
        """The reply for a wait status: qmail.c, qmail_close."""
        if os.WIFSIGNALED(status):
            return replies.QQ_CRASHED
        code = os.WEXITSTATUS(status)
        if code == 0:
            return replies.QQ_READ if self.failed else b"250 ok %d qp %d" % (time(), self.pid)
        if code == CUSTOM_ERROR and len(text) >= SHORTEST_TEXT:
            return (b"554 " if text.startswith(b"D") else b"451 ") + text[1:]
        return replies.QQ_EXITS.get(code, replies.QQ_TEMPORARY)


def spawn(program: bytes, environ: dict[bytes, bytes], message: int, envelope: int, error: int) -> int:
    """Start the program; 0 if it is one that cannot be run, as the original's child finds out (exit 120)."""
    from qmail_smtpd.child import start  # a session without a message does not need it

    if not program:  # posix_spawn has an opinion on an empty name; to execv it is a file that does not exist
        return 0
    try:
        return start(program, [program], environ, {0: message, 1: envelope, ERROR_DESCRIPTOR: error})
    except OSError as failure:
        if failure.errno in NO_PROCESS:
            raise
        return 0
