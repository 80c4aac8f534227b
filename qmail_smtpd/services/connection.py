"""A connection to a policy service: open it, send a question, read the action of the answer, within a time limit.

It is kept for the next question, also of the next client, where the process may keep descriptors.
"""

import _socket as socket
import os
from errno import EAGAIN, EINPROGRESS
from select import POLLIN, POLLOUT, poll
from time import monotonic, sleep

from qmail_smtpd.net.kept import FIRST_KEPT, key_of, set_apart
from qmail_smtpd.services.protocol import END, LONGEST_ANSWER, Failure, decode
from tcprules.strerr import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qmail_smtpd.services.listing import Service

LONGEST_IDLE = 300.0  # seconds: Postfix's smtpd_policy_service_max_idle. A firewall may have forgotten the connection
MOST_KEPT = 16  # connections of one process
FULL_PAUSE = 0.01  # seconds between two attempts to enter the full queue of a unix-domain socket


class Gone(Exception):
    """The service has closed a connection before it began to answer."""


class Connection:
    """One connection. `last_use`: on the monotonic clock."""

    __slots__ = ("descriptor", "last_use", "pid")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pid = os.getpid()
        self.last_use = monotonic()

    def ask(self, question: bytes, deadline: float) -> bytes:
        """Send the question and return the action of the answer. Raises Gone and Failure."""
        view = memoryview(question)
        try:
            while view:
                wait(self.descriptor, POLLOUT, deadline)
                view = view[os.write(self.descriptor, view) :]
        except OSError:  # the question is short: a connection that takes no byte of it after a poll is broken
            raise Gone from None
        return decode(self.read_answer(deadline))

    def read_answer(self, deadline: float) -> bytes:
        """Return the whole answer. Raises Gone if the service closes the connection before it, and Failure."""
        answer = b""
        while END not in answer:
            wait(self.descriptor, POLLIN, deadline)
            try:
                part = os.read(self.descriptor, LONGEST_ANSWER)
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                raise Failure(b"closed") if answer else Gone
            answer += part
            if len(answer) > LONGEST_ANSWER:
                raise Failure(b"too_long")
        if not answer.endswith(END) or answer.count(END) != 1:
            raise Failure(b"malformed")  # more than was asked for: the next answer would be that of another question
        self.last_use = monotonic()
        return answer

    def is_usable(self) -> bool:
        """Whether the next question may be asked here: the service has neither closed it nor sent anything since."""
        if self.pid != os.getpid() or monotonic() - self.last_use > LONGEST_IDLE:
            return False
        poller = poll()
        poller.register(self.descriptor, POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close the connection."""
        os.close(self.descriptor)


kept: dict[bytes, Connection] = {}  # by `place`


def ask(service: "Service", question: bytes, deadline: float) -> bytes:
    """Return the service's action. Raises Failure.

    A connection that was kept and proves to be closed is replaced by a new one, once. The question may then have
    reached the service twice.
    """
    key = place(service)
    connection = kept.pop(key, None)
    if connection is not None and not connection.is_usable():
        connection.close()
        connection = None
    if connection is not None:
        try:
            return ask_once(key, connection, question, deadline)
        except Gone:
            pass
    try:
        return ask_once(key, connect(service, deadline), question, deadline)
    except Gone:
        raise Failure(b"closed") from None


def place(service: "Service") -> bytes:
    """Return a key that identifies the service, also among those of other homes. Raises Failure."""
    try:
        return key_of(service.path) if service.path else service.name
    except OSError as error:
        raise failure_of(error) from error


def failure_of(error: OSError) -> Failure:
    """Return the failure for an error of the system."""
    return Failure(b"connect:" + reason(error).replace(" ", "_").encode())


def ask_once(key: bytes, connection: Connection, question: bytes, deadline: float) -> bytes:
    """Ask on this connection, and keep it if the answer is well-formed. Return the action. Raises Gone and Failure."""
    try:
        action = connection.ask(question, deadline)
    except BaseException:
        connection.close()  # an answer that comes too late must not be taken for that to the next question
        raise
    keep(key, connection)
    return action


def keep(key: bytes, connection: Connection) -> None:
    """Keep the connection for the next question, if that is possible. Otherwise close it."""
    if connection.descriptor < FIRST_KEPT:
        descriptor = set_apart(connection.descriptor)
        connection.close()
        if descriptor is None:
            return
        connection.descriptor = descriptor
    if len(kept) >= MOST_KEPT:
        kept.popitem()[1].close()
    kept[key] = connection


def connect(service: "Service", deadline: float) -> Connection:
    """Return a new connection. Raises Failure."""
    failure = Failure(b"no_address")
    for family, address in addresses(service, deadline):
        try:
            return Connection(open_socket(family, address, deadline))
        except OSError as error:
            failure = failure_of(error)
    raise failure


def addresses(service: "Service", deadline: float) -> "list[tuple[int, Any]]":
    """Return where the service listens: the family and the address of each socket to try. Raises Failure."""
    if service.path:
        return [(socket.AF_UNIX, service.path)]
    from qmail_smtpd.services.resolver import resolve

    return resolve(service.host, service.port, deadline)


def open_socket(family: int, address: "Any", deadline: float) -> int:
    """Return the descriptor of a connected socket. Raises OSError and Failure."""
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        while error := connection.connect_ex(address):
            if error == EINPROGRESS:
                wait(connection.fileno(), POLLOUT, deadline)
                error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not error:
                    break
            if error != EAGAIN:
                raise OSError(error, os.strerror(error))
            if monotonic() >= deadline:
                raise Failure(b"timeout")
            sleep(FULL_PAUSE)
        return connection.detach()
    except BaseException:
        connection.close()
        raise


def wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until the descriptor is ready. Raises Failure at the deadline."""
    poller = poll()
    poller.register(descriptor, event)
    remaining = deadline - monotonic()
    if remaining <= 0 or not poller.poll(int(remaining * 1000) + 1):
        raise Failure(b"timeout")
