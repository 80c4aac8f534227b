"""A TCP server for the tests of clients: reads what each client sends, and sends an answer."""

import socket
import threading
from collections.abc import Callable

from tests.kit.server import PATIENCE


class Answering:
    """A server in a thread. `ends` tells whether the bytes read are a whole request; `requests` are all of them."""

    def __init__(self, answer: bytes, ends: Callable[[bytes], bool], host: str = "127.0.0.1", port: int = 0) -> None:
        self.answer, self.ends = answer, ends
        self.requests: list[bytes] = []
        self.listener = socket.create_server((host, port), backlog=50)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> "Answering":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(PATIENCE)
                self.talk(client)

    def talk(self, client: socket.socket) -> None:
        request = b""
        while not self.ends(request):
            data = client.recv(65536)
            if not data:
                break
            request += data
        self.requests.append(request)
        client.sendall(self.answer)


class Silent:
    """An address that answers no connection: a listening socket whose queue is full."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(0)
        self.port: int = self.listener.getsockname()[1]
        self.fillers = [socket.socket() for _ in range(4)]
        for filler in self.fillers:
            filler.setblocking(False)
            filler.connect_ex((host, self.port))

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        for held in (self.listener, *self.fillers):
            held.close()
