"""A connection to Dovecot's authentication server: Dovecot's auth protocol 1.x, as its clients speak it.

A process keeps one connection, also from one client to the next (--reuse), and opens another one after a restart of
Dovecot. Knows no SASL: exchange.py conducts a login.
"""

import _socket as socket
import os
from errno import EAGAIN
from select import POLLIN, POLLOUT
from time import monotonic, sleep

from qmail_smtpd.net.kept import key_of, set_apart
from qmail_smtpd.net.wire import ready
from tcprules.strerr import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

VERSION = b"VERSION\t1\t1\n"  # a later minor version adds commands that are not needed here
MAJOR = b"1"
LONGEST_LINE = 16384  # bytes: Dovecot's auth-client-interface.h, AUTH_CLIENT_MAX_LINE_LENGTH
MOST_LINES = 200  # of the handshake, or before the answer to a request
LATEST = 10.0  # seconds for connecting and the handshake
FULL_PAUSE = 0.01  # seconds between two attempts to enter the socket's full queue
LAST_NUMBER = 0x7FFFFFFF  # of a request; Dovecot's have 32 bits
ESCAPES = {b"1": b"\1", b"0": b"\0", b"t": b"\t", b"r": b"\r", b"l": b"\n"}


class Trouble(Exception):
    """Dovecot cannot be asked. `why`: one word for the log. `gone`: the connection was closed before an answer."""

    def __init__(self, why: bytes, gone: bool = False) -> None:
        super().__init__(why)
        self.why = b"socket:" + why
        self.gone = gone


