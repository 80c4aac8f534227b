"""Run a program between two pipes, while a child process copies: what fixcrio and recordio have in common.

The program keeps this process, its pid and its exit status. The child exits when the program's output ends.
"""

import os
import select
import sys
from errno import EAGAIN

from tcprules import strerr
from tcpserver import chain
from tcpserver.tools.filtering import READ_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Convert = Callable[[bytes], bytes]

# poll(2) reports a pipe or socket as writable if it takes at least this much. A larger write could block, and meanwhile
# nobody would read what the program writes. pipe(7): PIPE_BUF.
WRITE_SIZE = 4096


class Flow:
    """One direction: what is read from `source`, converted, and not written to `target` yet.

    `convert` gets each piece, and b"" at the end. With `write_size` at most so many bytes are written at once.
    """

    __slots__ = ("convert", "has_ended", "rest", "source", "target", "write_size")

    def __init__(self, source: int, target: int, convert: "Convert", write_size: int = WRITE_SIZE) -> None:
        self.source, self.target, self.convert, self.write_size = source, target, convert, write_size
        self.rest = memoryview(b"")
        self.has_ended = False

    def interest(self) -> tuple[int, int]:
        """The descriptor to wait for, and for what."""
        return (self.target, select.POLLOUT) if self.rest else (self.source, select.POLLIN)

    def proceed(self) -> None:
        """Read or write once. Raises OSError if nobody reads what is written."""
        if self.rest:
            self.write()
        else:
            self.read()

    def read(self) -> None:
        """Take the next piece. An error is the end (fixcrio.c)."""
        try:
            data = os.read(self.source, READ_SIZE)
        except OSError as error:
            if error.errno == EAGAIN:
                return
            data = b""
        self.has_ended = not data
        self.rest = memoryview(self.convert(data))

    def write(self) -> None:
        """Write a part of the rest."""
        try:
            self.rest = self.rest[os.write(self.target, self.rest[: self.write_size]) :]
        except BlockingIOError:
            pass


def run(program: str, inward: "Convert", outward: "Convert") -> "NoReturn":
    """Become the program that sys.argv names. `inward` converts its input, `outward` its output."""
    words = [os.fsencode(word) for word in sys.argv[1:]]
    if not words:
        strerr.die(strerr.PERMANENT, program, ": usage: ", program, " program [ arg ... ]")
    fatal = program + ": fatal: unable to "
    try:
        input_end, to_program = os.pipe()
        from_program, output_end = os.pipe()
    except OSError as error:
        strerr.die(strerr.TEMPORARY, fatal, "create pipe: ", strerr.reason(error))
    try:
        child = os.fork()
    except OSError as error:
        strerr.die(strerr.TEMPORARY, fatal, "fork: ", strerr.reason(error))
    if not child:
        os.close(input_end)
        os.close(output_end)
        copy_and_exit(to_program, from_program, inward, outward)
    os.close(to_program)
    os.close(from_program)
    try:
        move(input_end, 0)
        move(output_end, 1)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, fatal, "move descriptors: ", strerr.reason(error))
    strerr.die(strerr.TEMPORARY, fatal, "run ", words[0], ": ", strerr.reason(chain.become(words, None)))


def move(old: int, new: int) -> None:
    """Give a descriptor another number; programs inherit it (fd_move.c)."""
    if old == new:
        os.set_inheritable(new, True)
        return
    os.dup2(old, new)
    os.close(old)


def copy_and_exit(to_program: int, from_program: int, inward: "Convert", outward: "Convert") -> "NoReturn":
    """The child: copy both directions until the program's output ends, or the client has stopped reading."""
    os.set_blocking(to_program, False)  # our end of the pipe alone: the program's stays as it is
    try:
        copy(Flow(0, to_program, inward, READ_SIZE), Flow(from_program, 1, outward))
    except OSError:
        pass  # Python ignores SIGPIPE
    os._exit(0)


def copy(inward: Flow, outward: Flow) -> None:
    """Copy until `outward` has ended. Raises OSError if nobody reads it.

    If the reader of `inward` has closed its end, what was not written is lost, and the target is closed. Copying goes
    on: the program may have more to write (fixcrio.c ends there).
    """
    while not outward.has_ended:
        flows = [outward] if inward.has_ended else [inward, outward]
        poller = select.poll()
        for flow in flows:
            poller.register(*flow.interest())
        ready = {descriptor for descriptor, _ in poller.poll()}
        if inward in flows and inward.interest()[0] in ready:
            try:
                inward.proceed()
            except OSError:
                inward.has_ended = True
            if inward.has_ended:
                os.close(inward.target)
        if outward.interest()[0] in ready:
            outward.proceed()
