"""The minimal SMTP of rblsmtpd: every attempt to send a message gets the same reply."""

import _socket as socket  # see address/operands
import os
import select
import time

from tcpserver.tools.options import LONGEST_WAIT

HELLO = b"rblsmtpd.local\r\n"
REPLIES = {
    b"helo": b"250 " + HELLO,
    b"ehlo": b"250 " + HELLO,
    b"mail": b"250 " + HELLO,
    b"rset": b"250 " + HELLO,
    b"noop": b"250 " + HELLO,
    b"quit": b"221 " + HELLO,
}
READ_SIZE = 4096
PATIENCE = 5  # seconds to write one reply
LONGEST_LINE = 512  # bytes of a command that are kept: its verb decides


class Conversation:
    """What is replied to a client, whatever the pieces in which its commands come. Pure."""

    __slots__ = ("has_ended", "line", "refusal")

    def __init__(self, refusal: bytes) -> None:
        self.refusal = refusal
        self.line = b""
        self.has_ended = False

    def feed(self, data: bytes) -> bytes:
        """The replies to the commands that these bytes complete. What follows QUIT is ignored."""
        replies = b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            replies += self.reply((self.line + line).removesuffix(b"\r"))
            self.line = b""
            if self.has_ended:
                return replies
        self.line = (self.line + rest)[:LONGEST_LINE]
        return replies

    def reply(self, line: bytes) -> bytes:
        """The reply to a command (commands.c)."""
        verb = line.partition(b" ")[0].lower()
        self.has_ended = verb == b"quit"
        return REPLIES.get(verb, self.refusal)


def converse(refusal: bytes, seconds: int) -> None:
    """Greet the client on descriptors 0 and 1, and reply for so many seconds, or until it leaves."""
    deadline = time.monotonic() + seconds
    conversation = Conversation(refusal)
    replies = b"220 " + HELLO
    while send(replies, deadline) and not conversation.has_ended:
        data = receive(deadline)
        if not data:
            return
        replies = conversation.feed(data)


def send(text: bytes, deadline: float) -> bool:
    """Write to the client. Return whether that was possible in time."""
    while text:
        if not is_ready(1, select.POLLOUT, deadline):
            return False
        try:
            text = text[os.write(1, text[:READ_SIZE]) :]
        except BlockingIOError:
            continue
        except OSError:
            return False
    return True


def receive(deadline: float) -> bytes:
    """Read from the client; b"" is the end, an error, or the end of the time."""
    while is_ready(0, select.POLLIN, deadline):
        try:
            return os.read(0, READ_SIZE)
        except BlockingIOError:
            continue
        except OSError:
            break
    return b""


def is_ready(descriptor: int, events: int, deadline: float) -> bool:
    """Whether the descriptor is ready before the deadline."""
    poller = select.poll()
    poller.register(descriptor, events)
    remaining = min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT)
    return bool(poller.poll(remaining * 1000))


def reply_and_drain(text: bytes, seconds: int) -> None:
    """Write one reply, and then read what the client still sends, for so long.

    Input that nobody reads makes the kernel reset the connection, and then the client may lose the reply.
    """
    deadline = time.monotonic() + PATIENCE
    if not send(text, deadline):
        return
    shut_down()
    deadline = time.monotonic() + seconds
    while receive(deadline):
        pass


def shut_down() -> None:
    """End our direction of the connection, if it is one."""
    try:
        link = socket.socket(fileno=os.dup(1))
    except OSError:
        return
    try:
        link.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    link.close()
