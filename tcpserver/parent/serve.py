"""The parent's loop: accept, reap, status lines, signals, time-outs. One poll; a signal handler only wakes it up.

The parent never waits for a client, a name or a log reader. start.py sets the server up; admission.py judges a client.
"""

import _signal as signal  # type: ignore[import-not-found]  # its Python half loads enum, which every fork would copy
import _socket as socket
import errno
import gc
import os
import select
import time

from tcprules import strerr
from tcpserver.environ import Facts
from tcpserver.parent.admission import Admission
from tcpserver.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ACCEPT_PAUSE = 0.2  # seconds without accepting when the system is out of descriptors or memory
BATCH = 64  # clients that are accepted before the loop does anything else
DRAIN_GRACE = 5.0  # seconds between TERM and KILL for sessions that outlived --drain
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
NOTHING_TO_ACCEPT = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)


class Server:
    """The listening socket, the children, and when to look after them."""

    def __init__(
        self, settings: Settings, listener: socket.socket, admission: Admission, wake: tuple[int, int]
    ) -> None:
        self.settings, self.listener, self.admission = settings, listener, admission
        self.family = listener.family
        self.children, self.linger, self.journal = admission.children, admission.linger, admission.children.journal
        self.pool = self.children.pool
        self.proxied = admission.proxied
        self.poll = select.poll()
        self.accepting = False  # is the listener in the poll set?
        self.logging = False  # is the journal's descriptor in it?
        self.paused_until = 0.0
        self.failing = False  # has accept failed since it last worked?
        self.drain_until: float | None = None
        self.drain_signals = [signal.SIGTERM, signal.SIGKILL]
        self.wake = wake[0]
        admission.loop_descriptors = [*wake, listener.fileno()]
        if self.journal.descriptor != 2:
            admission.loop_descriptors.append(self.journal.descriptor)

    def run(self) -> "NoReturn":
        """Serve until a signal ends it."""
        self.poll.register(self.wake, select.POLLIN)
        if self.pool.max_clients > 1:
            self.poll.register(self.pool.results[0], select.POLLIN)
        if self.proxied:
            self.poll.register(self.proxied.epoll, select.POLLIN)
        self.listener.setblocking(False)
        self.children.log_verbose(self.children.status())
        gc.freeze()  # what is loaded now is never garbage; without this each child would copy it to find that out
        while True:
            self.arm()
            for descriptor, _ in self.poll.poll(self.timeout()):
                self.serve(descriptor)
            if self.has_turn():
                self.admit_proxied()
            self.on_clock()

    def serve(self, descriptor: int) -> None:
        """Act on a descriptor that is ready."""
        if descriptor == self.wake:
            self.on_signal()
        elif descriptor == self.listener.fileno():
            self.accept_all()
        elif descriptor == self.pool.results[0]:
            self.children.collect_results()
            self.leave_if_drained()
        elif descriptor == self.journal.descriptor:
            self.journal.flush()
        elif self.proxied and descriptor == self.proxied.epoll.fileno():
            self.proxied.serve(time.monotonic())
            self.admit_proxied()
        elif descriptor in self.linger.sockets and self.linger.drain(descriptor):
            self.stop_lingering(descriptor)

    def arm(self) -> None:
        """Poll the listener only where one more client can be accepted, the journal only where lines wait."""
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

    def timeout(self) -> float | None:
        """Milliseconds until something is due by the clock; None if nothing is."""
        if self.has_turn():
            return 0
        if not self.has_deadline():
            return None
        now = time.monotonic()
        due = [self.linger.next_deadline(), self.drain_until, self.paused_until or None]
        if self.proxied:
            due.append(self.proxied.next_deadline())
        return max(0.0, min(moment for moment in due if moment is not None) - now) * 1000 + 1

    def has_deadline(self) -> bool:
        """Whether anything is due by the clock."""
        waiting = self.proxied is not None and self.proxied.is_waiting()
        return bool(self.paused_until or self.drain_until or self.linger.sockets or waiting)

    def on_clock(self) -> None:
        """Do what is due by the clock."""
        if not self.has_deadline():
            return
        now = time.monotonic()
        for descriptor in self.linger.late(now):
            self.stop_lingering(descriptor)
        if self.proxied:
            self.proxied.on_clock(now)
        if self.paused_until and self.paused_until <= now:
            self.paused_until = 0.0
        if self.drain_until and self.drain_until <= now:
            self.end_sessions(now)

    # -- clients

    def accept_all(self) -> None:
        """Accept the waiting clients, as far as there is room, and at most a batch, so that signals have their turn."""
        for _ in range(BATCH):
            if self.children.full() or self.has_turn() or not self.accept_one():
                break
        self.admission.start_pending()

    def accept_one(self) -> bool:
        """Accept one client. False when there is none, or none can be accepted."""
        try:
            descriptor, peer = self.listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError as error:
            if error.errno in NO_DESCRIPTOR and self.admission.starter.pending:
                return False  # the pending clients hold them: they come first
            self.not_accepted(error)
            return False
        self.failing = False
        connection = socket.socket(self.family, socket.SOCK_STREAM, 0, descriptor)
        if self.settings.kill_ip_options:
            clear_ip_options(connection)
        facts = self.admission.facts(connection, peer)
        if facts is None:
            connection.close()
        elif self.proxied and self.proxied.expects(facts):
            self.proxied.add(connection, facts, time.monotonic())
            if self.proxied.ready:
                self.admit(*self.proxied.ready.popleft())
        else:
            self.admit(connection, facts)
        return True

    def admit(self, connection: socket.socket, facts: Facts) -> None:
        """Admit a client, or refuse it."""
        descriptor = connection.fileno()
        self.admission.admit(connection, facts)
        if descriptor in self.linger.sockets:
            self.poll.register(descriptor, select.POLLIN)
        else:
            connection.close()

    def has_turn(self) -> bool:
        """Whether a client with a whole PROXY header waits, and there is room for it (-c)."""
        return self.proxied is not None and bool(self.proxied.ready) and not self.children.full()

    def admit_proxied(self) -> None:
        """Admit those whose PROXY header is whole, as far as there is room, and at most a batch."""
        assert self.proxied
        for _ in range(min(BATCH, len(self.proxied.ready))):
            if self.children.full():
                break
            self.admit(*self.proxied.ready.popleft())
        self.admission.start_pending()

    def not_accepted(self, error: OSError) -> None:
        """Handle an error of accept: "no client" ends a batch. Any other is logged once, and followed by a pause."""
        if error.errno in NOTHING_TO_ACCEPT:
            return
        if not self.failing and self.settings.verbosity:
            self.journal.write(self.children.lines.warning(b"unable to accept: " + strerr.reason(error).encode()))
        self.failing = True
        if error.errno != errno.ECONNABORTED:
            self.paused_until = time.monotonic() + ACCEPT_PAUSE

    def stop_lingering(self, descriptor: int) -> None:
        """Close a refused client whose time is over, or that is gone."""
        self.poll.unregister(descriptor)
        self.linger.close(descriptor)

    # -- signals and children

    def on_signal(self) -> None:
        """One or more signals came: act on each."""
        numbers = set(os.read(self.wake, 4096))
        if signal.SIGCHLD in numbers:
            self.children.collect_results()  # before the end of the workers that sent them
            self.children.reap()
        if signal.SIGUSR1 in numbers and self.settings.verbosity:
            self.children.log_connected()
            if self.proxied:
                self.journal.write(self.children.lines.waiting(len(self.proxied.waiting), len(self.proxied.ready)))
        if signal.SIGTERM in numbers:
            self.terminate()
        self.leave_if_drained()

    def leave_if_drained(self) -> None:
        """With --drain, leave when the last session has ended."""
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
            if self.proxied:
                self.proxied.stop(time.monotonic())

    def end_sessions(self, now: float) -> None:
        """--drain: the time is over. TERM for every child that is left, then KILL, then leave."""
        if not self.drain_signals:
            self.leave()
        self.children.kill(self.drain_signals.pop(0))
        self.drain_until = now + DRAIN_GRACE

    def leave(self) -> "NoReturn":
        """End the server. Children that still run go on by themselves."""
        self.journal.flush()
        os._exit(0)


def clear_ip_options(connection: socket.socket) -> None:
    """-O: drop the IP options (source routes) that came with the connection. 0.88 sets IP_TOS on Linux, by mistake."""
    try:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
    except OSError:
        return  # an IPv6 socket has none, and a client that is gone needs none
