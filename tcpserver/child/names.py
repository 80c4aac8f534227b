"""The host names of the two ends of a connection, from the system's resolver, within a deadline.

The resolver cannot be interrupted. A thread of the connection's own process asks. If it has no answer in time, the
process goes on without one, and execs its program, which ends the thread (connection.py). A name that is returned is
safe in an environment and as a rule's key.
"""

import _socket as socket  # see listen
import _thread
import os
import time

HOST_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")  # dns_domain_todot_cat()
DIGITS = frozenset(b"0123456789.")
THREAD_STACK = 512 * 1024  # bytes. By default it is the stack limit, which softlimit -m sets to the limit of all memory
INTERNAL = (-1, socket.EAI_MEMORY, socket.EAI_SYSTEM)  # netdb.h, NETDB_INTERNAL; the resolver has not asked
LONGEST_NAME = 255  # RFC 1035, 2.3.4


class Unasked(Exception):
    """The system has no memory, thread, socket or port for the question: nothing is known about the answer."""


class Names:
    """The answers; None for a name that is not known, does not lead back, or did not come in time."""

    __slots__ = ("complete", "late", "local", "remote")

    def __init__(self) -> None:
        self.local: bytes | None = None
        self.remote: bytes | None = None
        self.complete = False  # whether every question was asked, and has its answer
        self.late = False  # whether a thread is still in the resolver


def ask(local: bytes | None, remote: bytes | None, paranoid: bool, deadline: float) -> Names:
    """The names for the addresses that are not None, until `deadline` (time.monotonic()).

    With `paranoid` the remote name counts only if it leads back to the address (tcpserver -p). Raises Unasked.
    """
    found, finished = Names(), _thread.allocate_lock()
    finished.acquire()
    try:
        _thread.stack_size(THREAD_STACK)
        _thread.start_new_thread(answer, (found, finished, local, remote, paranoid))
    except (RuntimeError, MemoryError) as error:  # the first: no thread
        raise Unasked from error
    answers = Names()
    answers.late = not finished.acquire(timeout=max(0.0, deadline - time.monotonic()))
    if not answers.late and not found.complete:
        raise Unasked
    answers.local, answers.remote = found.local, found.remote
    return answers


def answer(found: Names, finished: _thread.LockType, local: bytes | None, remote: bytes | None, paranoid: bool) -> None:
    """Ask, in a thread of its own. Each answer is stored as soon as it is known: a later question cannot lose it."""
    try:
        if local is not None:
            found.local = reverse(local)
        name = None if remote is None else reverse(remote)
        if remote is not None and name is not None and (not paranoid or leads_to(name, remote)):
            found.remote = name
        found.complete = True
    except (Unasked, MemoryError):
        pass  # ask() finds that the answers are not complete
    finally:
        finished.release()


def warm_up() -> None:
    """Entry point of the parent: load what the resolver loads at its first question, so that no child has to.

    Only where /etc/hosts answers: the parent never waits for a name server.
    """
    if sources("/etc/nsswitch.conf") == [b"files"] and any(b"127.0.0.1" in line[:1] for line in words("/etc/hosts")):
        try:
            reverse(b"127.0.0.1")
        except Unasked:
            pass


def sources(path: str) -> list[bytes]:
    """The source that the resolver asks first for hosts (nsswitch.conf(5))."""
    return [line[1] for line in words(path) if line[0] == b"hosts:" and len(line) > 1]


def words(path: str) -> list[list[bytes]]:
    """The words of each line that is not empty; no lines for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return [line.split() for line in file if line.strip()]
    except OSError:
        return []


def reverse(ip: bytes) -> bytes | None:
    """The name for an address, as dns_domain_todot_cat() writes names; None if there is none or it is just a number.

    Raises Unasked.
    """
    try:  # not getnameinfo, which keeps the GIL while it waits (Python 3.11.2); bytes: see listen.bound
        name = socket.gethostbyaddr(ip)[0]  # type: ignore[arg-type]  # typeshed knows only str
    except OSError as error:
        check_asked(error)
        return None
    except UnicodeError:
        return None
    return clean(os.fsencode(name))


def check_asked(error: OSError) -> None:
    """Raise Unasked unless the error means "no such name". glibc may report a lack of sockets in the same way."""
    if not isinstance(error, socket.herror | socket.gaierror) or error.errno in INTERNAL:
        raise Unasked from error
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as cause:
        raise Unasked from cause


def clean(name: bytes) -> bytes | None:
    """Lower case, no final dot, odd bytes as \\ooo; None for what would pass for an address."""
    name = name.lower().removesuffix(b".")
    if not name or len(name) > LONGEST_NAME or is_number(name):
        return None
    return b"".join(bytes([byte]) if byte in HOST_BYTES else b"\\%03o" % byte for byte in name)


def is_number(name: bytes) -> bool:
    """Whether a forward look-up would take it for an address (`0x7f.1` too), and so would confirm it."""
    if DIGITS.issuperset(name):
        return True
    try:
        socket.inet_aton(name.decode("latin-1"))
    except (OSError, UnicodeError):
        return False
    return True


def leads_to(name: bytes, ip: bytes) -> bool:
    """Whether the name has this address. Raises Unasked."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        check_asked(error)
        return False
    except UnicodeError:
        return False
    return any(entry[4][0] == ip.decode() for entry in found)
