"""One question and its way to an answer: which server is asked when, each time from a port of its own."""

import _socket as socket  # see address/operands
import select

from tcpserver.tools.blocklists.answers import Answer, is_answer, question

PORT = 53
ROUNDS = (1, 3, 11, 45)  # seconds for the answer of a server, each time all were asked (dns_transmit.c)
LONGEST_ANSWER = 4096  # bytes. Without EDNS a server sends at most 512 by UDP
LONGEST_STREAM = 65537  # by TCP, with the two bytes of the length


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
    """A question that is being asked. `answer` is None until there is one; `has_failed` if there will be none."""

    __slots__ = (
        "answer",
        "asked",
        "due",
        "failed",
        "has_failed",
        "kind",
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
        self.links: dict[int, tuple[socket.socket, bytes, str]] = {}  # UDP sockets with what was asked of whom
        self.streams: dict[int, tuple[Stream, bytes]] = {}
        self.failed: set[str] = set()  # servers that have no answer, and are not asked again
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
        except OSError:
            return self.count_failure(server, now)
        try:
            link.connect((server, PORT))  # the kernel gives it a random port, and takes packets of this server alone
            link.send(asked)
        except OSError:
            link.close()
            return self.count_failure(server, now)
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
        """Take a packet. One that is no answer to what was asked is overlooked: anybody may have sent it."""
        link, asked, server = self.links[descriptor]
        try:
            data = link.recv(LONGEST_ANSWER)
        except BlockingIOError:
            return None
        except OSError:  # nobody listens there
            del self.links[descriptor]
            link.close()
            return self.count_failure(server, now)
        if not is_answer(data, asked):
            return None
        answer = Answer(data, self.kind)
        if not answer.is_truncated:
            return self.take(answer, server, now)
        try:
            stream = Stream(server, asked)
        except OSError:
            return self.count_failure(server, now)
        del self.links[descriptor]
        link.close()
        self.streams[stream.link.fileno()] = stream, asked
        return None

    def read_stream(self, descriptor: int, now: float) -> None:
        """Go on with a TCP connection."""
        stream, asked = self.streams[descriptor]
        try:
            data = stream.proceed()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data is None:
            return
        del self.streams[descriptor]
        stream.link.close()
        if is_answer(data, asked):
            self.take(Answer(data, self.kind), stream.server, now)
        else:
            self.count_failure(stream.server, now)

    def take(self, answer: Answer, server: str, now: float) -> None:
        """End with an answer, or ask the next server if this one has none."""
        if answer.is_failure or answer.is_truncated:
            return self.count_failure(server, now)
        self.answer = answer
        return self.close()

    def count_failure(self, server: str, now: float) -> None:
        """Ask the next server at once, unless all have failed. One that was asked twice may fail twice."""
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
        for link, _, _ in self.links.values():
            link.close()
        for stream, _ in self.streams.values():
            stream.link.close()
        self.links.clear()
        self.streams.clear()


def family(address: str) -> int:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
