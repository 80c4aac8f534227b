"""Run a qmail-queue program: the message on its descriptor 0, the envelope on 1, its words about a failure on 6.

What its exit status means to the client is replies' table. Knows no SMTP session.
"""

import errno
import os
from time import time

from qmail_smtpd import replies

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # fork's own errors; every other one is the program's that cannot be run
ERROR_DESCRIPTOR = 6  # notqmail 1.09, qmail.c CUSTOM_ERR_FD
CUSTOM_ERROR = 82  # the exit status that goes with a text on that descriptor
LONGEST_TEXT = 255  # qmail.c: what is read of it
SHORTEST_TEXT = 3  # one byte for the kind, and a text that can be one
NOT_PRINTED = bytes(set(range(32)) - {9, 10}) + b"\x7f"
PRINTED = bytes(ord("?") if byte in NOT_PRINTED else byte for byte in range(256))


class QueueClient:
    """One message on its way into the queue. Raises OSError when there are no pipes or no process to be had."""

    __slots__ = ("envelope", "error", "failed", "message", "pid")

    def __init__(self, program: bytes, environ: dict[bytes, bytes]) -> None:
        self.failed = False
        ends: list[int] = []
        try:
            for _ in range(3):
                ends += os.pipe()
            message, self.message, envelope, self.envelope, self.error, error = ends
            self.pid = spawn(program, environ, message, envelope, error)
        except OSError:
            for end in ends:
                os.close(end)
            raise
        for end in (message, envelope, error):
            os.close(end)

    def write(self, data: bytes) -> None:
        """Store a part of the message. A program that does not read on is remembered; its exit status tells why."""
        self.failed = self.failed or not write_all(self.message, data)

    def abandon(self) -> None:
        """Let the program see the end of both pipes without an envelope, which is no message to it, and go away."""
        os.close(self.message)
        os.close(self.envelope)
        os.close(self.error)

    def close(self, envelope: bytes | None) -> bytes:
        """Hand over the envelope, or none to give the message up; wait for the program. Returns the reply."""
        os.close(self.message)
        if envelope is None or self.failed:
            self.failed = True
        else:
            self.failed = not write_all(self.envelope, envelope)
        os.close(self.envelope)
        text = read_text(self.error)
        os.close(self.error)
        if self.pid == 0:
            return replies.QQ_EXEC
        try:
            status = os.waitpid(self.pid, 0)[1]
        except ChildProcessError:  # somebody else took the status: it must never count as success
            return replies.QQ_WAIT
        return self.judge(status, text)

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
    """Start the program; 0 if it is one that cannot be run, which the original finds out only in its child (exit 120).

    SIGXFSZ is ignored by Python, and default where qmail-smtpd runs its queue; SIGPIPE stays ignored there, too.
    """
    from _signal import SIGXFSZ  # type: ignore[import-not-found]  # see main: the C half of signal is free

    if not program:  # posix_spawn has an opinion on an empty name; to execv it is a file that does not exist
        return 0
    descriptors = [
        (os.POSIX_SPAWN_DUP2, message, 0),
        (os.POSIX_SPAWN_DUP2, envelope, 1),
        (os.POSIX_SPAWN_DUP2, error, ERROR_DESCRIPTOR),
    ]
    try:
        return os.posix_spawn(program, [program], environ, file_actions=descriptors, setsigdef=[SIGXFSZ])
    except OSError as failure:
        if failure.errno in NO_PROCESS:
            raise
        return 0


def write_all(descriptor: int, data: bytes) -> bool:
    """Write everything; False when the reader is gone."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        return False
    return True


def read_text(descriptor: int) -> bytes:
    """What the program says about its failure, as a client may see it: up to a NUL, nothing but text and line ends."""
    text = b""
    while len(text) < LONGEST_TEXT and (part := os.read(descriptor, LONGEST_TEXT - len(text))):
        text += part
    return text.partition(b"\0")[0].translate(PRINTED)
