"""The connection to Redis: kept by its process from one client to the next, and given up after any error.

A question is answered within the time-out, or fails. After a time-out the server is left alone for a second.
"""

import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.connection import Connection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.redisline import Line, packed, words
from qmail_smtpd.relay.redisscripts import WARNED, Script
from qmail_smtpd.relay.redissockets import TcpConnection, TlsConnection, UnixConnection
from qmail_smtpd.relay.redistarget import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_UNREAD = 16  # commands of 1 kB: a server that reads nothing does not hold up the next one
PAUSE = 1.0  # seconds after a time-out in which nothing is asked: a session has many recipients
DAY = b"86400"  # seconds between two warnings about the same server, by all hosts together
NO_EVICTION = b"noeviction"


class Client:
    """A server, or what a Sentinel says is the master. `warnings` are lines for the log."""

    def __init__(self, store: bytes, timeout: float) -> None:
        try:
            self.target = Target(store)
        except ValueError as error:
            raise StoreError(b"RELAY_STORE is not valid: ", str(error).encode()) from None
        self.timeout = timeout
        self.connection: Any = None
        self.line: Line | None = None  # the same connection
        self.pid = 0
        self.failure = b""
        self.resume = 0.0
        self.warnings: list[bytes] = []
        # In tcpserver's parent it is made for all children, each of which saves 1 ms with it.
        self.unused: Any = None if self.target.service else self.make(monotonic() + timeout)

    def run(self, script: Script, keys: "Sequence[bytes]", *arguments: bytes) -> Any:
        """Run a script. Raise StoreError."""
        numbered = (b"%d" % len(keys), *keys, *arguments)
        return self.run_words(script, len(numbered), words(*numbered))

    def run_words(self, script: Script, count: int, numbered: bytes) -> Any:
        """Run a script with so many words, as they are sent: the number of keys, the keys, the arguments.

        Raise StoreError.
        """
        head = b"*%d\r\n" % (count + 2)
        try:
            return self.answer(head + script.by_name + numbered)
        except NoScriptError:
            return self.answer(head + script.by_text + numbered)

    def run_without_answer(self, script: Script, keys: "Sequence[bytes]", *arguments: bytes) -> None:
        """Run a script without waiting for its answer, which is read with that of the next command.

        Raise StoreError. An error of the server is logged then.
        """
        # EVAL, because nobody waits for an answer such as NOSCRIPT
        numbered = (b"%d" % len(keys), *keys, *arguments)
        command = b"*%d\r\n" % (len(numbered) + 2) + script.by_text + words(*numbered)
        line = self.kept()
        if line is not None and len(line.unread) < MOST_UNREAD:
            try:
                line.send(command)
                return
            except TimeoutError as error:  # part of it may have been sent
                self.close()
                raise self.failed(error) from None
            except OSError:
                line.unread.pop()  # answer() finds the connection closed, and sends it again on a new one
        self.answer(command)

    def ask(self, *command: bytes) -> Any:
        """Return the answer to a command. Raise StoreError."""
        return self.answer(packed(*command))

    def answer(self, command: bytes) -> Any:
        """Return the answer to a packed command. Raise StoreError, and NoScriptError.

        A connection that was kept may be closed, or that of a master that has become a replica: then the commands
        without an answer are sent again, once, on a new one.
        """
        if monotonic() < self.resume:
            raise StoreError(self.failure)
        deadline = monotonic() + self.timeout
        line = self.kept()
        unread: list[bytes] = []
        try:
            if line is not None:
                if line.seconds != self.timeout:
                    line.limit(self.timeout)  # its first command had the time that was left after connecting
                try:
                    return self.exchange(line, command)
                except (NoScriptError, TimeoutError):
                    raise
                except (RedisError, OSError):
                    unread = line.unread[:-1]
                    self.close()
            line = self.connect(deadline)
            for missed in unread:
                line.send(missed)
            return self.exchange(line, command)
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            self.close()
            raise self.failed(error) from None

    def kept(self) -> Line | None:
        """Return the connection that this process has kept."""
        return self.line if self.pid == os.getpid() else None

    def exchange(self, line: Line, command: bytes) -> Any:
        """Send a packed command. Return its answer, after those that are still unread. Raise RedisError and OSError."""
        line.send(command)
        while len(line.unread) > 1:
            missed = line.read()
            if isinstance(missed, ResponseError):
                self.warnings.append(
                    b"a failed login or an unknown recipient is not counted: " + self.described(str(missed))
                )
        answer = line.read()
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def failed(self, error: Exception) -> StoreError:
        """Return the exception to raise for an error of the server or the connection."""
        text = "timed out" if isinstance(error, RedisTimeout | TimeoutError) else str(error) or type(error).__name__
        self.failure = self.described(text)
        if text == "timed out":
            self.resume = monotonic() + PAUSE
        return StoreError(self.failure)

    def described(self, text: str) -> bytes:
        """Return the line for the log about an error."""
        return b"unable to use %b: %b" % (self.target.name.encode(), readable(text))

    def connect(self, deadline: float) -> Line:
        """Connect to the server, for commands. Raise RedisError and OSError."""
        connection, self.unused = self.unused, None
        if connection is None:
            connection = self.make(deadline)
        connection.connect()
        self.connection, self.pid = connection, os.getpid()
        line = Line(connection._sock, time_left(deadline))
        self.look_for_eviction(line)
        self.line = line
        return line

    def make(self, deadline: float) -> Any:
        """Return a connection to be opened. Raise RedisError and OSError, but only with Sentinels."""
        target = self.target
        kind: Any
        place: dict[str, Any]
        if target.path:
            kind, place = UnixConnection, {"path": target.path}
        else:
            host, port = self.find_master(deadline) if target.service else target.addresses[0]
            kind, place = TcpConnection, {"host": host, "port": port}
        if target.tls:
            kind, place = TlsConnection, {**place, "ssl_ca_certs": target.ca or None}
        return kind(**place, **self.options(deadline))

    def options(self, deadline: float) -> dict[str, Any]:
        """Return the arguments of every connection."""
        remaining = time_left(deadline)
        return {
            "db": self.target.database,
            "username": self.target.user or None,
            "password": self.target.password or None,
            "socket_timeout": remaining,
            "socket_connect_timeout": remaining,
            "protocol": 2,
            "driver_info": None,  # saves two questions
        }

    def find_master(self, deadline: float) -> tuple[str, int]:
        """Return the master's address, as the first Sentinel that answers says. Raise RedisError and OSError."""
        failure: Exception = RedisError(f"no sentinel knows {self.target.service}")
        service = self.target.service.encode()
        for number, (host, port) in enumerate(self.target.addresses):
            share = (deadline - monotonic()) / (len(self.target.addresses) - number + 1)
            timeout = max(share, 0.01)
            kind: Any = Connection
            sentinel = kind(
                host=host,
                port=port,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                protocol=2,
                driver_info=None,
            )
            try:
                sentinel.connect()
                line = Line(sentinel._sock, timeout)
                found = self.exchange(line, packed(b"SENTINEL", b"get-master-addr-by-name", service))
                if found:
                    return found[0].decode(), int(found[1])
            except (RedisError, OSError) as error:
                failure = error
            finally:
                sentinel.disconnect()
        raise failure

    def look_for_eviction(self, line: Line) -> None:
        """Warn if the server may remove keys before they expire: once a day, whichever host asks first."""
        try:
            text: bytes = self.exchange(line, packed(b"INFO", b"memory"))
            memory = dict(entry.partition(b":")[::2] for entry in text.split(b"\r\n"))
            policy = memory.get(b"maxmemory_policy", NO_EVICTION)
            if memory.get(b"maxmemory", b"0") == b"0" or policy == NO_EVICTION:
                return
            if self.exchange(line, packed(b"SET", WARNED, b"1", b"NX", b"EX", DAY)):
                name = self.target.name.encode()
                self.warnings.append(
                    b"%b may remove logins and counts: maxmemory-policy is %b" % (name, escaped(policy))
                )
        except ReadOnlyError:
            raise
        except ResponseError:
            pass  # INFO is not permitted to this user

    def close(self) -> None:
        """Close the connection, unless it is that of another process."""
        connection, self.connection, self.line = self.connection, None, None
        if connection is not None and self.pid == os.getpid():
            connection.disconnect()


def time_left(deadline: float) -> float:
    """Return the seconds that are left for a system call: never none, which would mean not to wait at all."""
    return max(deadline - monotonic(), 0.01)


def readable(text: str) -> bytes:
    """Return an error's text for one line of the log."""
    return b" ".join(escaped(word) for word in text.encode("ascii", "backslashreplace").split())


clients: dict[tuple[bytes, float], Client] = {}


def client_for(store: bytes, timeout: float) -> Client:
    """Return this process's client of a store. Raise StoreError."""
    key = store, timeout
    if key not in clients:
        clients[key] = Client(store, timeout)
    return clients[key]