class Connection:
    """One connection after its handshake. `mechanisms`: what Dovecot offers, each with its parameters."""

    __slots__ = ("arrived", "descriptor", "key", "mechanisms", "number", "open_request", "pid")

    def __init__(self, path: bytes, key: bytes, deadline: float) -> None:
        self.key = key
        self.pid = os.getpid()
        self.arrived = b""  # of the next line
        self.number = 0  # of the last request
        self.open_request = False  # whether that one has no final answer yet
        self.mechanisms: dict[bytes, list[bytes]] = {}
        self.descriptor = connect(path, deadline)
        try:
            self.send(VERSION + b"CPID\t%d\n" % self.pid, deadline)
            self.shake_hands(deadline)
        except BaseException:
            os.close(self.descriptor)
            raise

    def shake_hands(self, deadline: float) -> None:
        """Read Dovecot's half of the handshake, to DONE."""
        known = False
        for _ in range(MOST_LINES):
            command, *words = self.read_line(deadline)
            if command == b"VERSION":
                known = words[:1] == [MAJOR]
            elif command == b"MECH" and words:
                self.mechanisms[words[0].upper()] = words[1:]
            elif command == b"DONE":
                if not known:
                    raise Trouble(b"version")
                return
        raise Trouble(b"nonsense")

    def request(self, words: list[bytes], deadline: float) -> list[bytes]:
        """Begin a login: send AUTH with these words after its number, and return the answer as `answer` does."""
        self.cancel(deadline)
        self.number = self.number % LAST_NUMBER + 1
        self.open_request = True
        self.send(b"\t".join([b"AUTH", b"%d" % self.number, *map(escaped, words)]) + b"\n", deadline)
        return self.answer(deadline)

    def proceed(self, response: bytes, deadline: float) -> list[bytes]:
        """Send the client's response, in base64, and return the answer."""
        self.send(b"CONT\t%d\t%b\n" % (self.number, response), deadline)
        return self.answer(deadline)

    def answer(self, deadline: float) -> list[bytes]:
        """Return the words of the answer to the last request: OK, FAIL or CONT, then those after the number."""
        number = b"%d" % self.number
        for _ in range(MOST_LINES):
            words = self.read_line(deadline)
            if words[0] in (b"OK", b"FAIL", b"CONT") and words[1:2] == [number]:  # not to a request before it
                self.open_request = words[0] == b"CONT"
                return [words[0], *map(unescaped, words[2:])]
        raise Trouble(b"nonsense")

    def cancel(self, deadline: float) -> None:
        """End a request that has no final answer yet."""
        if self.open_request:
            self.open_request = False
            self.send(b"CANCEL\t%d\n" % self.number, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """Write everything."""
        view = memoryview(data)
        try:
            while view:
                if not ready(self.descriptor, POLLOUT, LATEST, deadline):
                    raise Trouble(b"timeout")
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            raise Trouble(word_of(error), gone=True) from error

    def read_line(self, deadline: float) -> list[bytes]:
        """Return the words of the next line."""
        while b"\n" not in self.arrived:
            if len(self.arrived) > LONGEST_LINE:
                raise Trouble(b"nonsense")
            if monotonic() >= deadline or not ready(self.descriptor, POLLIN, deadline - monotonic()):
                raise Trouble(b"timeout")
            self.read_once()
        line, _, self.arrived = self.arrived.partition(b"\n")
        return line.split(b"\t")

    def read_once(self) -> None:
        """Read what has arrived."""
        try:
            data = os.read(self.descriptor, LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError as error:
            raise Trouble(word_of(error), gone=True) from error
        if not data:
            raise Trouble(b"closed", gone=True)
        self.arrived += data

    def is_usable(self, key: bytes) -> bool:
        """Whether a login can begin here: Dovecot has not closed the connection. Late answers are dropped."""
        if self.key != key or self.pid != os.getpid():
            return False
        try:
            for _ in range(MOST_LINES):
                if not ready(self.descriptor, POLLIN, 0):
                    return True
                self.read_once()
                self.arrived = self.arrived.rpartition(b"\n")[2]
        except Trouble:
            pass
        return False


kept: list[Connection] = []  # at most one


def connection(path: bytes, deadline: float | None) -> Connection:
    """Return the kept connection, or a new one in its place. Raises Trouble."""
    try:
        key = key_of(path)
    except OSError as error:
        raise Trouble(word_of(error)) from error
    if kept:
        if kept[0].is_usable(key):
            return kept[0]
        drop()
    latest = monotonic() + LATEST
    made = Connection(path, key, latest if deadline is None else min(latest, deadline))
    kept.append(made)
    return made


def drop() -> None:
    """Close the connection: after trouble, or because the process may not keep it."""
    for old in kept:
        os.close(old.descriptor)
    kept.clear()


def connect(path: bytes, deadline: float) -> int:
    """Return the descriptor of a connected socket, which may stay open for the next client. Raises Trouble."""
    try:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as failure:
        raise Trouble(word_of(failure)) from failure
    try:
        while error := client.connect_ex(path):
            if error != EAGAIN or monotonic() >= deadline:  # EAGAIN: many others are connecting
                raise OSError(error, os.strerror(error))
            sleep(FULL_PAUSE)
        descriptor = set_apart(client.fileno())
        return os.dup(client.fileno()) if descriptor is None else descriptor
    except OSError as error:
        raise Trouble(word_of(error)) from error
    finally:
        client.close()


def word_of(error: OSError) -> bytes:
    """Return djb's text for the error, without spaces."""
    return (reason(error) if error.errno else str(error)).encode().replace(b" ", b"_")


def escaped(text: bytes) -> bytes:
    """Return a parameter without NUL, TAB, CR and LF: Dovecot's strescape.c."""
    for letter, byte in ESCAPES.items():
        text = text.replace(byte, b"\1" + letter)
    return text


def unescaped(text: bytes) -> bytes:
    """Undo `escaped`."""
    first, *parts = text.split(b"\1")
    return first + b"".join(ESCAPES.get(part[:1], part[:1]) + part[1:] for part in parts)


def refuse_nonsense() -> "NoReturn":
    """Give up a connection whose other end does not speak the protocol."""
    raise Trouble(b"nonsense")
