"""The names of the two ends of a connection, asked of the system's resolver within a deadline.

The resolver cannot be interrupted, so a process of its own asks, and is killed when the time is over: the client is
then served without a name. What comes back is safe in an environment and as a rule's key.
"""

import _socket as socket  # see listen
import os
import select
import time
from _signal import SIGKILL  # type: ignore[import-not-found]  # the C half of signal: no enum, nothing to load

HOST_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")  # dns_domain_todot_cat()
NUMERIC = frozenset(b"0123456789.")
LONGEST_NAME = 255  # RFC 1035, 2.3.4
LOCAL, REMOTE = b"l", b"r"


class Names:
    """The answers; None for a name that is not known, does not hold, or did not come in time."""

    __slots__ = ("local", "remote")

    def __init__(self) -> None:
        self.local: bytes | None = None
        self.remote: bytes | None = None


def ask(local: bytes | None, remote: bytes | None, paranoid: bool, deadline: float) -> Names:
    """The names for the addresses that are not None, until `deadline` (time.monotonic()).

    With `paranoid` the remote name counts only if it leads back to the address (tcpserver -p).
    """
    answers, questions = os.pipe()
    try:
        pid = os.fork()
    except OSError:  # no process to ask with: no names, but the client is served
        os.close(answers)
        os.close(questions)
        return Names()
    if pid == 0:
        answer(questions, local, remote, paranoid)
        os._exit(0)
    os.close(questions)
    text = read_until(answers, deadline)
    os.close(answers)
    os.kill(pid, SIGKILL)  # it may sit in a resolver that waits for a dead server
    os.waitpid(pid, 0)
    return names_of(text)


def answer(pipe: int, local: bytes | None, remote: bytes | None, paranoid: bool) -> None:
    """The asking process: each answer goes out as soon as it is known, so that a later question cannot lose it."""
    if local is not None and (name := reverse(local)):
        os.write(pipe, LOCAL + name + b"\n")
    if remote is not None and (name := reverse(remote)) and (not paranoid or leads_to(name, remote)):
        os.write(pipe, REMOTE + name + b"\n")


def names_of(text: bytes) -> Names:
    """The names in what the asking process wrote; a line without its end does not count."""
    names = Names()
    for line in text.split(b"\n")[:-1]:
        if line.startswith(LOCAL):
            names.local = line[1:]
        else:
            names.remote = line[1:]
    return names


def read_until(pipe: int, deadline: float) -> bytes:
    """What comes through the pipe until its end or the deadline."""
    text = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (remaining := deadline - time.monotonic()) > 0 and poll.poll(remaining * 1000):
        part = os.read(pipe, 4096)
        if not part:
            break
        text += part
    return text


def reverse(ip: bytes) -> bytes | None:
    """The name for an address, as dns_domain_todot_cat() writes names; None if there is none or it is just a number."""
    try:
        name = socket.getnameinfo((ip.decode(), 0), socket.NI_NAMEREQD)[0]
    except (OSError, UnicodeError):
        return None
    return clean(os.fsencode(name))


def clean(name: bytes) -> bytes | None:
    """Lower case, no final dot, odd bytes as \\ooo; None for digits and dots, which would pass for an address."""
    name = name.lower().removesuffix(b".")
    if not name or len(name) > LONGEST_NAME or NUMERIC.issuperset(name):
        return None
    return b"".join(bytes([byte]) if byte in HOST_BYTES else b"\\%03o" % byte for byte in name)


def leads_to(name: bytes, ip: bytes) -> bool:
    """Does the name have this address?"""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(entry[4][0] == ip.decode() for entry in found)
