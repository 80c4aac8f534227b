"""Forward bytes between a client under TLS and programs without TLS, over a socket pair.

A socket pair is used because its inner end behaves like a connection: one descriptor serves both directions, and each
direction can be shut down alone.
"""

import _socket  # 0.4 ms; `socket` costs 5 ms
import os
from select import POLLIN, POLLOUT, poll

from qmail_smtpd.net.wire import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.net.wire import Wire

BLOCK = 65536


class Tunnel:
    """A socket pair whose inner end is for the program.

    `forward` closes `inner` in this process. Leaving the with statement closes the outer end.
    """

    def __init__(self) -> None:
        self.outer, inner = _socket.socketpair()
        self.outer.setblocking(False)
        self.inner = inner.detach()
        self.to_program = b""  # decrypted bytes that the program has not taken yet
        self.client_open = True
        self.program_answered = False

    def __enter__(self) -> "Tunnel":
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.close()
        if self.inner >= 0:
            os.close(self.inner)

    def forward(self, wire: "Wire", early: bytes) -> bytes:
        """Forward bytes until the program closes its end. Raise the wire's errors.

        `early` is what the client has already sent. The client's bytes are held back until the program sends its first
        bytes, which answer the password. If it never sends any, the login failed, and the client's bytes are returned.
        """
        os.close(self.inner)
        self.inner = -1
        assert wire.layer is not None
        self.to_program = early + wire.layer.read_buffered()
        self.client_open = not wire.layer.at_end
        while True:
            events = self.wait(wire.timeout)
            if self.outer.fileno() in events and not self.receive(wire, events[self.outer.fileno()]):
                return self.to_program
            if 0 in events:
                self.to_program += wire.layer.read_ready() or b""
                self.client_open = not wire.layer.at_end
            if self.program_answered:
                self.send()
            wire.flush()

    def wait(self, seconds: float) -> dict[int, int]:
        """Return the ready descriptors and their events. The client is not read while the program has bytes to take."""
        poller = poll()
        poller.register(self.outer.fileno(), POLLIN | (POLLOUT if self.to_program and self.program_answered else 0))
        if self.client_open and not self.to_program:
            poller.register(0, POLLIN)
        events = dict(poller.poll(int(seconds * 1000)))
        if not events:
            raise TimedOut
        return events

    def receive(self, wire: "Wire", event: int) -> bool:
        """Forward what the program has sent, if anything. Return False once the program has closed its end."""
        if event == POLLOUT:
            return True
        try:
            data = os.read(self.outer.fileno(), BLOCK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        wire.write(data)
        self.program_answered = True
        return bool(data)

    def send(self) -> None:
        """Forward as many of the client's bytes as the program takes; after the last ones, shut this direction down."""
        if self.to_program:
            try:
                self.to_program = self.to_program[os.write(self.outer.fileno(), self.to_program) :]
            except BlockingIOError:
                return
            except OSError:
                self.to_program = b""  # the program reads no more, but its output is still forwarded
        if not self.to_program and not self.client_open:
            try:
                self.outer.shutdown(_socket.SHUT_WR)
            except OSError:
                pass
