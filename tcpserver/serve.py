"""PARENT: accept, limit, reap, status lines, signals. One loop on poll; a signal only makes it look.

The parent never waits for a client, a name or a log reader. How a server comes to be stands in start.py, what is done
about one client in admit.py.
"""

import _signal as signal  # type: ignore[import-not-found]  # its Python half loads enum, which every fork would copy
import _socket as socket
import errno
import gc
import os
import select
import time

from tcprules import strerr
from tcpserver.admit import Door
from tcpserver.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ACCEPT_PAUSE = 0.2  # seconds without accepting when the system is out of descriptors or memory
MOST_AT_ONCE = 64  # clients that are taken between two looks at everything else
DRAIN_GRACE = 5.0  # seconds between TERM and KILL for sessions that outlived --drain
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
NOTHING_TO_ACCEPT = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)


class Server:
    """The listening socket, the children, and when to look after them."""

    def __init__(self, settings: Settings, listener: socket.socket, door: Door, wake: tuple[int, int]) -> None:
        self.settings, self.listener, self.door = settings, listener, door
        self.family = listener.family
        self.children, self.linger, self.journal = door.children, door.linger, door.children.journal
        self.pool = self.children.pool
        self.poll = select.poll()
        self.accepting = False  # is the listener in the poll set?
        self.logging = False  # is the journal's descriptor?
        self.paused_until = 0.0
        self.failing = False  # has accept failed since it last worked?
        self.drain_until: float | None = None
        self.drain_signals = [signal.SIGTERM, signal.SIGKILL]
        self.wake = wake[0]
        door.mine = [*wake, listener.fileno()]
        if self.journal.descriptor != 2:
            door.mine.append(self.journal.descriptor)

    def run(self) -> "NoReturn":
        """Serve until a signal ends it."""
        self.poll.register(self.wake, select.POLLIN)
        if self.pool.most > 1:
            self.poll.register(self.pool.results[0], select.POLLIN)
        self.listener.setblocking(False)
        self.children.tell(self.children.status())
        gc.freeze()  # what is loaded now is never garbage, and a child must not copy it to find that out
        while True:
            self.arm()
            for descriptor, _ in self.poll.poll(self.patience()):
                self.serve(descriptor)
            self.on_time()

    def serve(self, descriptor: int) -> None:
        """Do what a descriptor is ready for."""
        if descriptor == self.wake:
            self.look()
        elif descriptor == self.listener.fileno():
            self.accept_all()
        elif descriptor == self.pool.results[0]:
            self.children.served()
            self.leave_if_drained()
        elif descriptor == self.journal.descriptor:
            self.journal.flush()
        elif descriptor in self.linger.sockets and self.linger.drain(descriptor):
            self.stop_lingering(descriptor)

    def arm(self) -> None:
        """Poll the listener only where one more client can be taken, the journal only where lines wait."""
        room = not self.children.full() and self.drain_until is None
        if self.accepting != (room and not self.paused_until):
            self.accepting = not self.accepting
            if self.accepting:
                self.poll.register(self.listener, select.POLLIN)
            else:
                self.poll.unregister(self.listener)
        if self.logging != bool(self.journal.waiting):
            self.logging = not self.logging
            if self.logging:
                self.poll.register(self.journal.descriptor, select.POLLOUT)
            else:
                self.poll.unregister(self.journal.descriptor)

    def patience(self) -> float | None:
        """Milliseconds until something is due whatever the descriptors do; None: nothing is."""
        if not self.clocked():
            return None
        now = time.monotonic()
        due = [self.linger.next_deadline(), self.drain_until, self.paused_until or None]
        return max(0.0, min(moment for moment in due if moment is not None) - now) * 1000 + 1

    def clocked(self) -> bool:
        """Is anything due by the clock at all?"""
        return bool(self.paused_until or self.drain_until or self.linger.sockets)

    def on_time(self) -> None:
        """Do what is due by the clock."""
        if not self.clocked():
            return
        now = time.monotonic()
        for descriptor in self.linger.late(now):
            self.stop_lingering(descriptor)
        if self.paused_until and self.paused_until <= now:
            self.paused_until = 0.0
        if self.drain_until and self.drain_until <= now:
            self.end_sessions(now)

    # -- clients come

    def accept_all(self) -> None:
        """Take the clients that wait, as far as there is room. Not all of a crowd: signals have their turn, too."""
        for _ in range(MOST_AT_ONCE):
            if self.children.full() or not self.accept_one():
                break
        self.door.start_waiting()

    def accept_one(self) -> bool:
        """Take one client. False when none is there, or none can be taken."""
        try:
            descriptor, peer = self.listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError as error:
            if error.errno in NO_DESCRIPTOR and self.door.starter.waiting:
                return False  # those who wait hold them: they come first
            self.not_accepted(error)
            return False
        self.failing = False
        connection = socket.socket(self.family, socket.SOCK_STREAM, 0, descriptor)
        if self.settings.kill_ip_options:
            clear_ip_options(connection)
        self.door.admit(connection, peer)
        if descriptor in self.linger.sockets:
            self.poll.register(descriptor, select.POLLIN)
        else:
            connection.close()
        return True

    def not_accepted(self, error: OSError) -> None:
        """No client there is the normal end of a batch. Trouble is told once, and waited out without spinning."""
        if error.errno in NOTHING_TO_ACCEPT:
            return
        if not self.failing and self.settings.verbosity:
            self.journal.write(self.children.lines.warning(b"unable to accept: " + strerr.reason(error).encode()))
        self.failing = True
        if error.errno != errno.ECONNABORTED:
            self.paused_until = time.monotonic() + ACCEPT_PAUSE

    def stop_lingering(self, descriptor: int) -> None:
        """A refused client has had its time."""
        self.poll.unregister(descriptor)
        self.linger.close(descriptor)

    # -- signals and children

    def look(self) -> None:
        """A signal came: see which, and what it means."""
        numbers = set(os.read(self.wake, 4096))
        if signal.SIGCHLD in numbers:
            self.children.served()  # what they have said, before what became of them
            self.children.reap()
        if signal.SIGUSR1 in numbers and self.settings.verbosity:
            self.children.tell_connected()
        if signal.SIGTERM in numbers:
            self.terminate()
        self.leave_if_drained()

    def leave_if_drained(self) -> None:
        """--drain: the last session has ended."""
        if self.drain_until is not None and not self.children.by_pid:
            self.leave()

    def terminate(self) -> None:
        """SIGTERM: leave at once, as 0.88; with --drain only when the sessions have ended."""
        if self.settings.drain is None:
            self.leave()
        if self.drain_until is None:
            self.drain_until = time.monotonic() + self.settings.drain
            self.arm()
            self.listener.close()

    def end_sessions(self, now: float) -> None:
        """--drain: the time is over. TERM for whoever is left, then KILL; who withstands that is left alone."""
        if not self.drain_signals:
            self.leave()
        self.children.kill(self.drain_signals.pop(0))
        self.drain_until = now + DRAIN_GRACE

    def leave(self) -> "NoReturn":
        """The end of the server; children that still run go on by themselves."""
        self.journal.flush()
        os._exit(0)


def clear_ip_options(connection: socket.socket) -> None:
    """-O: drop the IP options (source routes) that came with the connection. 0.88 sets IP_TOS on Linux, by mistake."""
    try:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
    except OSError:
        return  # an IPv6 socket has none, and a client that is gone needs none
