"""A policy service for tests, in threads of this process: it gives the test's answers, and records the questions."""

import socket
import threading
from collections.abc import Callable

from tests.kit.server import PATIENCE

Answer = Callable[["PolicyServer", socket.socket, dict[str, str]], None]


def says(*actions: str) -> Answer:
    """Return an answer for one question after the other; the last one stays."""
    remaining = list(actions)

    def answer(server: "PolicyServer", client: socket.socket, question: dict[str, str]) -> None:
        action = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        client.sendall(f"action={action}\n\n".encode())

    return answer


def sends(data: bytes) -> Answer:
    """Return an answer of these bytes, after which the connection stays open."""
    return lambda server, client, question: client.sendall(data)


def hangs(server: "PolicyServer", client: socket.socket, question: dict[str, str]) -> None:
    """Never answer."""


def closes(server: "PolicyServer", client: socket.socket, question: dict[str, str]) -> None:
    """Close the connection instead of answering."""
    client.shutdown(socket.SHUT_RDWR)


class PolicyServer:
    """A service on a free port of 127.0.0.1, or at a path."""

    def __init__(self, answer: Answer, path: str = "") -> None:
        self.answer = answer
        self.questions: list[dict[str, str]] = []
        self.connections = 0
        self.clients: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen(64)
        self.name = f"unix:{path}" if path else f"inet:127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> "PolicyServer":
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.listener.close()
        self.disconnect()

    def disconnect(self) -> None:
        """Close all connections, as a service does that restarts."""
        for client in self.clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self) -> None:
        threads = []
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                break
            self.connections += 1
            self.clients.append(client)
            threads.append(threading.Thread(target=self.serve, args=(client,)))
            threads[-1].start()
        self.disconnect()
        for thread in threads:
            thread.join(PATIENCE)

    def serve(self, client: socket.socket) -> None:
        """Answer the questions of one connection."""
        received = b""
        with client:
            while True:
                while b"\n\n" not in received:
                    try:
                        part = client.recv(65536)
                    except OSError:
                        return
                    if not part:
                        return
                    received += part
                text, _, received = received.partition(b"\n\n")
                lines = text.decode("ascii").split("\n")
                question = dict(line.split("=", 1) for line in lines)
                assert len(question) == len(lines)
                self.questions.append(question)
                try:
                    self.answer(self, client, question)
                except OSError:
                    return
