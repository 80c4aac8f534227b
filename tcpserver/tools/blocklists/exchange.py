"""One question until its answer: which server is asked when. Each packet is sent from a port of its own."""

import _socket as socket  # see address/operands
import errno
import select

from tcpserver.tools.blocklists.answers import Answer, is_answer, is_truncated, question

PORT = 53
ROUNDS = (1, 3, 11, 45)  # seconds to wait for each server's answer, in each round through all servers (dns_transmit.c)
LONGEST_ANSWER = 4096  # bytes. Without EDNS a server sends at most 512 by UDP
LONGEST_STREAM = 65537  # by TCP, with the two bytes of the length
SCARCE = (  # this system's errors, which say nothing about a server
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EAGAIN,  # no port is free (Linux: inet_autobind)
)


class Stream:
    """The same question by TCP, because the answer was truncated."""

    __slots__ = ("link", "received", "server", "unsent")

    def __init__(self, server: str, asked: bytes) -> None:
        self.server = server
        self.link = socket.socket(family(server), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.link.connect_ex((server, PORT))
        self.unsent = len(asked).to_bytes(2, "big") + asked
        self.received = b""

    def proceed(self) -> bytes | None:
        """Write or read once. Return the answer when it is complete. Raises OSError."""
        if self.unsent:
            self.unsent = self.unsent[self.link.send(self.unsent) :]
            return None
        data = self.link.recv(LONGEST_STREAM - len(self.received))
        if not data:
            raise ConnectionError
        self.received += data
        length = int.from_bytes(self.received[:2], "big")
        complete = len(self.received) >= 2 + length and len(self.received) >= 2
        return self.received[2 : 2 + length] if complete else None


class Exchange:
    """A question that is being asked. `answer` is None until there is one; `has_failed` if there will be none.

    `lack` is this system's error because of which a server could not be asked.
    """

    __slots__ = (
        "answer",
        "asked",
        "due",
        "failed",
        "has_failed",
        "kind",
        "lack",
        "links",
        "name",
        "sent",
        "servers",
        "streams",
    )

    def __init__(self, name: str, kind: int, servers: list[str], now: float) -> None:
        self.name, self.kind, self.servers = name, kind, servers
        self.answer: Answer | None = None
        self.has_failed = False
        self.links: dict[int, tuple[socket.socket, bytes, str]] = {}  # UDP sockets, each with its question and server
        self.streams: dict[int, tuple[Stream, bytes]] = {}
        self.failed: set[str] = set()  # servers that have no answer, and are not asked again
        self.lack: OSError | None = None
        self.sent = 0
        self.due = now
        self.send(now)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.answer is not None or self.has_failed

    def send(self, now: float) -> None:
        """Ask the next server that has not failed. Earlier ones may still answer."""
        while self.servers[self.sent % len(self.servers)] in self.failed:
            self.sent += 1
        turn, place = divmod(self.sent, len(self.servers))
        if turn >= len(ROUNDS):
            return self.fail()
        self.sent += 1
        self.due = now + ROUNDS[turn]
        server, asked = self.servers[place], question(self.name, self.kind)
        try:
            link = socket.socket(family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return self.count_failure(server, now, error)
        try:
            link.connect((server, PORT))  # the kernel gives it a random port, and takes packets of this server alone
            link.send(asked)
        except OSError as error:
            link.close()
            return self.count_failure(server, now, error)
        self.links[link.fileno()] = link, asked, server
        return None

    def interests(self) -> list[tuple[int, int]]:
        """The descriptors to wait for, and for what."""
        found = [(descriptor, select.POLLIN) for descriptor in self.links]
        for descriptor, (stream, _) in self.streams.items():
            found.append((descriptor, select.POLLOUT if stream.unsent else select.POLLIN))
        return found

    def proceed(self, descriptor: int, now: float) -> None:
        """Act on a descriptor that is ready."""
        if descriptor in self.streams:
            self.read_stream(descriptor, now)
        elif descriptor in self.links:
            self.read_packet(descriptor, now)

    def read_packet(self, descriptor: int, now: float) -> None:
        """Take a packet. One that does not answer the question is ignored: anybody may have sent it."""
        link, asked, server = self.links[descriptor]
        try:
            data = link.recv(LONGEST_ANSWER)
        except BlockingIOError:
            return None
        except OSError as error:  # nobody listens there
            self.close_link(descriptor)
            return self.count_failure(server, now, error)
        if not is_answer(data, asked):
            return None
        self.close_link(descriptor)  # it may be the last descriptor; what follows opens a socket or a module's file
        if is_truncated(data):
            return self.ask_by_stream(server, asked, now)
        return self.take(data, server, now)

    def ask_by_stream(self, server: str, asked: bytes, now: float) -> None:
        """Ask by TCP."""
        try:
            stream = Stream(server, asked)
        except OSError as error:
            return self.count_failure(server, now, error)
        self.streams[stream.link.fileno()] = stream, asked
        return None

    def read_stream(self, descriptor: int, now: float) -> None:
        """Go on with a TCP connection."""
        stream, asked = self.streams[descriptor]
        try:
            data = stream.proceed()
        except BlockingIOError:
            return None
        except OSError as error:
            self.close_stream(descriptor)
            return self.count_failure(stream.server, now, error)
        if data is None:
            return None
        self.close_stream(descriptor)
        if is_answer(data, asked) and not is_truncated(data):
            return self.take(data, stream.server, now)
        return self.count_failure(stream.server, now)

    def take(self, data: bytes, server: str, now: float) -> None:
        """End with an answer, or ask the next server if this one has none."""
        try:
            answer = Answer(data, self.kind)
        except OSError as error:  # dnspython cannot be loaded
            return self.count_failure(server, now, error)
        if answer.is_failure:
            return self.count_failure(server, now)
        self.answer = answer
        return self.close()

    def count_failure(self, server: str, now: float, error: OSError | None = None) -> None:
        """Ask the next server at once, unless all have failed. One that was asked twice may fail twice.

        If this system lacks something, and a question is still open, the next server is asked when it is due.
        """
        if error and error.errno in SCARCE:
            self.lack = error
            if self.links or self.streams:
                return None
        if server in self.failed:
            return None
        self.failed.add(server)
        if self.failed.issuperset(self.servers):
            return self.fail()
        return self.send(now)

    def fail(self) -> None:
        """End without an answer."""
        self.has_failed = True
        self.close()

    def close(self) -> None:
        """Close all sockets."""
        for descriptor in list(self.links):
            self.close_link(descriptor)
        for descriptor in list(self.streams):
            self.close_stream(descriptor)

    def close_link(self, descriptor: int) -> None:
        """Close a UDP socket."""
        self.links.pop(descriptor)[0].close()

    def close_stream(self, descriptor: int) -> None:
        """Close a TCP connection."""
        self.streams.pop(descriptor)[0].link.close()


def family(address: str) -> int:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
