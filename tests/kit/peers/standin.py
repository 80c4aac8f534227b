"""An SMTP server for one test, on loopback, in threads, whose replies a test can replace.

By default it is well-behaved: it accepts mail for example.com, and refuses everything else.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Sequence

PATIENCE = 30.0  # seconds; never reached if all is well
LISTED = b"@example.com"
END = b"\r\n.\r\n"
TCP_ESTABLISHED = 1  # tcp(7), netinet/tcp.h


class Visit:
    """One connection, and what the client has sent so far."""

    def __init__(self, number: int) -> None:
        self.number = number  # from 1
        self.commands: list[bytes] = []
        self.mail: bytes | None = None
        self.recipients: list[bytes] = []
        self.reading = False  # whether a message is being read


def behave(visit: Visit, line: bytes) -> bytes:
    """Return the replies of the well-behaved server, with their line ends."""
    verb = line[:4].upper()
    if verb in (b"HELO", b"EHLO"):
        visit.mail = None
        return b"250-standin.example\r\n250 PIPELINING\r\n"
    if verb == b"MAIL":
        visit.mail = line
        visit.recipients = []
        return b"250 ok\r\n"
    if verb == b"RCPT":
        return recipient(visit, line)
    if verb == b"RSET":
        visit.mail = None
        return b"250 flushed\r\n"
    if verb == b"DATA" and visit.recipients:
        visit.reading = True
        return b"354 go ahead\r\n"
    return {b"NOOP": b"250 ok\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"502 unimplemented\r\n")


def recipient(visit: Visit, line: bytes) -> bytes:
    """Reply to RCPT: accept only a plain address at the listed domain."""
    if visit.mail is None:
        return b"503 MAIL first\r\n"
    address = line[len(b"RCPT TO:<") : -1]
    if line[:9].upper() != b"RCPT TO:<" or not address.endswith(LISTED) or set(b'@%!:\0\r\t,"') & set(address[:-12]):
        return b"553 not here\r\n"
    visit.recipients.append(address)
    return b"250 ok\r\n"


Answer = Callable[[Visit, bytes], bytes | None]


def is_open(connection: socket.socket) -> bool:
    """Whether the client has not closed it: its thread here may not have noticed yet. False under TLS."""
    is_plain = connection.fileno() >= 0
    return is_plain and connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED


class StandIn:
    """A server that runs within a with statement. A reply of None closes the connection."""

    def __init__(
        self,
        answer: Answer = behave,
        greeting: bytes | Callable[[Visit], bytes] = b"220 standin.example ESMTP\r\n",
        endings: Sequence[bytes] = (END,),
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        discards_early: bool = True,
    ) -> None:
        self.tls, self.discards_early = tls, discards_early  # whether STARTTLS discards early input
        self.answer, self.greeting, self.endings = answer, greeting, endings
        self.listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.visits: list[Visit] = []
        self.messages: list[tuple[list[bytes], bytes]] = []
        self.connections: set[socket.socket] = set()
        self.most_at_once = 0  # connections that their clients had not closed
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> "StandIn":
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in (self.thread, *self.threads):
            thread.join(PATIENCE)

    @property
    def commands(self) -> list[bytes]:
        """Everything that all clients have sent."""
        return [line for visit in self.visits for line in visit.commands]

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            with self.lock:
                visit = Visit(len(self.visits) + 1)
                self.visits.append(visit)
                self.connections.add(connection)
                self.most_at_once = max(self.most_at_once, sum(map(is_open, self.connections)))
            thread = threading.Thread(target=self.serve, args=(connection, visit))
            self.threads.append(thread)
            thread.start()

    def serve(self, connection: socket.socket, visit: Visit) -> None:
        with connection:
            try:
                self.converse(connection, visit)
            except OSError:
                pass
            with self.lock:
                self.connections.remove(connection)

    def converse(self, connection: socket.socket, visit: Visit) -> None:
        connection.sendall(self.greeting(visit) if callable(self.greeting) else self.greeting)
        self.talk(connection, visit, b"")

    def talk(self, connection: socket.socket, visit: Visit, buffer: bytes) -> None:
        while True:
            text, buffer, complete = self.take(visit, buffer)
            if not complete:
                part = connection.recv(65536)
                if not part:
                    return
                buffer += part
                continue
            answer = self.answer_to(visit, text)
            if answer is None:
                return
            connection.sendall(answer)
            if self.tls and text == b"STARTTLS":
                with self.tls.wrap_socket(connection, server_side=True) as inner:
                    self.talk(inner, visit, b"" if self.discards_early else buffer)
                return
            if text[:4].upper() == b"QUIT" and not visit.reading:
                return

    def take(self, visit: Visit, buffer: bytes) -> tuple[bytes, bytes, bool]:
        """Return the next command or the whole message, the remaining bytes, and whether it is complete."""
        ends = self.endings if visit.reading else (b"\n",)
        found = [(buffer.find(end), end) for end in ends if end in buffer]
        if not found:
            return b"", buffer, False
        at, end = min(found)
        return buffer[:at].removesuffix(b"\r"), buffer[at + len(end) :], True

    def answer_to(self, visit: Visit, text: bytes) -> bytes | None:
        if visit.reading:
            visit.reading = False
            self.messages.append((visit.recipients, text))
            return b"250 queued\r\n"
        visit.commands.append(text)
        if self.tls and text == b"STARTTLS":
            return b"220 ready\r\n"
        return self.answer(visit, text)
