"""Between a client under TLS and programs that know no TLS: bytes in both directions over a socket pair.

Like a socket, the inner end has one file for both directions, and its end can be shut down alone.
"""

import _socket  # 0.4 ms; the Python half costs 5
import os
from select import POLLIN, POLLOUT, poll

from qmail_smtpd.net.wire import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.net.wire import Wire

BLOCK = 65536


class Tunnel:
    """`inner` is the descriptor for the program. It is closed here by `carry`, the outer end by the with statement."""

    def __init__(self) -> None:
        self.outer, inner = _socket.socketpair()
        self.outer.setblocking(False)
        self.inner = inner.detach()
        self.inward = b""  # what the client has said and the program not taken
        self.client_speaks = True
        self.program_spoke = False

    def __enter__(self) -> "Tunnel":
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.close()
        if self.inner >= 0:
            os.close(self.inner)

    def carry(self, wire: "Wire", early: bytes) -> bytes:
        """Carry until the program says no more. `early` is what the client has said already. Raises wire's errors.

        The client's words wait for the program's first ones, which are the answer to the password. Where there are
        none nobody came in, and the client's are returned.
        """
        os.close(self.inner)
        self.inner = -1
        assert wire.layer is not None
        self.inward = early + wire.layer.rest()
        self.client_speaks = not wire.layer.over
        while True:
            events = self.wait(wire.timeout)
            if self.outer.fileno() in events and not self.outward(wire, events[self.outer.fileno()]):
                return self.inward
            if 0 in events:
                self.inward += wire.layer.take_ready() or b""
                self.client_speaks = not wire.layer.over
            if self.program_spoke:
                self.push()
            wire.flush()

    def wait(self, seconds: float) -> dict[int, int]:
        """What is ready. The client is not listened to while the program has not taken what it said before."""
        poller = poll()
        poller.register(self.outer.fileno(), POLLIN | (POLLOUT if self.inward and self.program_spoke else 0))
        if self.client_speaks and not self.inward:
            poller.register(0, POLLIN)
        events = dict(poller.poll(int(seconds * 1000)))
        if not events:
            raise TimedOut
        return events

    def outward(self, wire: "Wire", event: int) -> bool:
        """Hand on what the program says, if it does. False at its end."""
        if event == POLLOUT:
            return True
        try:
            data = os.read(self.outer.fileno(), BLOCK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        wire.write(data)
        self.program_spoke = True
        return bool(data)

    def push(self) -> None:
        """Hand on what the client has said, as far as the program takes it, and that it will say no more."""
        if self.inward:
            try:
                self.inward = self.inward[os.write(self.outer.fileno(), self.inward) :]
            except BlockingIOError:
                return
            except OSError:
                self.inward = b""  # nobody reads it; what the program has written comes all the same
        if not self.inward and not self.client_speaks:
            try:
                self.outer.shutdown(_socket.SHUT_WR)
            except OSError:
                pass
