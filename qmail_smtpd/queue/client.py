"""Run a qmail-queue program: the message on its descriptor 0, the envelope on 1, its error text on 6.

The table that maps its exit status to a reply is in smtp/replies.py. Does not know the SMTP session.
"""

import errno
import os
from select import POLLIN, POLLOUT
from time import time

from qmail_smtpd.net.wire import LONGEST_POLL, SessionTimedOut, ready
from qmail_smtpd.smtp import replies

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM)  # fork's own errors; any other error means that the program cannot be run
ERROR_DESCRIPTOR = 6  # notqmail 1.09, qmail.c CUSTOM_ERR_FD
CUSTOM_ERROR = 82  # the exit status that announces an error text on that descriptor
LONGEST_TEXT = 255  # bytes of the error text that are read (qmail.c)
SHORTEST_TEXT = 3  # one byte for the kind of failure, and at least two of text
CONTROLS = bytes(set(range(32)) - {9}) + b"\x7f"
PRINTABLE = bytes(ord("?") if byte in CONTROLS else byte for byte in range(256))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.queue.inprocess import Message


class QueueClient:
    """The transfer of one message to a queue program.

    Creating it raises OSError if there are no pipes or no process. `deadline`, on the monotonic clock, ends the session
    while the program keeps it waiting, until the program has the whole envelope. From then on, or if there is no
    deadline, it waits as long as qmail.c does.
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
            self.close_end(end)

    def close_end(self, descriptor: int) -> None:
        """Close one end of a pipe."""
        self.open.remove(descriptor)
        os.close(descriptor)

    def abandon(self) -> None:
        """Close all pipes. Without an envelope the program discards the message and exits."""
        for descriptor in self.open[:]:
            self.close_end(descriptor)

    def write(self, data: bytes) -> None:
        """Send a part of the message. If the program has stopped reading, note it: its exit status tells why."""
        self.failed = self.failed or not self.write_all(self.message, data)

    def write_all(self, descriptor: int, data: bytes) -> bool:
        """Write all the data. Return False if the reader has closed its end."""
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
        """Wait for the program until the session's deadline. Raise SessionTimedOut after it."""
        if self.deadline is not None and not ready(descriptor, event, LONGEST_POLL, self.deadline):
            raise SessionTimedOut

    def close(self, envelope: bytes | None) -> bytes:
        """Send the envelope, or None to discard the message, and wait for the program. Return the SMTP reply."""
        self.close_end(self.message)
        self.failed = self.failed or envelope is None or not self.write_all(self.envelope, envelope)
        if not self.failed:
            self.deadline = None  # the program may store the message: a client that gets 451 sends it again
        self.close_end(self.envelope)
        text = self.read_text()
        self.close_end(self.error)
        if self.pid == 0:
            return replies.QQ_EXEC
        try:
            return self.reply(self.wait(), text)
        except ChildProcessError:  # something else has reaped the process: a lost status must never count as success
            return replies.QQ_WAIT

    def read_text(self) -> bytes:
        """Read the program's error text, up to a NUL."""
        text = b""
        while len(text) < LONGEST_TEXT:
            self.await_program(self.error, POLLIN)
            part = os.read(self.error, LONGEST_TEXT - len(text))
            if not part:
                break
            text += part
        return text.partition(b"\0")[0]

    def wait(self) -> int:
        """Wait until the program has ended. Return its wait status."""
        from qmail_smtpd.child import ends_in_time  # as in spawn

        if self.deadline is not None and not ends_in_time(self.pid, LONGEST_POLL, self.deadline):
            raise SessionTimedOut
        return os.waitpid(self.pid, 0)[1]

    def reply(self, status: int, text: bytes) -> bytes:
        """Return the reply for a wait status, as qmail_close in qmail.c does."""
        if os.WIFSIGNALED(status):
            return replies.QQ_CRASHED
        code = os.WEXITSTATUS(status)
        if code == 0:
            return replies.QQ_READ if self.failed else queued(self.pid)
        if code == CUSTOM_ERROR and len(text) >= SHORTEST_TEXT:
            return (b"554 " if text.startswith(b"D") else b"451 ") + one_line(text[1:])
        return replies.QQ_EXITS.get(code, replies.QQ_TEMPORARY)


def one_line(text: bytes) -> bytes:
    """Return the text as the rest of a reply: lines are joined by a blank, other control characters become `?`.

    A bare LF would end the reply for some clients, which take the rest for the answer to their next command.
    """
    lines = (line.removesuffix(b"\r") for line in text.split(b"\n"))
    return b" ".join(line for line in lines if line).translate(PRINTABLE)


def queued(pid: int) -> bytes:
    """Return the reply for a message that is stored (qmail.c: `qp` and the queue program's pid)."""
    return b"250 ok %d qp %d" % (time(), pid)


class LoadedQueue:
    """The transfer of one message to a queue program that is loaded in this process (inprocess.py)."""

    __slots__ = ("message",)

    def __init__(self, message: "Message") -> None:
        self.message = message

    def write(self, data: bytes) -> None:
        """Send a part of the message."""
        self.message.write(data)

    def close(self, envelope: bytes | None) -> bytes:
        """Send the envelope, or None to discard the message. Return the SMTP reply."""
        if envelope is None:
            self.message.abandon()
            return replies.QQ_READ
        code = self.message.close(envelope)
        return replies.QQ_EXITS.get(code, replies.QQ_TEMPORARY) if code else queued(os.getpid())

    def abandon(self) -> None:
        """Discard the message."""
        self.message.abandon()


def open_queue(program: bytes, environ: dict[bytes, bytes], deadline: float | None) -> "QueueClient | LoadedQueue":
    """Begin a message: in this process where the program is loaded and offers that, else by starting the program.

    Raises OSError if there are no pipes or no process.
    """
    from tcpserver import chain  # a session without a message does not need it

    loaded = chain.loaded_program(program) if chain.programs else None
    open_message = loaded.offer("open_message") if loaded else None
    if open_message:
        return LoadedQueue(open_message(environ))
    return QueueClient(program, environ, deadline)


def spawn(program: bytes, environ: dict[bytes, bytes], message: int, envelope: int, error: int) -> int:
    """Start the program and return its pid, or 0 if the program cannot be run.

    The original finds that out in its child, which exits with 120.
    """
    from qmail_smtpd.child import start  # imported here because a session without a message does not need it

    if not program:  # execv would say "file does not exist"; posix_spawn treats an empty name differently
        return 0
    try:
        return start(program, [program], environ, {0: message, 1: envelope, ERROR_DESCRIPTOR: error})
    except OSError as failure:
        if failure.errno in NO_PROCESS:
            raise
        return 0
