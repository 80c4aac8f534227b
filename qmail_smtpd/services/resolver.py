"""Find the addresses of a policy service's host, within a time limit."""

import _socket as socket
import _thread
from time import monotonic

from qmail_smtpd.services.protocol import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Addresses = list[tuple[int, Any]]

MOST_ADDRESSES = 8


def resolve(host: bytes, port: int, deadline: float) -> "Addresses":
    """Return the family and the socket address of each of the host's addresses, in the resolver's order.

    An address needs no resolver. Raises Failure.
    """
    try:
        return look_up(host, port, socket.AI_NUMERICHOST)
    except OSError:
        return look_up_in_time(host, port, deadline)


def look_up(host: bytes, port: int, flags: int) -> "Addresses":
    """Ask the system. Raises OSError."""
    found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags)
    return [(family, address) for family, _, _, _, address in found[:MOST_ADDRESSES]]


def look_up_in_time(host: bytes, port: int, deadline: float) -> "Addresses":
    """Ask the resolver in a thread of its own, because its time limits are longer than ours. Raises Failure."""
    found: Addresses = []
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            found.extend(look_up(host, port, 0))
        except OSError:
            pass
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # a limit of processes or memory
        raise Failure(b"no_thread") from None
    if not done.acquire(timeout=max(0.0, deadline - monotonic())):
        raise Failure(b"timeout")
    if not found:
        raise Failure(b"no_address")
    return found
