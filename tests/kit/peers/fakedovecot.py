"""A stand-in for Dovecot's auth server that answers as a test says: also late, wrongly, or not at all."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tXOAUTH2\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"
Answer = Callable[[list[bytes]], bytes | None]


def accept(words: list[bytes]) -> bytes:
    """Log in as Joe@Example.Org, in this case of letters."""
    return b"OK\t%b\tuser=Joe@Example.Org\n" % words[1]


class FakeDovecot:
    """A server on `path`, within a with statement. `answer` gets the words of AUTH or CONT; None closes the connection.

    `requests` are the lines of all clients, `clients` the number of connections so far.
    """

    def __init__(self, folder: Path, answer: Answer = accept, greeting: bytes | None = GREETING) -> None:
        self.path = folder / "auth"
        self.answer, self.greeting = answer, greeting
        self.requests: list[bytes] = []
        self.open: list[socket.socket] = []
        self.clients = 0
        self.start()

    def start(self) -> None:
        """Listen, also again after `stop`."""
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.path))
        self.path.chmod(0o666)
        self.listener.listen(50)
        threading.Thread(target=self.accept_all, args=(self.listener,), daemon=True).start()

    def stop(self) -> None:
        """Close all connections, and listen no more."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in self.open:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its thread has closed it
        self.open.clear()

    def __enter__(self) -> "FakeDovecot":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.open.append(client)
            self.clients += 1
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        try:
            self.converse(client)
        except OSError:
            pass  # the client is gone

    def converse(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            if self.greeting is not None:
                client.sendall(self.greeting)
            for line in lines:
                self.requests.append(line)
                words = line.rstrip(b"\n").split(b"\t")
                if words[0] in (b"AUTH", b"CONT"):
                    reply = self.answer(words)
                    if reply is None:
                        return
                    client.sendall(reply)
